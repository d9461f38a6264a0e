"""A long encoder-decoder task: copy the marked items out of 4,096 tokens, in their order.

A source is a row of random letters; 24 of them are marked (their upper-case twins), and they are all different. Each
was put at a random place. The target is the marked letters, in order, and the end. What it takes: find all of them
wherever they are, and go from each to the next. Memory and time of a step:
`encoder_decoder_step.py`.
"""

import argparse
import sys
import time

import torch
from machine import save
from torch import Tensor

import reformer

LENGTH, MARKED, LETTERS = 4096, 24, 64
FIRST, FIRST_MARKED = 3, 3 + LETTERS
VOCABULARY = FIRST_MARKED + LETTERS
END = 1
SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
KINDS = {
    "lsh": {"attention_pattern": ("local", "lsh"), "window": 32, "local_window": 32},
    "plain": {"attention_pattern": ("full",), "residual": "single", "reversible": False},
}


def batch(rows: int, length: int, marked: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Sources and targets."""
    source = torch.randint(FIRST, FIRST + LETTERS, (rows, length), generator=generator)
    labels = torch.full((rows, marked + 1), END)
    for row in range(rows):
        places = torch.randperm(length, generator=generator)[:marked].sort().values
        letters = torch.randperm(LETTERS, generator=generator)[:marked]
        source[row, places] = FIRST_MARKED + letters
        labels[row, :marked] = FIRST_MARKED + letters
    return {"input_ids": source, "labels": labels}


def make(kind: str, **changes: object) -> reformer.ReformerForConditionalGeneration:
    torch.manual_seed(0)
    settings = {"vocab_size": VOCABULARY, "position_embedding": "sinusoidal", "stream_merge": "mean", **SIZE, **changes}
    return reformer.ReformerForConditionalGeneration(reformer.ReformerConfig(**settings, **KINDS[kind]))


def exact(model: reformer.ReformerForConditionalGeneration, rows: int) -> float:
    """The share of tokens that greedy decoding gets right, over sources that were not trained on."""
    model.eval()
    generator, right = torch.Generator().manual_seed(12345), 0
    for _ in range(rows):
        pair = batch(1, LENGTH, MARKED, generator)
        found = model.generate(pair["input_ids"], max_new_tokens=MARKED + 1, do_sample=False)[:, 1:]
        found = torch.nn.functional.pad(found, (0, MARKED + 1 - found.shape[1]), value=0)
        right += int((found == pair["labels"]).sum())
    model.train()
    return right / (rows * (MARKED + 1))


def learn(kind: str, minutes: float, seed: int) -> dict[str, object]:
    """Train on sources that become longer, up to the full length, for so many minutes."""
    model, generator = make(kind).train(), torch.Generator().manual_seed(seed)
    steps_of = ((128, 32), (512, 8), (LENGTH, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    started, steps, stage, lately = time.perf_counter(), 0, 0, 0.0
    while (spent := time.perf_counter() - started) < 60 * minutes:
        length, rows = steps_of[stage]
        pairs = batch(rows, length, MARKED, generator)
        rate = 1e-3 * min(1.0, (steps + 1) / 200) * min(1.0, 5 * (1 - spent / (60 * minutes)) + 0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(**pairs)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        lately = 0.98 * lately + 0.02 * int(output.correct) / int(output.predicted)
        if lately > 0.9 and stage < len(steps_of) - 1:
            stage, lately = stage + 1, 0.0
        if steps % 100 == 0:
            print(f"{kind} step {steps} length {length} loss {output.loss:.3f} right {lately:.3f}", file=sys.stderr)
    return {"kind": kind, "seed": seed, "steps": steps, "minutes": minutes, "exact": exact(model, 100)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kinds", nargs="+", default=["lsh"], choices=KINDS)
    arguments = parser.parse_args()
    rows = [learn(kind, arguments.minutes, 0) for kind in arguments.kinds]
    for row in rows:
        print(f"{row['kind']}: {row['exact']:.4f} of tokens exact after {row['steps']} steps")
    save("long_copy", rows, length=LENGTH, marked=MARKED, size=SIZE)


if __name__ == "__main__":
    main()
