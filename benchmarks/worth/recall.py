"""Multi-query associative recall (Arora et al. 2023, "Zoology", arXiv 2312.04927): keys' values, asked for later.

Rows begin with pairs of a key and its value; behind them each key stands once more, at distances of a power law, among
random tokens, and is to be answered with its value. Vocabulary 8,192; two layers, one head; labels at answers only.
Trained on rows of every size that is measured and two between, 4,096 tokens a step. The same weights of LSH layers are
measured with more rounds too.

    python -m worth.recall --width 64 128
    python -m worth.recall --small
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

OUT = RESULTS / "worth_recall.json"
VOCABULARY, POWER, IGNORED = 8192, 0.01, -100
ANSWERS = 4000
MEASURED = ((64, 4), (128, 8), (256, 16), (512, 64), (1024, 256), (4096, 1024))
TRAINED = (*MEASURED, (256, 64), (512, 128))
ROUNDS = (8, 16)
VARIANTS: dict[str, dict[str, Any]] = {
    "LSH": {"attention_pattern": ("lsh",)},
    "LSH, buckets of 16": {"attention_pattern": ("lsh",), "bucket_size": 16},
    "LSH, own values": {"attention_pattern": ("lsh",), "successor_values": False},
    "local alone": {"attention_pattern": ("local",), "local_window": 128},
    "exact": {"attention_pattern": ("full",)},
}


def examples(
    rng: np.random.Generator, rows: int, length: int, pairs: int, vocabulary: int = VOCABULARY
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [rows, length], and labels that hold, behind each key that is asked for, its value."""
    tokens = rng.integers(0, vocabulary, (rows, length))
    labels = np.full((rows, length), IGNORED)
    space = (length - 2 * pairs) // 2
    chance = np.arange(1, space + 1) ** (POWER - 1)
    for row in range(rows):
        keys = 1 + rng.permutation(vocabulary // 2 - 1)[:pairs]
        values = vocabulary // 2 + rng.permutation(vocabulary // 2)[:pairs]
        tokens[row, 0 : 2 * pairs : 2], tokens[row, 1 : 2 * pairs : 2] = keys, values
        asked = 2 * pairs + 2 * rng.choice(space, pairs, replace=False, p=chance / chance.sum())
        tokens[row, asked], labels[row, asked + 1] = keys, values
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def build(variant: str, width: int, vocabulary: int = VOCABULARY, **more: Any) -> Any:
    config = reformer.ReformerConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=1,
        loss_chunk=2048,
        pad_token_id=None,
        eos_token_id=None,
        **VARIANTS[variant],
        **more,
    )
    return reformer.ReformerForCausalLM(config)


@torch.no_grad()
def accuracy(model: Any, length: int, pairs: int, answers: int, vocabulary: int = VOCABULARY) -> tuple[float, int]:
    """The share of answers that are right, of so many at least."""
    model.eval()
    rng, right, seen = np.random.default_rng(10**6 + length), 0, 0
    while seen < answers:
        tokens, labels = examples(rng, max(4096 // length, 1), length, pairs, vocabulary)
        output = model(tokens, labels=labels)
        right, seen = right + int(output.correct), seen + int(output.predicted)
    return right / seen, seen


def run(variant: str, width: int, steps: int, rate: float, seed: int) -> Row:
    """Train once, measure at every size."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, rng, started = build(variant, width), np.random.default_rng(seed), time.process_time()

    def draw(step: int) -> Batch:
        length, pairs = TRAINED[step % len(TRAINED)]
        tokens, labels = examples(rng, 4096 // length, length, pairs)
        return {"input_ids": tokens, "labels": labels}

    def after(step: int) -> None:
        if step % 200 == 0:
            found = [round(accuracy(model, *size, 500)[0], 3) for size in MEASURED[:5]]
            print(f"{variant} {width}: {step} {found}", file=sys.stderr, flush=True)

    fit(model, draw, steps, rate, after)
    spent, by_rounds = time.process_time() - started, {}
    for rounds in ROUNDS if "LSH" in variant else ():
        other = build(variant, width, num_hashes=rounds)
        other.load_state_dict(model.state_dict())
        by_rounds[str(rounds)] = _sizes(other)
    row = {"variant": variant, "width": width, "steps": steps, "rate": rate, "seed": seed}
    return {**row, "sizes": _sizes(model), "by rounds": by_rounds, "cpu seconds": round(spent, 1)}


def _sizes(model: Any) -> list[Row]:
    found = []
    for length, pairs in MEASURED:
        share, seen = accuracy(model, length, pairs, ANSWERS)
        found.append({"length": length, "pairs": pairs, "accuracy": round(share, 4), "answers": seen})
    return found


def small() -> None:
    """Keys of a small vocabulary are found after a few steps, and local attention does not find them."""
    found = {}
    for variant in ("LSH", "local alone"):
        torch.manual_seed(0)
        model, rng = build(variant, 32, 64), np.random.default_rng(0)

        def draw(_: int, rng: np.random.Generator = rng) -> Batch:
            tokens, labels = examples(rng, 8, 128, 8, 64)
            return {"input_ids": tokens, "labels": labels}

        fit(model, draw, 150, 1e-2)
        found[variant] = accuracy(model, 256, 16, 500, 64)[0]
    print(found)
    assert found["LSH"] > 0.5 > 0.1 > found["local alone"], found


def main() -> None:
    options = {"variant": list(VARIANTS), "width": [64, 128], "steps": [2000], "rate": [3e-3], "seed": [0]}
    run_cells(__doc__, OUT, options, run, small)


if __name__ == "__main__":
    main()
