"""The pictures of `docs/worth.md`, from what the scripts of this folder measured.

python -m worth.plots
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from machine import RESULTS
from matplotlib import pyplot as plt

from worth.tables import SIZE, rows_of


def language(axes: Any) -> None:
    """Bits by steps, of the size with most runs."""
    rows = [row for row in rows_of("language") if row["seed"] == 0]
    sizes = [tuple(row[name] for name in SIZE) for row in rows]
    most = max(sizes, key=sizes.count)
    best: dict[str, Any] = {}
    for row, size in zip(rows, sizes, strict=True):
        end = str(row["steps"])
        if size == most and row["bits"][end] < best.get(row["variant"], row)["bits"][end] + 1e-9:
            best[row["variant"]] = row
    for variant, row in sorted(best.items(), key=lambda item: item[1]["bits"][str(item[1]["steps"])]):
        axes.plot([int(step) for step in row["bits"]], list(row["bits"].values()), marker=".", label=variant)
    corpus, layers, width, length, _ = most
    axes.set(xlabel="steps", ylabel="bits per byte", title=f"{corpus}, {layers} layers of {width}, {length:,} tokens")


def context(axes: Any) -> None:
    """Bits by what stands in front, on code."""
    rows = [row for row in rows_of("context") if row["corpus"] == "code"]
    for reader in dict.fromkeys(row["reader"] for row in rows):
        own = sorted((row for row in rows if row["reader"] == reader), key=lambda row: row["context"])
        errors = [row["standard error"] for row in own]
        axes.errorbar([row["context"] for row in own], [row["bits"] for row in own], errors, capsize=2, label=reader)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="bytes in front", ylabel="bits per byte", title="the same 64 blocks of unseen source code")


def induction(axes: Any) -> None:
    """Accuracy by length, trained at 256."""
    for row in rows_of("induction"):
        found = row["lengths"]
        label = f"{row['task']}, {row['variant']}"
        axes.plot([one["length"] for one in found], [one["accuracy"] for one in found], marker=".", label=label)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="length", ylabel="accuracy", title="induction, trained at 256 tokens", ylim=(-0.02, 1.02))


def recall(axes: Any) -> None:
    """Accuracy by size."""
    for row in rows_of("recall"):
        sizes = [f"{one['length']:,}\n{one['pairs']:,}" for one in row["sizes"]]
        accuracies = [one["accuracy"] for one in row["sizes"]]
        axes.plot(sizes, accuracies, marker=".", label=f"{row['variant']}, width {row['width']}")
    axes.set(xlabel="length and pairs", ylabel="accuracy", title="associative recall", ylim=(-0.02, 1.02))


def duplication(axes: Any) -> None:
    """Percent by how it is evaluated, beside the paper's."""
    from worth.duplication import PAPER, ROUNDS

    rows = [row for row in rows_of("duplication") if (row["rule"], row["values"]) == ("bucket", "successor")]
    for i, trained in enumerate(dict.fromkeys(row["trained"] for row in rows)):
        own = [row["evaluated"] for row in rows if row["trained"] == trained]
        means = [sum(one[how] for one in own) / len(own) for how in ROUNDS]
        axes.plot(list(ROUNDS), means, marker=".", color=f"C{i}", label=f"trained with {trained}")
        axes.plot(list(ROUNDS), PAPER[trained], ":", color=f"C{i}", label=f"the paper's, {trained}")
    axes.set(xlabel="evaluated with", ylabel="percent", title="duplication, table 2")


DRAWN: dict[str, Callable[[Any], None]] = {
    one.__name__: one for one in (language, context, induction, recall, duplication)
}


def draw(claim: str, folder: Path) -> Path | None:
    """The picture of a claim as PNG, if something was measured."""
    if not rows_of(claim):
        return None
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    DRAWN[claim](axes)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    path = folder / f"worth_{claim}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


if __name__ == "__main__":
    for name in DRAWN:
        print(draw(name, RESULTS))
