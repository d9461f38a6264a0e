"""Seconds of a training step beside an earlier commit's, and of this tree with memory that the C library keeps.

6 layers of width 512, 8 heads, 16,384 tokens, fp32, AdamW; the feed-forward layers whole and in pieces of 4,096
tokens. Three processes make their steps in turns; the least time of each, the median of its ratios to the step of the
earlier commit beside it, and the process's peak of resident memory.

    python benchmarks/step.py --before 5c0a8d7
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import save
from trees import ROOT, tree_of

KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
"""glibc gives freed memory back to the system only beyond these sizes, so it need not be cleared again."""


def serve(piece: int, length: int) -> None:
    """A step for each line on standard input; its seconds, and the process's MiB, on standard output."""
    import torch

    import reformer

    torch.manual_seed(0)
    config = reformer.ReformerConfig(
        hidden_size=512, num_hidden_layers=6, num_attention_heads=8, chunk_size_feed_forward=piece
    )
    model, ids = reformer.ReformerForCausalLM(config), torch.randint(3, 259, (1, length))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in sys.stdin:
        started = time.perf_counter()
        loss = model(ids, labels=ids).loss
        ahead = time.perf_counter()
        loss.backward()
        behind = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        row = {"step_s": time.perf_counter() - started, "forward_s": ahead - started, "backward_s": behind - ahead}
        print(json.dumps({**row, "peak_mib": int(peak.split()[1]) / 1024}), flush=True)


def alternate(kinds: dict[str, tuple[Path, dict[str, str]]], piece: int, length: int, rounds: int) -> list[Any]:
    """A process of each kind, which make their steps in turns, so that all see the same machine."""
    running = {}
    for name, (tree, memory) in kinds.items():
        command = [sys.executable, __file__, "--one", str(piece), "--before", "-", "--length", str(length)]
        environment = {**os.environ, "PYTHONPATH": str(tree / "src"), **memory}
        running[name] = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(rounds + 1):
        for name, process in running.items():
            print(file=process.stdin, flush=True)
            found[name].append(json.loads(process.stdout.readline()))
    for process in running.values():
        process.stdin.close()
        process.wait()
    first = next(iter(found.values()))[1:]  # the first step compiles and takes up memory
    rows = []
    for name, steps in found.items():
        ratio = statistics.median(a["step_s"] / b["step_s"] for a, b in zip(steps[1:], first, strict=True))
        least = min(steps[1:], key=lambda step: step["step_s"])
        rows.append({"tree": name, "piece": piece, **least, "peak_mib": steps[-1]["peak_mib"], "ratio": ratio})
        print(
            f"{name:16} pieces of {piece:4}: {least['step_s']:5.2f} s ({least['forward_s']:.2f} forward, "
            f"{least['backward_s']:.2f} backward), {steps[-1]['peak_mib']:.0f} MiB, ratio {ratio:.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="a commit to compare with")
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--pieces", type=int, nargs="+", default=[0, 4096])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        serve(arguments.one, arguments.length)
        return
    with tree_of(arguments.before) as before:
        kinds = {"before": (before, {}), "now": (ROOT, {}), "now, memory kept": (ROOT, KEPT)}
        rows = [
            row for piece in arguments.pieces for row in alternate(kinds, piece, arguments.length, arguments.rounds)
        ]
    save("step", rows, before=arguments.before, length=arguments.length)


if __name__ == "__main__":
    main()
