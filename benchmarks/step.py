"""Seconds of a training step beside an earlier commit's, and of this tree with memory that the C library keeps.

6 layers of width 512, 8 heads, 16,384 tokens, fp32, AdamW; the feed-forward layers whole and in pieces of 4,096
tokens. Each row is a process, trees in turn; the least of the repeats, and the process's peak of resident memory.

    python benchmarks/step.py --before 5c0a8d7
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import save
from trees import ROOT, tree_of

KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
"""glibc gives freed memory back to the system only beyond these sizes, so it need not be cleared again."""


def measure(piece: int, length: int, repeats: int) -> dict[str, Any]:
    """Seconds of forward, backward and the whole step, and MiB."""
    import torch

    import reformer

    torch.manual_seed(0)
    config = reformer.ReformerConfig(
        hidden_size=512, num_hidden_layers=6, num_attention_heads=8, chunk_size_feed_forward=piece
    )
    model, ids = reformer.ReformerForCausalLM(config), torch.randint(3, 259, (1, length))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        loss = model(ids, labels=ids).loss
        ahead = time.perf_counter()
        loss.backward()
        behind = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        times.append((time.perf_counter() - started, ahead - started, behind - ahead))
    whole, forward, backward = min(times[1:])  # the first compiles and takes up memory
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"step_s": whole, "forward_s": forward, "backward_s": backward, "peak_mib": int(peak.split()[1]) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="a commit to compare with")
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, arguments.length, arguments.repeats)))
        return
    rows = []
    with tree_of(arguments.before) as before:
        for piece in (0, 4096):
            for name, tree, memory in (("before", before, {}), ("now", ROOT, {}), ("now, memory kept", ROOT, KEPT)):
                command = [sys.executable, __file__, "--one", str(piece), "--before", arguments.before]
                command += ["--length", str(arguments.length), "--repeats", str(arguments.repeats)]
                environment = {**os.environ, "PYTHONPATH": str(tree / "src"), **memory}
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                rows.append({"tree": name, "piece": piece, **json.loads(done.stdout.splitlines()[-1])})
                row = rows[-1]
                print(
                    f"{name:16} pieces of {piece:4}: {row['step_s']:5.2f} s ({row['forward_s']:.2f} forward, "
                    f"{row['backward_s']:.2f} backward), {row['peak_mib']:.0f} MiB",
                    flush=True,
                )
    save("step", rows, before=arguments.before, length=arguments.length)


if __name__ == "__main__":
    main()
