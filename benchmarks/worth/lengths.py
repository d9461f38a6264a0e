"""Seconds and peak memory of attention against length, at a fixed number of tokens (figure 5 of the Reformer paper).

65,536 tokens as rows of 1,024 to 65,536, 8 heads of 64, fp32, forward and backward, two threads; LSH attention of 1 to
8 rounds and exact causal attention (SDPA). Seconds are the least of the repeats; memory is what a fresh process takes
beyond inputs.

    python -m worth.lengths
    python -m worth.lengths --small
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from machine import RESULTS
from memory import MIB, peak_over_start
from resumable import Row

import reformer
from worth.cells import run_cells

OUT = RESULTS / "worth_lengths.json"
LSH = {f"LSH-{rounds}": rounds for rounds in (1, 2, 4, 8)}


def attention(kind: str, tokens: int, length: int) -> Callable[[], None]:
    """Forward and backward of a kind."""
    generator = torch.Generator().manual_seed(0)
    shape = (tokens // length, length, 8, 64)
    q, k, v, grad = (torch.randn(shape, generator=generator).transpose(1, 2) for _ in range(4))
    inputs = [one.requires_grad_() for one in ((q, v) if kind in LSH else (q, k, v))]

    def run() -> None:
        if kind in LSH:
            out = reformer.lsh_attention(q, v, num_hashes=LSH[kind], seed=0)
        else:
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(out, inputs, grad)

    return run


def run(attention_of: str, length: int, *, tokens: int, repeats: int) -> Row:
    """In this process, whose peak it is."""
    attention(attention_of, length, length)()  # loads what a first call loads
    once = attention(attention_of, tokens, length)
    peak, seconds = peak_over_start(once), []
    for _ in range(repeats):
        started = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - started)
    row: Row = {"attention": attention_of, "length": length, "tokens": tokens}
    spent = {"cpu seconds": round(time.process_time(), 1)}
    return {**row, "seconds": round(min(seconds), 4), "peak MiB": round(peak / MIB, 1), **spent}


def small() -> None:
    """Rows eight times as long take exact attention much longer, and LSH attention not."""
    ratio = {}
    for kind in ("LSH-2", "exact"):
        short, long = (run(kind, length, tokens=4096, repeats=2)["seconds"] for length in (512, 4096))
        ratio[kind] = long / short
    print(ratio)
    assert ratio["exact"] > 1.5 * ratio["LSH-2"], ratio


def main() -> None:
    lengths = [1 << i for i in range(10, 17)]
    options: dict[str, list[Any]] = {"attention": [*LSH, "exact"], "length": lengths}
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # or glibc holds on to freed blocks, which would count as used
    run_cells(__doc__, OUT, options, run, small, given_back, tokens=65_536, repeats=2)


if __name__ == "__main__":
    main()
