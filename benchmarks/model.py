"""A training step of whole models: ours in fp32 and under bf16 autocast, the older implementations, exact attention.

Each model runs in a fresh process. Memory is the peak of its second step over what was resident before it, weights and
gradients included there; time is the best of --repeats steps. Linux only.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def measure(name: str, length: int, repeats: int) -> dict[str, Any]:
    import torch
    from memory import MIB, peak_over_start
    from model_peers import VOCABULARY, build

    model, loss = build(name, length)
    model.train()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    x = torch.randint(3, VOCABULARY, (1, length))
    seconds: list[float] = []

    def step() -> None:
        started = time.perf_counter()
        loss(x).backward()
        seconds.append(time.perf_counter() - started)

    step()  # compiles and loads; counts for the time all the same
    peak = peak_over_start(step)
    for _ in range(repeats - 2):
        step()
    weights = sum(p.numel() for p in model.parameters())
    return {"seconds": min(seconds), "peak_mib": peak / MIB, "weights": weights}


def profile(name: str, length: int) -> None:
    """Where the time of a step goes, by operator."""
    import torch
    from model_peers import VOCABULARY, build
    from torch.profiler import profile as record

    _, loss = build(name, length)
    x = torch.randint(3, VOCABULARY, (1, length))
    loss(x).backward()
    with record() as events:
        loss(x).backward()
    print(events.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


def main() -> None:
    from model_peers import NAMES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=16_384)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--repeats", type=int, default=2, help="two at least")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.length, arguments.repeats)))
        return
    if arguments.profile:
        for name in arguments.models:
            profile(name, arguments.length)
        return
    from machine import save
    from memory import in_fresh_process

    rows = []
    print(f"{'':24}{'weights':>12}{'seconds':>9}{'peak MiB':>10}")
    for name in arguments.models:
        size = f"--length={arguments.length}", f"--repeats={arguments.repeats}"
        row = {"model": name, "length": arguments.length, **in_fresh_process(__file__, f"--one={name}", *size)}
        rows.append(row)
        print(f"{name:24}{row['weights']:12,}{row['seconds']:9.2f}{row['peak_mib']:10.0f}", flush=True)
    if list(arguments.models) == list(NAMES):
        save("model", rows)


if __name__ == "__main__":
    main()
