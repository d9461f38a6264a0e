"""The loss against the tokens of context: whether a longer context helps."""

from collections.abc import Mapping
from pathlib import Path

from reformer.errors import not_written
from reformer.inference.evaluate import Evaluation


def plot_positions(results: Mapping[str, Evaluation], path: Path) -> None:
    """Draw a line for each model, a dot for each octave of context, to a file whose suffix says of what kind.

    Raises as `not_written` says.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for name, result in results.items():
        octaves = sorted(result.positions)
        context = [2 ** (k + 0.5) for k in octaves]
        axes.plot(context, [result.positions[k].loss for k in octaves], marker="o", markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    axes.set_xlabel("tokens of context")
    axes.set_ylabel("loss, nats a token")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(results) > 1:
        axes.legend(frameon=False)
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, dpi=150, format=path.suffix.removeprefix(".") or "png")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise not_written(error, f"plot={path} cannot be written ({error.strerror}); choose another place") from None
    finally:
        plt.close(figure)
