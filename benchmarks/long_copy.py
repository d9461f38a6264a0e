"""A long encoder-decoder task: copy the marked items out of 4,096 tokens, in their order.

A source is a row of random letters; 16 of them are marked (their upper-case twins), all different, at random places, at
least 128 apart. The target is the marked letters, in order, and the end. What it takes: find all of them wherever they
are, and go from each to the next, which is the nearest behind it. Most of the order is learned on sources that lack
most of their unmarked letters and keep the positions of all others, at a hundredth of the cost; by and by, longer ones
come in between, up to whole ones. Measured on whole sources. For a GPU. Memory and time of a step:
`encoder_decoder_step.py`.
"""

import argparse
import sys
import time
from typing import Any

import torch
from machine import save
from torch import Tensor

import reformer

LENGTH, MARKED, APART, LETTERS = 4096, 16, 128, 64
FIRST, FIRST_MARKED = 3, 3 + LETTERS
VOCABULARY = FIRST_MARKED + LETTERS
END = 1
SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
KINDS = {
    "lsh": {"attention_pattern": ("local", "lsh"), "window": 32, "local_window": 32},
    "plain": {"attention_pattern": ("full",), "residual": "single", "reversible": False},
}
STEPS, RATE, WARMUP = 4500, 2.5e-3, 100
SHARES = {20: (64, 0, 0.5), 80: (64, 500, 0.7), 320: (48, 900, 0.8), 1280: (24, 1300, 1), LENGTH: (16, 1700, 1)}
"""By the tokens that are left of a source: sources of a step, the first such step, and the share of all steps at which
they end. In between each is as likely as the others."""


def batch(rows: int, left: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Sources of `left` tokens, their positions in the whole sources, and targets."""
    where: dict[str, Any] = {"generator": generator, "device": generator.device}
    source = torch.randint(FIRST, FIRST + LETTERS, (rows, LENGTH), **where)
    room = LENGTH - (MARKED - 1) * (APART - 1)
    places = torch.rand(rows, room, **where).topk(MARKED).indices.sort().values
    places += torch.arange(MARKED, device=places.device) * (APART - 1)
    letters = FIRST_MARKED + torch.rand(rows, LETTERS, **where).topk(MARKED).indices
    source.scatter_(1, places, letters)
    positions = torch.rand(rows, LENGTH, **where).scatter_(1, places, 2.0).topk(left).indices.sort().values
    labels = torch.nn.functional.pad(letters, (0, 1), value=END)
    return source.gather(1, positions), positions, labels


def make(kind: str, **changes: object) -> reformer.ReformerForConditionalGeneration:
    torch.manual_seed(0)
    settings = {"vocab_size": VOCABULARY, "position_embedding": "sinusoidal", "stream_merge": "mean", **SIZE, **changes}
    return reformer.ReformerForConditionalGeneration(reformer.ReformerConfig(**settings, **KINDS[kind]))


def exact(model: reformer.ReformerForConditionalGeneration, times: int, rows: int = 10) -> dict[str, float]:
    """Shares of tokens and of whole targets that greedy decoding gets right, over sources that were not trained on."""
    model.eval()
    generator, right, whole = torch.Generator(model.device).manual_seed(12345), 0, 0
    for _ in range(times):
        source, _, labels = batch(rows, LENGTH, generator)
        found = model.generate(source, max_new_tokens=MARKED + 1, do_sample=False)[:, 1:]
        same = torch.nn.functional.pad(found, (0, MARKED + 1 - found.shape[1]), value=0) == labels
        right += int(same.sum())
        whole += int(same.all(1).sum())
    sources = times * rows
    return {
        "sources": sources,
        "exact tokens": right / (sources * (MARKED + 1)),
        "exact targets": whole / sources,
    }


def learn(arguments: argparse.Namespace) -> dict[str, object]:
    """Train, the rate falling to nothing at the end, and measure."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model = make(arguments.kind, num_hidden_layers=arguments.layers).to(device).train()
    generator, choice = torch.Generator(device).manual_seed(0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    started, seen = time.perf_counter(), {left: [0, 0] for left in SHARES}
    for step in range(arguments.steps):
        taken = [left for left, (_, first, end) in SHARES.items() if first <= step < end * arguments.steps]
        left = taken[int(torch.randint(len(taken), (), generator=choice))]
        source, positions, labels = batch(SHARES[left][0], left, generator)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARMUP, 1 - step / arguments.steps)
        output = model(encoder_outputs=model.encoder(source, position_ids=positions), labels=labels)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen[left] = [a + b for a, b in zip(seen[left], (output.correct, output.predicted), strict=True)]
        if (step + 1) % 200 == 0:
            shares = "  ".join(f"{left} tokens {int(a) / int(b):.3f}" for left, (a, b) in seen.items() if b)
            print(f"{arguments.kind} step {step + 1} right of {shares}", file=sys.stderr, flush=True)
            seen = {left: [0, 0] for left in SHARES}
    seconds = time.perf_counter() - started
    return {
        "kind": arguments.kind,
        "layers": arguments.layers,
        "steps": arguments.steps,
        "weights": model.num_parameters(),
        "seconds": seconds,
        **exact(model, 20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="lsh", choices=KINDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--layers", type=int, default=SIZE["num_hidden_layers"])
    arguments = parser.parse_args()
    row = learn(arguments)
    print(f"{row['exact tokens']:.4f} of tokens exact, {row['exact targets']:.4f} of targets whole")
    save("long_copy", [row], length=LENGTH, marked=MARKED, apart=APART, size=SIZE, shares=SHARES, rate=RATE)


if __name__ == "__main__":
    main()
