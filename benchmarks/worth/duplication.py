"""The duplication task of the Reformer paper (Kitaev et al. 2020, section 5, table 2): 0w0w, told symbol by symbol.

w is 511 random symbols of 127, so a row has 1,024 tokens; counted are the symbols of the second w. One layer, width and
feed-forward of 256, 4 heads. Trained with full attention (the same weights, one bucket or chunk as long as the text) or
with LSH attention of 4, 2 or 1 rounds, each evaluated with full attention and 8, 4, 2 and 1 rounds. Without successor
values a token can find its copy only by its place: those models have learned positions, as the paper's.

    python -m worth.duplication --processes 2
    python -m worth.duplication --small
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

OUT = RESULTS / "worth_duplication.json"
SYMBOLS, HALF, ROWS = 127, 512, 4
ROUNDS = {"full": 0, "LSH-8": 8, "LSH-4": 4, "LSH-2": 2, "LSH-1": 1}
TRAINED = ("full", "LSH-4", "LSH-2", "LSH-1")
PAPER = {  # evaluated with full, LSH-8, LSH-4, LSH-2, LSH-1
    "full": (100.0, 94.8, 92.5, 76.9, 52.5),
    "LSH-4": (0.8, 100.0, 99.9, 99.4, 91.9),
    "LSH-2": (0.8, 100.0, 99.9, 98.1, 86.8),
    "LSH-1": (0.8, 99.9, 99.6, 94.8, 77.9),
}


def examples(rng: np.random.Generator, rows: int, half: int = HALF) -> Batch:
    """Rows 0w0w; labels are the second w."""
    word = rng.integers(1, SYMBOLS + 1, (rows, half))
    word[:, 0] = 0
    tokens = torch.from_numpy(np.concatenate((word, word), axis=1))
    labels = tokens.clone()
    labels[:, : half + 1] = -100
    return {"input_ids": tokens, "labels": labels}


def build(rule: str, values: str, rounds: int, width: int = 256, half: int = HALF) -> Any:
    """A model with so many rounds, 0 for full attention; all have the same weights."""
    settings: dict[str, Any] = {"rule": rule, "num_hashes": max(rounds, 1)}
    if rule == "chunk":
        settings["chunk_length"] = 64 if rounds else 2 * half
        settings["num_buckets"] = 2 * half // 64 * 2 if rounds else 2
    else:
        settings |= {"window": 64, "bucket_size": 32} if rounds else {"window": 2 * half, "num_buckets": 1}
    config = reformer.ReformerConfig(
        vocab_size=SYMBOLS + 1,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=1,
        num_attention_heads=4,
        attention_pattern=("lsh",),
        position_embedding="learned" if values == "own" else "none",
        max_position_embeddings=2 * half,
        successor_values=values == "successor",
        loss_chunk=4096,
        pad_token_id=None,
        eos_token_id=None,
        **settings,
    )
    return reformer.ReformerForCausalLM(config)


@torch.no_grad()
def accuracy(model: Any, rows: int, half: int = HALF) -> float:
    """Percent of the second w's symbols that are the likeliest."""
    model.eval()
    rng, right, seen = np.random.default_rng(10**6), 0, 0
    for _ in range(0, rows, ROWS):
        output = model(**examples(rng, ROWS, half))
        right, seen = right + int(output.correct), seen + int(output.predicted)
    return 100 * right / seen


def run(rule: str, values: str, trained: str, steps: int, seed: int, rate: float = 1e-3) -> Row:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, rng, started = build(rule, values, ROUNDS[trained]), np.random.default_rng(seed), time.process_time()

    def after(step: int) -> None:
        if step % 100 == 0:
            print(f"{rule} {values} {trained}: {step} {accuracy(model, 8):.2f}", file=sys.stderr, flush=True)

    fit(model, lambda _: examples(rng, ROWS), steps, rate, after)
    spent, found = time.process_time() - started, {}
    for name, rounds in ROUNDS.items():
        other = build(rule, values, rounds)
        other.load_state_dict(model.state_dict())
        found[name] = round(accuracy(other, 64), 2)
    row = {"rule": rule, "values": values, "trained": trained, "steps": steps, "seed": seed}
    return {**row, "evaluated": found, "cpu seconds": round(spent, 1)}


def small() -> None:
    """A narrow model says short words again after a few steps, with few rounds too."""
    torch.manual_seed(0)
    model, rng = build("bucket", "successor", 2, 64, 64), np.random.default_rng(0)
    fit(model, lambda _: examples(rng, 8, 64), 80, 1e-2)
    found = accuracy(model, 32, 64)
    print(f"{found:.1f} %")
    assert found > 80, found


def main() -> None:
    rules, values = ["bucket", "chunk"], ["successor", "own"]
    options = {"rule": rules, "values": values, "trained": list(TRAINED), "steps": [600], "seed": [0, 1, 2]}
    run_cells(__doc__, OUT, options, run, small)


if __name__ == "__main__":
    main()
