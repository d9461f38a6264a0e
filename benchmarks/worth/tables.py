"""The tables of `docs/worth.md`, from what the scripts of this folder measured. A test holds the page to them.

python -m worth.tables
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np
from machine import RESULTS

from worth.context import GROUPS
from worth.duplication import PAPER, ROUNDS, TRAINED
from worth.induction import FINER

Row = dict[str, Any]
SIZE = ("corpus", "layers", "width", "length", "steps")


def rows_of(name: str) -> list[Row]:
    path = RESULTS / f"worth_{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best_runs() -> dict[tuple[Any, ...], dict[str, Row]]:
    """For each corpus and size, the run of each variant at its better learning rate; with how many were tried."""
    runs: dict[tuple[Any, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of("language"):
        if row["seed"] == 0:
            runs[tuple(row[name] for name in SIZE)][row["variant"]].append(row)
    return {
        size: {
            variant: min(found, key=_last_bits) | {"tried": len({row["rate"] for row in found})}
            for variant, found in variants.items()
        }
        for size, variants in runs.items()
    }


def language() -> Iterator[str]:
    """A table for each corpus and size, best first."""
    for (corpus, layers, width, length, steps), best in best_runs().items():
        marks = [str(steps * i // 6) for i in (1, 2, 3, 6)]
        lines = [
            [
                variant,
                *(f"{row['bits'][mark]:.3f}" for mark in marks),
                f"{list(row['by position'].values())[-1]:.3f}",
                f"{row['rate']:g} of {row['tried']}",
                f"{row['weights']:,}",
            ]
            for variant, row in sorted(best.items(), key=lambda item: _last_bits(item[1]))
        ]
        what = f"{corpus}, {layers} layers of width {width}, {length:,} tokens a step; bits per byte after steps"
        yield table([what, *marks, "last half of a window", "learning rate", "weights"], lines)


def equal_time() -> Iterator[str]:
    """Each beside LSH, when the first of the two ends: the other is read in the middle of its schedule."""
    ratios = {tuple(row[name] for name in (*SIZE[1:4], "variant")): row["ratio"] for row in rows_of("language_seconds")}
    for (corpus, layers, width, length, steps), best in best_runs().items():
        lines = []
        for variant, row in best.items():
            ratio = ratios.get((layers, width, length, variant))
            if variant != "LSH" and "LSH" in best and ratio is not None:
                end = min(1.0, ratio) * steps  # in steps of LSH
                if min(end, end / ratio) < min(map(int, row["bits"])):
                    continue  # before the first evaluation
                lsh, other = bits_at(best["LSH"], end), bits_at(row, end / ratio)
                fewer = f"{100 * (1 - lsh / other):.1f} %"
                lines.append([variant, f"{ratio:.2f}", f"{end:.0f}", f"{other:.3f}", f"{lsh:.3f}", fewer])
        if lines:
            what = f"{corpus}, {layers} layers of width {width}, {length:,} tokens, {steps:,} steps at most"
            heads = ("time of a step, LSH's is 1", "read after so many steps of LSH", "bits per byte", "LSH", "fewer")
            yield table([what, *heads], lines)


def _last_bits(row: Row) -> float:
    return row["bits"][str(row["steps"])]


def bits_at(row: Row, step: float) -> float:
    """Between two evaluations, on the line between them."""
    return float(np.interp(step, [int(mark) for mark in row["bits"]], list(row["bits"].values())))


Lines = dict[str, list[Row]]
"""By name what was measured at each length."""


def recall_lines() -> Lines:
    found: Lines = {}
    for row in rows_of("recall"):
        name = f"{row['variant']}, width {row['width']}"
        found[name] = row["sizes"]
        found |= {f"{name}; {rounds} rounds": sizes for rounds, sizes in row["by rounds"].items()}
    return found


def recall() -> Iterator[str]:
    if lines := recall_lines():
        sizes = [f"{size['length']:,}, {size['pairs']:,}" for size in next(iter(lines.values()))]
        yield table(
            ["length, pairs", *sizes],
            [[name, *(f"{size['accuracy']:.3f}" for size in measured)] for name, measured in lines.items()],
        )


def induction_lines(task: str) -> Lines:
    found: Lines = {}
    for row in rows_of("induction"):
        if row["task"] == task:
            name = f"{row['variant']}, {row['steps']:,} steps"
            found[name] = row["lengths"]
            if "finer" in row:
                found[f"{name}; {FINER['num_hashes']} rounds, buckets of {FINER['bucket_size']}"] = row["finer"]
    return found


def induction() -> Iterator[str]:
    for task in ("token", "pieces"):
        if lines := induction_lines(task):
            lengths = sorted({one["length"] for measured in lines.values() for one in measured})
            cells = []
            for name, measured in lines.items():
                by = {one["length"]: f"{one['accuracy']:.3f}" for one in measured}
                cells.append([name, *(by.get(length, "") for length in lengths)])
            yield table([task, *(f"{length:,}" for length in lengths)], cells)


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


def context_bits() -> dict[str, dict[str, dict[int, np.ndarray]]]:
    """For each corpus, reader and context the bits of all blocks, where all were measured."""
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows_of("context"):
        groups[row["corpus"], row["reader"], row["context"]].append(row)
    found: dict[str, dict[str, dict[int, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    for (corpus, reader, context), rows in groups.items():
        if len(rows) == GROUPS:
            in_order = sorted(rows, key=lambda row: row["group"])
            found[corpus][reader][context] = np.concatenate([row["bits of blocks"] for row in in_order])
    return found


def with_error(bits: np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error."""
    return float(bits.mean()), float(bits.std(ddof=1) / len(bits) ** 0.5)


