"""The pictures of docs/models.md: which keys a query sees, drawn from the real selection."""

from pathlib import Path

from reformer.report.attention import KINDS, plot_attention

if __name__ == "__main__":
    for kind in KINDS:
        plot_attention(kind, Path(__file__).parents[1] / "docs" / f"attention_{kind}.png")
