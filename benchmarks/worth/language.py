"""Language at equal steps: one model with different second layers, and a Llama of equal size, in one loop.

Bits per byte of held-out text by steps. Code is the standard library with its tests, a twentieth of its files held out;
books are five, a sixth held out. One window a step, the same windows for all; each run has one thread, its row is saved
as it ends, and runs whose row there is are left out. Seconds of a step are measured apart (`worth.language_seconds`).

    python -m worth.language --corpus code --variant LSH "local alone" --processes 2
    python -m worth.language --small
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import HELD_OUT_BYTES, evaluate, texts
from machine import RESULTS
from resumable import Row

import reformer
from worth.cells import run_cells
from worth.loop import Batch, fit

OUT = RESULTS / "worth_language.json"
FULL = ("local", "full")
VARIANTS: dict[str, dict[str, Any]] = {
    "local alone": {"attention_pattern": ("local",), "local_window": 128},  # as many keys as LSH has: 4 rounds of 32
    "LSH": {},
    "LSH, own values": {"successor_values": False},
    "chunk rule": {"rule": "chunk"},
    "chunk rule, own values": {"rule": "chunk", "successor_values": False},
    "exact": {"attention_pattern": FULL},
    "exact, shifted keys and convolution": {"attention_pattern": FULL, "shifted_keys": True},
    "exact by LSH's formula": {"num_hashes": 1, "num_buckets": 1},
    "exact by LSH's formula, own values": {"num_hashes": 1, "num_buckets": 1, "successor_values": False},
    "LSH, not reversible": {"reversible": False},
    "Llama": {},
}
ROUNDS = (1, 2, 4, 8, 16)
"""Of the same weights, in evaluation (figure 4 of the Reformer paper)."""
DATA = Path("../../shared/data")


def build(variant: str, width: int, layers: int, length: int, **more: Any) -> Any:
    """The model of a variant, for windows of a length."""
    heads = max(width // 32, 1)
    if variant == "Llama":
        return llama(width, layers, heads, length)
    settings = VARIANTS[variant] | more
    if variant.startswith("exact by LSH's formula"):
        settings["window"] = length
    config = reformer.ReformerConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, loss_chunk=2048, **settings
    )
    return reformer.ReformerForCausalLM(config)


def llama(width: int, layers: int, heads: int, length: int) -> Any:
    """The Llama of transformers, whose feed-forward width gives it as many weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    aim = sum(p.numel() for p in build("exact", width, layers, length).parameters())
    found = [
        LlamaConfig(
            vocab_size=259,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=length,
            use_cache=False,
        )
        for inner in range(width, 8 * width, 8)
    ]
    outside, inside = 2 * 259 * width + width, 4 * width**2 + 2 * width
    sizes = [outside + layers * (inside + 3 * width * config.intermediate_size) for config in found]
    return LlamaForCausalLM(found[int(np.abs(np.array(sizes) - aim).argmin())])


def run(
    corpus: str,
    layers: int,
    width: int,
    length: int,
    steps: int,
    variant: str,
    rate: float,
    seed: int,
    *,
    every: int,
    held_out_bytes: int,
    data: Path,
) -> Row:
    """One training, in this process."""
    torch.set_num_threads(1)
    row: Row = {"corpus": corpus, "layers": layers, "width": width, "length": length, "steps": steps}
    text, held_out = texts(argparse.Namespace(corpus=corpus, length=length, held_out_bytes=held_out_bytes, data=data))
    torch.manual_seed(seed)
    model, rng = build(variant, width, layers, length), np.random.default_rng(seed)
    bits: dict[str, float] = {}
    started, outside, by_position = time.process_time(), 0.0, {}

    def draw(_: int) -> Batch:
        begin = int(rng.integers(0, len(text) - length))
        tokens = torch.from_numpy(text[begin : begin + length].astype(np.int64))[None] + 3
        return {"input_ids": tokens, "labels": tokens}

    def after(step: int) -> None:
        nonlocal outside, by_position
        if step % every and step != steps:
            return
        before = time.process_time()
        found, by_position = evaluate(model, held_out, length)
        bits[str(step)] = round(found, 4)
        outside += time.process_time() - before
        spent = time.process_time() - started - outside
        print(f"{variant}, {rate}: {step} {found:.4f} {spent:.0f} s", file=sys.stderr, flush=True)

    fit(model, draw, steps, rate, after)
    spent, rounds = time.process_time() - started - outside, {}
    for one in ROUNDS if variant == "LSH" else ():
        other = build(variant, width, layers, length, num_hashes=one)
        other.load_state_dict(model.state_dict())
        rounds[str(one)] = round(evaluate(other, held_out, length)[0], 4)
    return {
        **row,
        "variant": variant,
        "rate": rate,
        "seed": seed,
        "weights": sum(p.numel() for p in model.parameters()),
        "bits": bits,
        "by position": by_position,
        "by rounds": rounds,
        "cpu seconds": round(spent, 1),
    }


def small() -> None:
    """LSH is ahead of local attention alone after a few steps of a tiny model."""
    lsh, local = (
        run("code", 2, 32, 512, 100, variant, 3e-3, 0, every=100, held_out_bytes=8192, data=DATA)["bits"]["100"]
        for variant in ("LSH", "local alone")
    )
    print(f"LSH {lsh}, local alone {local} bits a byte")
    assert lsh < local, (lsh, local)


def main() -> None:
    options: dict[str, list[Any]] = {"corpus": ["code", "books"], "layers": [4], "width": [128], "length": [4096]}
    options |= {"steps": [600], "variant": list(VARIANTS), "rate": [3e-3, 1e-3], "seed": [0]}
    run_cells(__doc__, OUT, options, run, small, every=100, held_out_bytes=HELD_OUT_BYTES, data=DATA)


if __name__ == "__main__":
    main()
