"""Seconds of a training step of each variant of `worth.language`, in pairs with LSH, two threads, nothing else.

python -m worth.language_seconds --length 4096 16384
"""

import time
from functools import partial
from typing import Any

import torch
from learning import train
from machine import RESULTS
from resumable import Row
from successors import pairs

from worth.cells import run_cells
from worth.language import VARIANTS, build

OUT = RESULTS / "worth_language_seconds.json"


def run(layers: int, width: int, length: int, variant: str, *, repeats: int) -> Row:
    """Steps of both in turns, in this process."""
    tokens = torch.randint(3, 259, (1, length))
    steps = []
    for name in ("LSH", variant):
        model = build(name, width, layers, length)
        steps.append(partial(train, partial(model, use_cache=False), torch.optim.AdamW(model.parameters()), tokens))
    found = pairs(*steps, repeats, torch.get_num_threads())
    row: Row = {"layers": layers, "width": width, "length": length, "variant": variant}
    row |= {"LSH": found["without"], "seconds": found["with"], "ratio": found["ratio"]}
    return {**row, "cpu seconds": round(time.process_time(), 1)}


def main() -> None:
    options: dict[str, list[Any]] = {"layers": [4], "width": [128], "length": [4096], "variant": list(VARIANTS)}
    run_cells(__doc__, OUT, options, run, None, repeats=9)


if __name__ == "__main__":
    main()
