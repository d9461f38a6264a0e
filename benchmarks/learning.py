"""Bits per byte by training steps: what a small model learns of code and of books, one choice changed at a time.

Four layers of width 128, windows of 4,096 bytes, one a step, 600 steps of AdamW. Each run has one thread and the same
windows for the same seed; a row is saved as its run ends, and runs whose row there is are left out, so the script can
be stopped and started again. Held-out windows are predicted each alone.

    python benchmarks/learning.py code --variants base "local alone" --processes 2
"""

import argparse
import itertools
import json
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS
from resumable import fill

import reformer
from reformer.data.corpus import Document, read_documents
from reformer.data.cutting import CutWindows

BOOKS = ("war_and_peace", "les_miserables", "don_quixote", "middlemarch", "king_james_bible")
HELD_OUT_BOOK = "crime_and_punishment"
HELD_OUT_BYTES = 300_000
EVERY = 200  # steps between two evaluations
EDGES = (0, 64, 256, 1024, 2048, 4096, 8192, 16384)  # of the positions that are told apart

BASE: dict[str, Any] = {
    "num_hashes": 4,
    "window": 64,
    "conv_size": 4,
    "local_window": 128,
    "attention_pattern": ("local", "lsh"),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "own values, no convolution": {"successor_values": False, "conv_size": 0},
    "no convolution": {"conv_size": 0},
    "own values": {"successor_values": False},
    "local alone": {"attention_pattern": ("local",)},
    "exact": {"attention_pattern": ("local", "full")},
    "exact, shifted keys": {"attention_pattern": ("local", "full"), "shifted_keys": True, "conv_size": 0},
    "exact, shifted keys, convolution": {"attention_pattern": ("local", "full"), "shifted_keys": True},
    "exact by LSH's formula": {"num_hashes": 1, "num_buckets": 1, "window": 1 << 20},
    "1 round": {"num_hashes": 1},
    "2 rounds": {"num_hashes": 2},
    "window 32": {"window": 32},
    "window 128": {"window": 128},
    "bucket size 32": {"bucket_size": 32},
    "bucket size 128": {"bucket_size": 128},
    "local window 64": {"local_window": 64},
    "local, local, lsh": {"attention_pattern": ("local", "local", "lsh")},
    "local, lsh, lsh": {"attention_pattern": ("local", "lsh", "lsh")},
    "conv_size 3": {"conv_size": 3},
    "conv_size 8": {"conv_size": 8},
    "conv_size 16": {"conv_size": 16},
    "window 32, conv_size 8": {"window": 32, "conv_size": 8},
    "window 32, conv_size 8, local window 64": {"window": 32, "conv_size": 8, "local_window": 64},
    "window 32, conv_size 8, local window 32": {"window": 32, "conv_size": 8, "local_window": 32},
    "window 16, conv_size 8, local window 64": {"window": 16, "conv_size": 8, "local_window": 64},
    "heads of 16": {"num_attention_heads": 8},
    "heads of 64": {"num_attention_heads": 2},
    "a quarter of the windows cut": {"cut_windows": 0.25},
    "half of the windows cut": {"cut_windows": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=("code", "books"))
    parser.add_argument("--variants", nargs="+", default=["base"], choices=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="where books/ is")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--held-out-bytes", type=int, default=HELD_OUT_BYTES)
    parser.add_argument("--out", type=Path, default=RESULTS / "learning.json")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(arguments)), flush=True)
        return
    options = {"length": arguments.length, "steps": arguments.steps, "held-out-bytes": arguments.held_out_bytes}
    words = [arguments.corpus, "--one", "--data", str(arguments.data)]
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    runs = {
        (arguments.corpus, arguments.length, arguments.steps, variant, seed): [
            *words,
            *("--variants", variant, "--seeds", str(seed)),
        ]
        for variant in arguments.variants
        for seed in arguments.seeds
    }
    for row in fill(arguments.out, key, runs, arguments.processes):
        print(f"{row['variant']:<36} seed {row['seed']}  {row['bits']}  {row['cpu seconds']:.0f} s", flush=True)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["corpus"], row["length"], row["steps"], row["variant"], row["seed"]


