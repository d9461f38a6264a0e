"""The pictures of docs/models.md: which keys a query sees, drawn from the real selection."""

from pathlib import Path

from reformer.report.attention import KINDS, draw_attention

if __name__ == "__main__":
    for kind in KINDS:
        path = Path(__file__).parents[1] / "docs" / f"attention_{kind}.svg"
        path.write_text(draw_attention(kind), encoding="utf-8")
