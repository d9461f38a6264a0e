"""Pictures of the docs: which keys a query sees, from the real selection; buckets by position."""

from pathlib import Path

from reformer.ops.spec import Octaves
from reformer.report.attention import KINDS, draw_attention
from reformer.report.chart import Line, line_chart

DOCS = Path(__file__).parents[1] / "docs"


def octaves() -> str:
    """How many buckets there are at a position, and how many tokens in each."""
    rule = Octaves(window=32)
    places = [round(16 * 2 ** (i / 16)) for i in range(16 * 12 + 1)]
    buckets = [1 << rule.octave_of(t) for t in places]
    tokens = [t / n for t, n in zip(places, buckets, strict=True)]
    lines = [Line("buckets", places, buckets), Line("tokens of a bucket", places, tokens, 1)]
    return line_chart("octaves", lines, "position of the query", log_x=True, log_y=True, legend=True, alone=True)


if __name__ == "__main__":
    for kind in KINDS:
        (DOCS / f"attention_{kind}.svg").write_text(draw_attention(kind), encoding="utf-8")
    (DOCS / "octaves.svg").write_text(octaves(), encoding="utf-8")
