"""The tables of `docs/worth.md`, from what the scripts of this folder measured. A test holds the page to them.

python -m worth.tables
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from machine import RESULTS

from worth.duplication import PAPER, ROUNDS, TRAINED

Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    path = RESULTS / f"worth_{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def language() -> Iterator[str]:
    """A table for each corpus and size: the better learning rate of each variant, best first."""
    runs: dict[tuple[Any, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of("language"):
        size = tuple(row[name] for name in ("corpus", "layers", "width", "length", "steps"))
        runs[size][row["variant"]].append(row)
    for (corpus, layers, width, length, steps), variants in runs.items():
        marks = [str(steps * i // 6) for i in (1, 2, 3, 6)]
        best = {variant: min(found, key=lambda row: row["bits"][str(steps)]) for variant, found in variants.items()}
        lines = [
            [
                variant,
                *(f"{row['bits'][mark]:.3f}" for mark in marks),
                f"{row['by position'][_last(row)]:.3f}",
                f"{row['rate']:g} of {len(variants[variant])}",
                f"{row['weights']:,}",
            ]
            for variant, row in sorted(best.items(), key=lambda item: item[1]["bits"][str(steps)])
        ]
        what = f"{corpus}, {layers} layers of width {width}, {length:,} tokens a step; bits per byte after steps"
        yield table([what, *marks, "last half of a window", "learning rate", "weights"], lines)


def _last(row: Row) -> str:
    return list(row["by position"])[-1]


def recall() -> Iterator[str]:
    found = rows_of("recall")
    if found:
        sizes = [f"{size['length']:,}, {size['pairs']:,}" for size in found[0]["sizes"]]
        lines = [
            [f"{row['variant']}, width {row['width']}", *(f"{size['accuracy']:.3f}" for size in row["sizes"])]
            for row in found
        ]
        yield table(["length, pairs", *sizes], lines)


def induction() -> Iterator[str]:
    for task in ("token", "pieces"):
        found = [row for row in rows_of("induction") if row["task"] == task]
        lengths = sorted({one["length"] for row in found for one in row["lengths"]})
        if found:
            lines = []
            for row in found:
                by = {one["length"]: f"{one['accuracy']:.3f}" for one in row["lengths"]}
                lines.append([row["variant"], *(by.get(length, "") for length in lengths)])
            yield table([task, *(f"{length:,}" for length in lengths)], lines)


def duplication() -> Iterator[str]:
    """Percent, the mean of the seeds, with the paper's in brackets."""
    cells: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of("duplication"):
        cells[row["rule"], row["values"]][row["trained"]].append(row)
    for (rule, values), trained in cells.items():
        lines = []
        for name in TRAINED:
            if name in trained:
                shares = [mean(row["evaluated"][how] for row in trained[name]) for how in ROUNDS]
                both = zip(shares, PAPER[name], strict=True)
                lines.append([name, *(f"{share:.1f} ({paper:g})" for share, paper in both), str(len(trained[name]))])
        yield table([f"{rule} rule, {values} values; trained with", *ROUNDS, "seeds"], lines)


def main() -> None:
    for claim in (language, recall, induction, duplication):
        for found in claim():
            print(found, end="\n\n")


if __name__ == "__main__":
    main()
