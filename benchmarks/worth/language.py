"""Language at equal steps: one model with different second layers, and a Llama of equal size, in one loop.

Bits per byte of held-out text by steps. Code is the standard library with its tests, a twentieth of its files held out;
books are five, a sixth held out. One window a step, the same windows for all; each run has one thread, its row is saved
as it ends, and runs whose row there is are left out. Seconds of a step are measured apart (`worth.language_seconds`).

    python -m worth.language code --variants LSH "local alone" --rates 1e-3 3e-3 --processes 2
    python -m worth.language --small
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import HELD_OUT_BYTES, evaluate, texts
from machine import RESULTS
from resumable import Row, fill

import reformer
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
    "Llama": {},
}
KEYS = ("corpus", "width", "layers", "length", "steps", "variant", "rate", "seed")
SMALL = ["code", "--width", "32", "--layers", "2", "--length", "512", "--steps", "100", "--held-out-bytes", "8192"]


def build(variant: str, width: int, layers: int, length: int) -> Any:
    """The model of a variant, for windows of a length."""
    heads = max(width // 32, 1)
    if variant == "Llama":
        return llama(width, layers, heads, length)
    settings = dict(VARIANTS[variant])
    if variant == "exact by LSH's formula":
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


def run(arguments: argparse.Namespace) -> Row:
    """One training, in this process."""
    torch.set_num_threads(1)
    (variant,), (rate,), (seed,), length = arguments.variants, arguments.rates, arguments.seeds, arguments.length
    text, held_out = texts(arguments)
    torch.manual_seed(seed)
    model, rng = build(variant, arguments.width, arguments.layers, length), np.random.default_rng(seed)
    bits: dict[str, float] = {}
    started, outside, by_position = time.process_time(), 0.0, {}

    def draw(_: int) -> Batch:
        begin = int(rng.integers(0, len(text) - length))
        tokens = torch.from_numpy(text[begin : begin + length].astype(np.int64))[None] + 3
        return {"input_ids": tokens, "labels": tokens}

    def after(step: int) -> None:
        nonlocal outside, by_position
        if step % arguments.every and step != arguments.steps:
            return
        before = time.process_time()
        bits[str(step)], by_position = evaluate(model, held_out, length)
        outside += time.process_time() - before
        spent = time.process_time() - started - outside
        print(f"{variant}, {rate}: {step} {bits[str(step)]:.4f} {spent:.0f} s", file=sys.stderr, flush=True)

    fit(model, draw, arguments.steps, rate, after)
    return {
        **{name: getattr(arguments, name) for name in KEYS[:5]},
        "variant": variant,
        "rate": rate,
        "seed": seed,
        "weights": sum(p.numel() for p in model.parameters()),
        "bits": {name: round(value, 4) for name, value in bits.items()},
        "by position": by_position,
        "cpu seconds": round(time.process_time() - started - outside, 1),
    }


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=("code", "books"), nargs="?", default="code")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3, 1e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=100, help="steps between two evaluations")
    parser.add_argument("--held-out-bytes", type=int, default=HELD_OUT_BYTES)
    parser.add_argument("--data", type=Path, default=Path("../../shared/data"), help="where books/ is")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help="the direction of the claim, in seconds")
    return parser


def small() -> None:
    """LSH is ahead of local attention alone after a few steps of a tiny model."""
    rows = {v: run(options().parse_args([*SMALL, "--variants", v, "--rates", "3e-3"])) for v in ("LSH", "local alone")}
    lsh, local = (rows[variant]["bits"]["100"] for variant in ("LSH", "local alone"))
    print(f"LSH {lsh}, local alone {local} bits a byte")
    assert lsh < local, rows


def main() -> None:
    arguments = options().parse_args()
    if arguments.small:
        small()
        return
    if arguments.one:
        print(json.dumps(run(arguments)), flush=True)
        return
    names = ("width", "layers", "length", "steps", "every", "held-out-bytes", "data")
    words = [arguments.corpus, "--one"]
    words += [word for name in names for word in (f"--{name}", str(getattr(arguments, name.replace("-", "_"))))]
    runs = {}
    for variant in arguments.variants:
        for rate in arguments.rates:
            for seed in arguments.seeds:
                key = (*tuple(getattr(arguments, name) for name in KEYS[:5]), variant, rate, seed)
                runs[key] = [*words, "--variants", variant, "--rates", str(rate), "--seeds", str(seed)]
    for row in fill(arguments.out, lambda row: tuple(row[name] for name in KEYS), runs, arguments.processes):
        print(f"{row['variant']:<36} {row['rate']} {row['bits']} {row['cpu seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
