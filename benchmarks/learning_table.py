"""The tables of `docs/defaults.md` from what `learning.py` and `learning_seconds.py` measured.

Equal time is that of 400 steps of the base: as many steps as a variant makes in it, read off the logarithm of its steps
between its evaluations.
"""

import json
from collections import defaultdict
from statistics import mean
from typing import Any

import numpy as np
from machine import RESULTS

EQUAL = 400  # steps of the base


def main() -> None:
    rows = json.loads((RESULTS / "learning.json").read_text())["rows"]
    file = RESULTS / "learning_seconds.json"
    seconds = json.loads(file.read_text())["rows"] if file.exists() else []
    ratios = {(row["length"], row["variant"]): row["ratio"] for row in seconds}
    tables: dict[tuple[str, int, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        tables[row["corpus"], row["length"], row["steps"]][row["variant"]].append(row)
    for (corpus, length, steps), variants in tables.items():
        print(f"\n{corpus}, windows of {length:,}, {steps} steps\n")
        ends = list(next(iter(variants.values()))[0]["by position"])
        print(
            f"| | {' | '.join(next(iter(variants.values()))[0]['bits'])} | equal time | step | seeds | first | last |"
        )
        print("|---" * (len(next(iter(variants.values()))[0]["bits"]) + 6) + "|")
        for name, found in sorted(variants.items(), key=lambda item: bits(item[1], str(steps))):
            ratio = ratios.get((length, name))
            equal = "" if ratio is None else f"{at(found, EQUAL / ratio):.3f}"
            cells = [name, *(f"{bits(found, step):.3f}" for step in found[0]["bits"]), equal]
            cells += [
                "" if ratio is None else f"{ratio:.2f}",
                " ".join(f"{row['bits'][str(steps)]:.3f}" for row in found),
            ]
            cells += [f"{mean(row['by position'][end] for row in found):.3f}" for end in (ends[0], ends[-1])]
            print(f"| {' | '.join(cells)} |")


def bits(found: list[dict[str, Any]], step: str) -> float:
    return mean(row["bits"][step] for row in found)


def at(found: list[dict[str, Any]], steps: float) -> float:
    """Bits after so many steps, between those of the evaluations."""
    known = sorted(map(int, found[0]["bits"]))
    return float(np.interp(np.log(steps), np.log(known), [bits(found, str(step)) for step in known]))


if __name__ == "__main__":
    main()
