"""Induction, trained at 256 tokens and measured to 1,048,576: what followed the same context before, at any distance.

`token`: the task of Mamba's paper (Gu and Dao 2023, section 4.1.2): 16 symbols, one of which stands at a random place
and at the end; what followed it there is asked for. `pieces`: pieces of 4 to 12 symbols of 1,024, half of which have
come before; every symbol behind three known ones of a recurrence is asked for; the same weights are measured with more
rounds and smaller buckets too. Two layers of width 64.

    python -m worth.induction --task token pieces --variant LSH
    python -m worth.induction --small
"""

import sys
import time
from typing import Any

import numpy as np
import torch
from machine import RESULTS
from resumable import Row

import reformer
from worth.cells import run_cells
from worth.loop import Batch, fit

OUT = RESULTS / "worth_induction.json"
IGNORED, LENGTH, ROWS = -100, 256, 16
SYMBOLS = {"token": 16, "pieces": 1024}
LENGTHS = tuple(1 << i for i in range(8, 21, 2))
PIECES, KNOWN = (4, 12), 3
LSH = {"attention_pattern": ("lsh",)}
VARIANTS: dict[str, dict[str, Any]] = {
    "LSH": LSH,
    "local alone": {"attention_pattern": ("local",), "local_window": 128},
    "exact": {"attention_pattern": ("full",)},
    "LSH as in older implementations": {
        **LSH,
        "rule": "chunk",
        "successor_values": False,
        "conv_size": 0,
        "position_embedding": "sinusoidal",
    },
}
FINER = {"num_hashes": 16, "bucket_size": 8}
LONGEST = {"LSH": 1 << 20, "exact": 1 << 14}  # the others: 65,536


def token(rng: np.random.Generator, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and as label of the last one what stood behind its first occurrence."""
    tokens, labels = rng.integers(1, SYMBOLS["token"], (rows, length)), np.full((rows, length), IGNORED)
    at, every = rng.integers(0, length - 3, rows), np.arange(rows)
    tokens[every, at] = tokens[:, -2] = 0
    labels[:, -1] = tokens[:, -1] = tokens[every, at + 1]
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def pieces(rng: np.random.Generator, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and as labels those behind three known ones of a piece that has come before."""
    tokens, labels = np.zeros((rows, length + PIECES[1]), np.int64), np.full((rows, length + PIECES[1]), IGNORED)
    for row in range(rows):
        seen: list[np.ndarray] = []
        at = 0
        while at < length:
            again = bool(seen) and rng.random() < 0.5
            piece = (
                seen[rng.integers(len(seen))]
                if again
                else rng.integers(0, SYMBOLS["pieces"], rng.integers(PIECES[0], PIECES[1] + 1))
            )
            tokens[row, at : at + len(piece)] = piece
            if again:
                labels[row, at + KNOWN : at + len(piece)] = piece[KNOWN:]
            else:
                seen.append(piece)
            at += len(piece)
    return torch.from_numpy(tokens[:, :length]), torch.from_numpy(labels[:, :length])


TASKS = {"token": token, "pieces": pieces}


def build(task: str, variant: str, **settings: Any) -> Any:
    config = reformer.ReformerConfig(
        vocab_size=SYMBOLS[task],
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        loss_chunk=4096,
        max_position_embeddings=1 << 20,
        pad_token_id=None,
        eos_token_id=None,
        **{**VARIANTS[variant], **settings},
    )
    return reformer.ReformerForCausalLM(config)


def train(model: Any, task: str, steps: int, rate: float, seed: int, after: Any = lambda _: None) -> None:
    rng = np.random.default_rng(seed)

    def draw(_: int) -> Batch:
        tokens, labels = TASKS[task](rng, ROWS, LENGTH)
        return {"input_ids": tokens, "labels": labels}

    fit(model, draw, steps, rate, after)


@torch.no_grad()
def accuracy(model: Any, task: str, length: int, rows: int, answers: int) -> tuple[float, int]:
    """The share of answers that are right, of so many rows and answers at least."""
    model.eval()
    rng, right, seen, done = np.random.default_rng(10**6 + length), 0, 0, 0
    at_once = max(min(rows, 65_536 // length), 1)
    while done < rows or seen < answers:
        tokens, labels = TASKS[task](rng, at_once, length)
        output = model(tokens, labels=labels)
        right, seen, done = right + int(output.correct), seen + int(output.predicted), done + at_once
    return right / seen, seen


def run(task: str, variant: str, steps: int, rate: float, seed: int) -> Row:
    """Train at 256 tokens, measure at all lengths that the variant can do."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, started = build(task, variant), time.process_time()

    def after(step: int) -> None:
        if step % 200 == 0:
            found = [round(accuracy(model, task, length, 16, 50)[0], 3) for length in (256, 1024, 4096)]
            print(f"{task}, {variant}: {step} {found}", file=sys.stderr, flush=True)

    train(model, task, steps, rate, seed, after)
    row: Row = {"task": task, "variant": variant, "steps": steps, "rate": rate, "seed": seed}
    spent = time.process_time() - started
    row["lengths"] = _lengths(model, task, variant)
    if (task, variant) == ("pieces", "LSH"):
        finer = build(task, variant, **FINER)
        finer.load_state_dict(model.state_dict())
        row["finer"] = _lengths(finer, task, variant)
    return {**row, "cpu seconds": round(spent, 1)}


def _lengths(model: Any, task: str, variant: str) -> list[Row]:
    found: list[Row] = []
    for length in LENGTHS:
        if length <= LONGEST.get(variant, 1 << 16):
            rows = (1000 if length < 1 << 14 else 100) if task == "token" else 1
            share, seen = accuracy(model, task, length, rows, 1000 if task == "pieces" else 1)
            found.append({"length": length, "accuracy": round(share, 4), "answers": seen})
            print(f"{task}, {variant}: {found[-1]}", file=sys.stderr, flush=True)
    return found


def small() -> None:
    """The token is known after a few steps, at four times the length, and not without successor values."""
    found = {}
    for successor_values in (True, False):
        torch.manual_seed(0)
        model = build("token", "LSH", successor_values=successor_values)
        train(model, "token", 30, 1e-2, 0)
        found[successor_values], _ = accuracy(model, "token", 1024, 32, 1)
    print(f"successor values {found[True]:.3f}, own {found[False]:.3f}")
    assert found[True] > 0.9 > 0.5 > found[False], found


def main() -> None:
    options = {"task": list(TASKS), "variant": list(VARIANTS), "steps": [1000], "rate": [3e-3], "seed": [0]}
    run_cells(__doc__, OUT, options, run, small)


if __name__ == "__main__":
    main()
