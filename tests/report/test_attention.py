"""Pictures show what the operations select."""

from pathlib import Path

import pytest
import torch

from reformer.ops.attention import lsh_attention
from reformer.report.attention import KINDS, attention_weights, plot_attention, sample_text


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


def test_pictures_are_drawn(tmp_path: Path) -> None:
    for kind in KINDS:
        plot_attention(kind, tmp_path / f"{kind}.png", length=40)
        assert (tmp_path / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="kind='other'"):
        attention_weights("other", torch.eye(3))
