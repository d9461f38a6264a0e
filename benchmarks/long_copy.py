"""A long encoder-decoder task: copy the marked items out of 4,096 tokens, in their order.

A source is a row of random letters; 16 of them are marked (their upper-case twins), all different, at random places, at
least 128 apart. The target is the marked letters, in order, and the end. What it takes: find all of them wherever they
are, and go from each to the next, which is the nearest behind it. Most of the order is learned on sources that lack
most of their unmarked letters and keep the positions of all others, at a hundredth of the cost; by and by, longer ones
come in between, up to whole ones. Measured on whole sources. Memory and time of a step: `encoder_decoder_step.py`.
"""

import argparse
import sys
import time

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
SHARES = {20: (48, 0), 80: (12, 500), 320: (3, 900), 1280: (1, 1300), LENGTH: (1, 1700)}
"""Equal shares of the steps, by the tokens that are left of a source: sources of a step, and the first such step."""
STEPS, RATE, WARMUP = 4800, 2.5e-3, 100


def batch(rows: int, left: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Sources of `left` tokens, their positions in the whole sources, and targets."""
    source = torch.randint(FIRST, FIRST + LETTERS, (rows, LENGTH), generator=generator)
    labels = torch.full((rows, MARKED + 1), END)
    order = torch.rand((rows, LENGTH), generator=generator)
    for row in range(rows):
        places = torch.randperm(LENGTH - (MARKED - 1) * (APART - 1), generator=generator)[:MARKED].sort().values
        places += torch.arange(MARKED) * (APART - 1)
        letters = FIRST_MARKED + torch.randperm(LETTERS, generator=generator)[:MARKED]
        source[row, places], labels[row, :MARKED], order[row, places] = letters, letters, 2.0
    positions = order.topk(left).indices.sort().values
    return source.gather(1, positions), positions, labels


def make(kind: str, **changes: object) -> reformer.ReformerForConditionalGeneration:
    torch.manual_seed(0)
    settings = {"vocab_size": VOCABULARY, "position_embedding": "sinusoidal", "stream_merge": "mean", **SIZE, **changes}
    return reformer.ReformerForConditionalGeneration(reformer.ReformerConfig(**settings, **KINDS[kind]))


def exact(model: reformer.ReformerForConditionalGeneration, rows: int) -> dict[str, float]:
    """Shares of tokens and of whole targets that greedy decoding gets right, over sources that were not trained on."""
    model.eval()
    generator, right, whole = torch.Generator().manual_seed(12345), 0, 0
    for _ in range(rows):
        source, _, labels = batch(1, LENGTH, generator)
        found = model.generate(source, max_new_tokens=MARKED + 1, do_sample=False)[:, 1:]
        found = torch.nn.functional.pad(found, (0, MARKED + 1 - found.shape[1]), value=0)
        right += int((found == labels).sum())
        whole += int(torch.equal(found, labels))
    return {"exact tokens": right / (rows * (MARKED + 1)), "exact targets": whole / rows}


def learn(kind: str, seed: int) -> dict[str, object]:
    """Train, the rate falling to nothing at the end, and measure."""
    model, generator = make(kind).train(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    started, right = time.perf_counter(), dict.fromkeys(SHARES, 0.0)
    for step in range(STEPS):
        taken = [left for left, (_, first) in SHARES.items() if step >= first]
        left = taken[int(torch.randint(len(taken), (), generator=generator))]
        source, positions, labels = batch(SHARES[left][0], left, generator)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARMUP, 1 - step / STEPS)
        output = model(encoder_outputs=model.encoder(source, position_ids=positions), labels=labels)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        right[left] += 0.02 * (int(output.correct) / int(output.predicted) - right[left])
        if (step + 1) % 100 == 0:
            shares = "  ".join(f"{left} tokens {share:.3f}" for left, share in right.items())
            print(f"{kind} step {step + 1} right of {shares}", file=sys.stderr)
    seconds = time.perf_counter() - started
    return {"kind": kind, "seed": seed, "steps": STEPS, "seconds": seconds, **exact(model, 200)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=["lsh"], choices=KINDS)
    arguments = parser.parse_args()
    rows = [learn(kind, 0) for kind in arguments.kinds]
    for row in rows:
        print(f"{row['kind']}: {row['exact tokens']:.4f} of tokens exact after {row['steps']} steps")
    save("long_copy", rows, length=LENGTH, marked=MARKED, apart=APART, size=SIZE, shares=SHARES, rate=RATE)


if __name__ == "__main__":
    main()