def context() -> Iterator[str]:
    """Bits per byte of the same blocks by what stands in front of them."""
    for corpus, readers in context_bits().items():
        contexts = sorted({context for bits in readers.values() for context in bits})
        lines = []
        for reader, bits in readers.items():
            shown = (with_error(bits[context]) if context in bits else None for context in contexts)
            lines.append([reader, *("" if one is None else f"{one[0]:.3f} ± {one[1]:.3f}" for one in shown)])
        yield table([f"{corpus}; bytes in front", *(f"{context:,}" for context in contexts)], lines)
        yield from _fewer(corpus, readers, contexts)


def _fewer(corpus: str, readers: dict[str, dict[int, np.ndarray]], contexts: list[int]) -> Iterator[str]:
    """What each step of context takes off, block by block, for blocks differ more among themselves than that."""
    lines = []
    for reader, bits in readers.items():
        cells = []
        for before, behind in pairwise(contexts):
            cell = ""
            if before in bits and behind in bits:
                fewer, error = with_error(bits[before] - bits[behind])
                cell = f"{fewer:.4f} ± {error:.4f} ({100 * fewer / bits[before].mean():.1f} %)"
            cells.append(cell)
        lines.append([reader, *cells])
    if len(contexts) > 1:
        heads = (f"{before:,} to {behind:,}" for before, behind in pairwise(contexts))
        yield table([f"{corpus}; fewer bits, from context to context", *heads], lines)


def limits() -> Iterator[str]:
    """Accuracy where something is asked for, bits a symbol where all is predicted."""
    found = rows_of("limits")
    tasks, variants = ({row[name]: None for row in found} for name in ("task", "variant"))
    if found:
        by = {(row["task"], row["variant"]): row for row in found}
        lines = []
        for task in tasks:
            unit = "accuracy" if task in ("majority", "noise") else "bits"
            cells = [by.get((task, one)) for one in variants]
            lines.append(
                [task, unit, *(f"{one[unit]:.3f} ({one['cpu seconds']:.0f} s)" if one else "" for one in cells)]
            )
        yield table(["task", "", *variants], lines)


def main() -> None:
    for claim in (language, equal_time, context, recall, induction, duplication, limits):
        for found in claim():
            print(found, end="\n\n")


if __name__ == "__main__":
    main()
