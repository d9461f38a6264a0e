"""Pictures show what the operations select."""

import math
from xml.etree import ElementTree

import pytest
import torch

from reformer.ops.attention import lsh_attention
from reformer.report.attention import KINDS, TITLES, attention_weights, draw_attention, sample_text
from reformer.report.chart import Line, line_chart, number


@pytest.mark.parametrize("causal", [True, False])
def test_weights_are_those_of_the_rules(causal: bool) -> None:
    q, topic = sample_text(60, 4)
    places = torch.arange(60)
    full, local, lsh = (attention_weights(kind, q, causal=causal) for kind in ("full", "local", "lsh"))
    for weights in (full, local, lsh):
        offered = torch.ones(60)
        offered[0] = not (causal and weights is lsh)  # the first token sees nothing there
        assert torch.allclose(weights.sum(1), offered)
    behind = places[:, None] - places
    allowed = behind >= 0 if causal else behind > -60
    assert torch.equal(full > 0, allowed)
    assert torch.equal(local > 0, allowed & (behind.abs() < 8))
    vectors, values = q[None, None], torch.eye(60)[None, None]
    options = {"num_hashes": 2, "window": 8, "causal": causal, "seed": 0, "successor_values": False}
    wanted = lsh_attention(vectors, values, backend="plain", **options)
    assert torch.allclose(wanted[0, 0], lsh, atol=1e-5)
    late = places >= 30
    same = (topic[:, None] == topic) & (lsh > 0)
    assert same[late].sum() > 0.5 * (lsh > 0)[late].sum()  # of four topics, one in four by chance


def test_pictures_are_drawn() -> None:
    for kind in KINDS:
        picture = ElementTree.fromstring(draw_attention(kind, length=40))
        squares = "".join(path.attrib["d"] for path in picture.iter("{http://www.w3.org/2000/svg}path"))
        assert squares.count("h3v3h-3") >= 40
        assert TITLES[kind] in picture.attrib["aria-label"]
    with pytest.raises(ValueError, match="kind='other'"):
        attention_weights("other", torch.eye(3))


def test_charts_are_svg_whatever_the_numbers_are() -> None:
    lines = [
        Line("<a>", [1, 2, 3], [math.nan, 1e30, -2.0], 0, True),
        Line("b&", [0, 4], [5, 5], 9, errors=[0.5, math.inf]),
        Line("none", [], []),
    ]
    for log_x in (False, True):
        for some in (lines, lines[1:2], lines[2:], [Line("one", [7], [0.1])]):
            chart = line_chart('"<t>"', some, "x & y", log_x=log_x, legend=True, alone=True)
            texts = " ".join(ElementTree.fromstring(chart).itertext())
            assert '"<t>"' in texts
            assert all(line.name in texts for line in some)
            assert "nan" not in chart.lower().replace("<title>", "")


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.05, "0.05"), (1234, "1,234"), (25000, "25k"), (3e6, "3M"), (-2e9, "-2G")]
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown
