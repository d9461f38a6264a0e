"""Attention on a GPU, forward and forward + backward, from 2,048 to 1,048,576 tokens, beside its peers.

bf16, 16 heads of 64, 4 rounds, window 64. A contender that is not installed, does not take a length, or ran longer
than --limit seconds at the length before is left out, with the reason. Then our kernels one by one, against what the
device was measured to do. `make gpu-bench`; --dry runs everything once, small, in Triton's interpreter.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import bare
import torch
from machine import save

LENGTHS = [1 << k for k in (11, 12, 14, 16, 18, 20)]
OURS = ("bucket", "chunk", "local")


def seconds_of(run: Callable[[], Any], budget: float) -> float:
    """The median of as many runs as fit into a budget of seconds, three to twenty, or of one that takes longer."""
    run()
    if not torch.cuda.is_available():
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    times: list[float] = []
    while len(times) < 20 and (len(times) < 3 or sum(times) < budget):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last) / 1000)
        if times[0] > budget:
            break
    return sorted(times)[len(times) // 2]


def inputs(length: int, heads: int, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    from gpu_peers import WIDTH

    torch.manual_seed(0)
    drawn = (torch.randn(1, length, heads, WIDTH, device=device, dtype=dtype).transpose(1, 2) for _ in range(2))
    return [x.requires_grad_() for x in drawn]


def measure(name: str, length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    from gpu_peers import CONTENDERS

    tensors = inputs(length, arguments.heads, arguments.device, arguments.dtype)
    run = CONTENDERS[name]

    def step() -> None:
        out = run(*tensors)
        torch.autograd.grad(out, tensors if name != "transformers layer" else tensors[1:], torch.ones_like(out))

    with torch.no_grad():
        forward = seconds_of(lambda: run(*tensors), arguments.budget)
    both = seconds_of(step, arguments.budget)
    peak = None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        peak = torch.cuda.max_memory_allocated() - before
    return {"contender": name, "length": length, "forward": forward, "both": both, "peak_bytes": peak}


def ceilings(size: int) -> dict[str, float]:
    """What the device copies, bytes read and written a second, and multiplies in bf16, FLOP a second."""
    a = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    copied = 2 * a.numel() / seconds_of(lambda: b.copy_(a), 0.2)
    x, y = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return {"bytes_per_second": copied, "flop_per_second": 2 * size**3 / seconds_of(lambda: x @ y, 0.2)}


def kernels_of(length: int, arguments: argparse.Namespace, ceiling: dict[str, float]) -> list[dict[str, Any]]:
    """Seconds of each of our kernels in a forward + backward, with the least bytes and the FLOP that it has to do."""
    from gpu_peers import ROUNDS, WIDTH, WINDOW, bucket
    from torch.profiler import ProfilerActivity, profile

    from reformer.ops.arguments import NO_LIMIT
    from reformer.ops.gpu import kernels, layout

    tensors = inputs(length, arguments.heads, arguments.device, arguments.dtype)
    each = layout.octave_layout(kernels.describe(tensors[0], None, None), WINDOW, NO_LIMIT, True).token.shape[1]
    rows, tokens = arguments.heads * ROUNDS * each, arguments.heads * ROUNDS * length
    line, pair = 2 * WIDTH, 2 * 2 * WINDOW * WIDTH  # bytes of a row; FLOP of a row's products with two tiles of keys
    work = {
        "attend_tiles": (rows * 2 * line + tokens * line, rows * 2 * pair),
        "differentiate_tiles": (rows * 2 * line + tokens * 2 * line + rows * 2 * line, rows * 5 * pair),
        "merge_rounds": (tokens * line + tokens // ROUNDS * line, 0),
        "merge_gradients": (tokens * line + rows * 2 * line + tokens // ROUNDS * 3 * line, 0),
    }

    def step() -> None:
        out = bucket(*tensors)
        torch.autograd.grad(out, tensors, torch.ones_like(out))

    step()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    found = []
    for event in sorted(profiled.key_averages(), key=lambda event: -event.self_device_time_total):
        seconds = event.self_device_time_total / 1e6
        if seconds == 0:
            continue
        row: dict[str, Any] = {"length": length, "kernel": event.key[:60], "seconds": seconds, "launches": event.count}
        if event.key in work:
            moved, computed = work[event.key]
            row["of_bandwidth"] = moved / seconds / ceiling["bytes_per_second"]
            row["of_flops"] = computed / seconds / ceiling["flop_per_second"]
        found.append(row)
    return found


def run_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from gpu_peers import CONTENDERS

    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for length in arguments.lengths:
        for name in arguments.contenders or CONTENDERS:
            if name in left_out:
                continue
            if time.perf_counter() - arguments.started > arguments.seconds:
                left_out[name] = "no time left"
                continue
            try:
                row = measure(name, length, arguments)
            except Exception as reason:  # whatever a peer says
                left_out[name] = f"{type(reason).__name__}: {str(reason).splitlines()[0][:100]}"
                print(f"{length:>9,} {name:<30} left out: {left_out[name]}")
                if name in OURS and arguments.dry:
                    raise
                continue
            finally:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            rows.append(row)
            print(f"{length:>9,} {name:<30}{row['forward'] * 1e3:>12.3f} ms{row['both'] * 1e3:>12.3f} ms", flush=True)
            if row["both"] > arguments.limit:
                left_out[name] = f"over {arguments.limit} s"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--contenders", nargs="+", default=[])
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--limit", type=float, default=4, help="seconds of a step beyond which a peer ends")
    parser.add_argument("--budget", type=float, default=0.3, help="seconds of runs of one figure")
    parser.add_argument("--seconds", type=float, default=330, help="start nothing new after so long")
    parser.add_argument("--dry", action="store_true", help="one small run of everything in the interpreter")
    arguments = parser.parse_args()
    arguments.started = time.perf_counter()
    arguments.device, arguments.dtype = "cuda", torch.bfloat16
    if arguments.dry:
        os.environ["TRITON_INTERPRET"] = "1"
        arguments.device, arguments.dtype, arguments.lengths, arguments.heads = "cpu", torch.float32, [130], 1
    elif not torch.cuda.is_available():
        sys.exit("there is no GPU; --dry runs everything once in Triton's interpreter")
    print(f"{'tokens':>9} {'':<30}{'forward':>15}{'with backward':>15}")
    rows = run_all(arguments)
    if arguments.dry:
        return
    ceiling = ceilings(8192)
    inside = [row for length in (1 << 14, 1 << 18) for row in kernels_of(length, arguments, ceiling)]
    for row in inside:
        shares = [f"{row[key]:.0%} of {key[3:]}" for key in ("of_bandwidth", "of_flops") if key in row]
        print(f"{row['length']:>9,} {row['kernel']:<60}{row['seconds'] * 1e3:>10.3f} ms  {', '.join(shares)}")
    save(
        "gpu_attention", rows, gpu=torch.cuda.get_device_name(), library=bare.LIBRARY, ceilings=ceiling, kernels=inside
    )


if __name__ == "__main__":
    main()
