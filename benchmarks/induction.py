"""What LSH layers look up: pieces that recur, and the values of keys at any distance.

Induction: pieces of 4 to 12 symbols of 127, half of which have come before, in rows of 256; what is counted is every
symbol from the third of a recurrence on. Recall: slots of a key and its value; each key comes once, and is asked for
at most once, at distances that are log-uniform up to the whole length; trained at 512 tokens, measured up to 65,536.

Two layers, local then LSH, of width 64; AdamW at 3e-3. Each row is a seed.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from machine import save

import reformer

IGNORED = -100
SYMBOLS, PIECES = 127, (4, 12)
KEYS, VALUES = 24_576, 256


def induction(rng: np.random.Generator, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and as labels those that can be known: from the third symbol of a recurrence on."""
    tokens, labels = np.zeros((batch, length + PIECES[1]), np.int64), np.full((batch, length + PIECES[1]), IGNORED)
    for row in range(batch):
        pieces: list[np.ndarray] = []
        at = 0
        while at < length:
            again = bool(pieces) and rng.random() < 0.5
            piece = pieces[rng.integers(len(pieces))] if again else rng.integers(0, SYMBOLS, rng.integers(4, 13))
            tokens[row, at : at + len(piece)] = piece
            if again:
                labels[row, at + 2 : at + len(piece)] = piece[2:]
            else:
                pieces.append(piece)
            at += len(piece)
    return torch.from_numpy(tokens[:, :length]), torch.from_numpy(labels[:, :length])


def recall(rng: np.random.Generator, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and as labels the values that are asked for."""
    tokens, labels = np.zeros((batch, length), np.int64), np.full((batch, length), IGNORED)
    for row in range(batch):
        source = distances(rng, length // 2)
        new = source < 0
        key = np.zeros(length // 2, np.int64)
        key[new] = rng.permutation(KEYS)[: new.sum()]
        key[~new] = key[source[~new]]
        value = (rng.integers(0, VALUES, KEYS) + KEYS)[key]
        tokens[row, 0::2], tokens[row, 1::2] = key, value
        labels[row, 1::2] = np.where(new, IGNORED, value)
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def distances(rng: np.random.Generator, slots: int) -> np.ndarray:
    """For each slot the earlier one that it asks for, -1 where a key is new; each is asked for at most once."""
    source, free = np.full(slots, -1), np.ones(slots, bool)
    for slot in rng.permutation(slots)[: slots * 2 // 3]:
        for back in np.exp(rng.uniform(0, np.log(max(slot, 1)), 8)).astype(int):
            if slot and free[slot] and free[slot - back]:
                source[slot], free[slot], free[slot - back] = slot - back, False, False
    return source


def make(vocabulary: int, **settings: Any) -> Any:
    return reformer.ReformerForCausalLM(
        reformer.ReformerConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            loss_chunk=2048,
            pad_token_id=None,
            eos_token_id=None,
            **settings,
        )
    )


def train(model: Any, draw: Any, batch: int, length: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        tokens, labels = draw(rng, batch, length)
        optimizer.zero_grad()
        model(tokens, labels=labels).loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: Any, draw: Any, batch: int, length: int, answers: int) -> tuple[float, int]:
    """The share of labels that are the likeliest, over so many at least."""
    model.eval()
    rng, right, seen = np.random.default_rng(10**6), 0, 0
    while seen < answers:
        tokens, labels = draw(rng, batch, length)
        output = model(tokens, labels=labels)
        right, seen = right + int(output.correct), seen + int(output.predicted)
    return right / seen, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--induction-steps", type=int, default=100)
    parser.add_argument("--recall-seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--recall-steps", type=int, default=100)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 4096, 16384, 65536])
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        torch.manual_seed(seed)
        model, started = make(SYMBOLS, window=32), time.perf_counter()
        train(model, induction, 8, 256, arguments.induction_steps, seed)
        found, seen = accuracy(model, induction, 8, 256, 10_000)
        rows.append({"task": "induction", "seed": seed, "length": 256, "steps": arguments.induction_steps})
        rows[-1] |= {"accuracy": round(found, 4), "answers": seen, "seconds": round(time.perf_counter() - started, 1)}
        print(rows[-1], flush=True)
    for seed in arguments.recall_seeds:
        torch.manual_seed(seed)
        model, started = make(KEYS + VALUES, window=64, bucket_size=32), time.perf_counter()
        train(model, recall, 4, 512, arguments.recall_steps, seed)
        for length in arguments.lengths:
            found, seen = accuracy(model, recall, 1, length, 2_000)
            rows.append({"task": "recall", "seed": seed, "length": length, "steps": arguments.recall_steps})
            rows[-1] |= {
                "accuracy": round(found, 4),
                "answers": seen,
                "seconds": round(time.perf_counter() - started, 1),
            }
            print(rows[-1], flush=True)
    save("induction", rows)


if __name__ == "__main__":
    main()
