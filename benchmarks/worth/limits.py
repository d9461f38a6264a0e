"""What LSH attention does not do: tasks and texts where exact or local attention is as good or better.

`majority`: which of four symbols stands most often in a row; every token counts, and a look-up sees few. `noise`: the
pieces of `worth.induction`, where each symbol that is asked for is replaced with a chance of a quarter: the same
context is rarer the longer a piece. `markov`: symbols of a fixed random chain of order one, which never says anything
twice for the sake of it: bits a symbol. `sentences`: rows of 64 bytes of code, each alone, measured on other files:
bits a byte. Two layers of width 64, rows of 256 symbols in training and in measuring.

    python -m worth.limits --task majority noise
    python -m worth.limits --small
"""

import math
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from learning import joined, library
from machine import RESULTS
from resumable import Row

import reformer
from worth.cells import run_cells
from worth.induction import SYMBOLS, pieces
from worth.loop import Batch, fit

OUT = RESULTS / "worth_limits.json"
IGNORED, LENGTH, NOISE = -100, 256, 0.25
VARIANTS: dict[str, dict[str, Any]] = {
    "LSH": {"attention_pattern": ("local", "lsh")},
    "local alone": {"attention_pattern": ("local",)},
    "exact": {"attention_pattern": ("local", "full")},
}
Examples = tuple[torch.Tensor, torch.Tensor]


def majority(rng: np.random.Generator, rows: int, held_out: bool = False) -> Examples:
    """Each row has its own shares; symbol 4 asks at the end."""
    tokens = np.stack([rng.choice(4, LENGTH, p=rng.dirichlet(np.full(4, 20.0))) for _ in range(rows)])
    labels = np.full_like(tokens, IGNORED)
    labels[:, -1] = [np.bincount(row[:-2], minlength=4).argmax() for row in tokens]
    tokens[:, -2], tokens[:, -1] = 4, labels[:, -1]
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def noise(rng: np.random.Generator, rows: int, held_out: bool = False) -> Examples:
    """Pieces that come again with errors; asked for is what stood there first."""
    tokens, labels = pieces(rng, rows, LENGTH)
    again = torch.from_numpy(rng.random(tokens.shape) < NOISE) & (labels != IGNORED)
    other = torch.from_numpy(rng.integers(0, SYMBOLS["pieces"], tokens.shape))
    return torch.where(again, other, tokens), labels


@cache
def _chain() -> np.ndarray:
    return np.random.default_rng(7).dirichlet(np.full(64, 0.1), 64).cumsum(1)


def markov(rng: np.random.Generator, rows: int, held_out: bool = False) -> Examples:
    tokens = np.zeros((rows, LENGTH), np.int64)
    for i in range(1, LENGTH):
        tokens[:, i] = (rng.random(rows)[:, None] > _chain()[tokens[:, i - 1]]).sum(1).clip(0, 63)
    return torch.from_numpy(tokens), torch.from_numpy(tokens)


@cache
def _code() -> tuple[np.ndarray, np.ndarray]:
    """To train on, and to measure with."""
    files = library()[::10]
    return joined(files[::2]), joined(files[1::2])


def sentences(rng: np.random.Generator, rows: int, held_out: bool = False) -> Examples:
    code = _code()[held_out]
    begins = rng.integers(0, len(code) - 64, rows * LENGTH // 64)
    tokens = torch.from_numpy(np.stack([code[begin : begin + 64] for begin in begins]).astype(np.int64))
    return tokens, tokens


TASKS: dict[str, tuple[Callable[..., Examples], int]] = {
    "majority": (majority, 5),
    "noise": (noise, SYMBOLS["pieces"]),
    "markov": (markov, 64),
    "sentences": (sentences, 256),
}


def measure(model: Any, task: str, batches: int) -> tuple[float, float]:
    """The share of what was asked for that is right, and bits each."""
    model.eval()
    rng, right, nll, seen = np.random.default_rng(10**6), 0, 0.0, 0
    with torch.no_grad():
        for _ in range(batches):
            tokens, labels = TASKS[task][0](rng, 16, held_out=True)
            output = model(tokens, labels=labels)
            count = int(output.predicted)
            right, nll, seen = right + int(output.correct), nll + float(output.loss) * count, seen + count
    return right / seen, nll / seen / math.log(2)


def run(task: str, variant: str, steps: int, rate: float, seed: int, *, rows: int, batches: int) -> Row:
    """Train and measure, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    make, symbols = TASKS[task]
    config = reformer.ReformerConfig(
        vocab_size=symbols,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=None,
        eos_token_id=None,
        **VARIANTS[variant],
    )
    model, rng = reformer.ReformerForCausalLM(config), np.random.default_rng(seed)

    def draw(_: int) -> Batch:
        tokens, labels = make(rng, rows)
        return {"input_ids": tokens, "labels": labels}

    def after(step: int) -> None:
        if step % 200 == 0:
            print(f"{task}, {variant}: {step} {measure(model, task, 8)}", file=sys.stderr, flush=True)

    started = time.process_time()
    fit(model, draw, steps, rate, after)
    spent = time.process_time() - started
    right, bits = measure(model, task, batches)
    row = {"task": task, "variant": variant, "steps": steps, "rate": rate, "seed": seed}
    return {**row, "accuracy": round(right, 4), "bits": round(bits, 4), "cpu seconds": round(spent, 1)}


def small() -> None:
    """Exact attention counts, and LSH attention does not."""
    found = {v: run("majority", v, 199, 5e-3, 0, rows=4, batches=16)["accuracy"] for v in ("LSH", "exact")}
    print(found)
    assert found["exact"] > found["LSH"] + 0.05, found


def main() -> None:
    options = {"task": list(TASKS), "variant": list(VARIANTS), "steps": [1000], "rate": [3e-3], "seed": [0]}
    run_cells(__doc__, OUT, options, run, small, rows=16, batches=64)


if __name__ == "__main__":
    main()