def texts(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Bytes to train on, and held-out ones."""
    if arguments.corpus == "code":
        files = library()
        order = np.random.default_rng(1).permutation(len(files))
        train, held_out = ([files[i] for i in part] for part in (order[len(files) // 20 :], order[: len(files) // 20]))
    else:
        train = read_documents([arguments.data / "books" / f"{name}.txt" for name in BOOKS])
        held_out = read_documents([arguments.data / "books" / f"{HELD_OUT_BOOK}.txt"])
    return joined(train), spread(joined(held_out), arguments.held_out_bytes, arguments.length)


def library() -> list[Document]:
    """The standard library with its tests, which are most of it; a twentieth of its files is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for path in root.rglob("*.py") if not {"site-packages", "__pycache__"} & set(path.parts))
    return [Document(path.relative_to(root).as_posix(), path.read_bytes()) for path in paths]


def spread(text: np.ndarray, size: int, length: int) -> np.ndarray:
    """Windows at equal distances, `size` bytes in all."""
    count = max(min(size, len(text)) // length, 1)
    starts = np.linspace(0, len(text) - length, count).astype(int)
    return np.concatenate([text[start : start + length] for start in starts])


def joined(documents: list[Document]) -> np.ndarray:
    return np.frombuffer(b"\n".join(document.text for document in documents), np.uint8)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    (variant,), (seed,), length = arguments.variants, arguments.seeds, arguments.length
    text, held_out = texts(arguments)
    torch.manual_seed(seed)
    model, optimizer = build(variant, length)
    cut = VARIANTS[variant].get("cut_windows", 0.0)
    rng = np.random.default_rng(seed)
    bits: dict[str, float] = {}
    spent, by_position = 0.0, {}
    for step in range(arguments.steps):
        begin = int(rng.integers(0, len(text) - length))
        tokens = torch.from_numpy(text[begin : begin + length].astype(np.int64)) + 3
        window = CutWindows([{"input_ids": tokens}] * arguments.steps, cut, seed)[step]  # type: ignore[arg-type]
        started = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 50) * (1 - 0.9 * step / arguments.steps)
        train(model, optimizer, **{name: value[None] for name, value in window.items()})
        spent += time.process_time() - started
        if (step + 1) % EVERY == 0 or step + 1 == arguments.steps:
            bits[str(step + 1)], by_position = evaluate(model, held_out, length)
            print(f"{variant}: {step + 1} {bits[str(step + 1)]:.4f} {spent:.0f} s", file=sys.stderr, flush=True)
    return {
        "corpus": arguments.corpus,
        "length": length,
        "steps": arguments.steps,
        "variant": variant,
        "seed": seed,
        "bits": {name: round(value, 4) for name, value in bits.items()},
        "by position": by_position,
        "cpu seconds": round(spent, 1),
    }


def build(variant: str, length: int) -> tuple[reformer.ReformerForCausalLM, torch.optim.Optimizer]:
    settings = {"num_attention_heads": 4, **BASE, **VARIANTS[variant]}
    settings["window"] = min(settings["window"], length)
    settings.pop("cut_windows", None)
    config = reformer.ReformerConfig(hidden_size=128, num_hidden_layers=4, loss_chunk=2048, **settings)
    model = reformer.ReformerForCausalLM(config)
    return model, torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.98))


def train(model: Any, optimizer: torch.optim.Optimizer, input_ids: torch.Tensor, **documents: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(input_ids, labels=input_ids, **documents).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def evaluate(model: Any, text: np.ndarray, length: int) -> tuple[float, dict[str, float]]:
    """Bits per byte of windows that are predicted each alone, all and by position."""
    model.eval()
    sums = np.zeros(length - 1)
    windows = max(len(text) // length, 1)
    for i in range(windows):
        tokens = torch.from_numpy(text[i * length : (i + 1) * length].astype(np.int64))[None] + 3
        logits = model(tokens).logits[0, :-1]
        sums += torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none").double().numpy()
    model.train()
    bits = sums / windows / np.log(2)
    edges = [edge for edge in EDGES if edge < length] + [length]
    parts = {f"{a}-{b}": round(float(bits[a : b - (b == length)].mean()), 4) for a, b in itertools.pairwise(edges)}
    return float(bits.mean()), parts


if __name__ == "__main__":
    main()
