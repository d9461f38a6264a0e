"""Attention on a GPU, forward and forward + backward, from 2,048 to 1,048,576 tokens, beside its peers.

bf16, 16 heads of 64, 4 rounds, window 64. Each figure twice: as a program runs it, where short sequences wait for the
launches of Python, and, up to 65,536 tokens, as a CUDA graph, where nothing waits. Ours first, at every length, then
the peers one by one. One that is not installed, does not take a length, or would take longer than --limit seconds by
its last two lengths is left out, with the reason. Then our kernels one by one, against what the device was measured to
do. What was measured is written after every figure. `make gpu-bench`; --dry runs everything once, small, in Triton's
interpreter.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import bare  # noqa: F401 - the library, where little is installed
import torch
from machine import save

LENGTHS = [1 << k for k in (11, 12, 14, 16, 18, 20)]
OURS = ("bucket", "chunk", "local")
GRAPHED = 1 << 16  # longer ones do not wait for launches
WAITING = ("reformer-pytorch", "transformers layer")  # for the GPU, so that no graph can be made of them


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


def replayed(run: Callable[[], Any], budget: float) -> float | None:
    """Seconds as a CUDA graph; None for what cannot be captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return seconds_of(graph.replay, budget)


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

    def only_forward() -> None:
        with torch.no_grad():
            run(*tensors)

    row: dict[str, Any] = {"contender": name, "length": length}
    row["forward"], row["both"] = (seconds_of(each, arguments.budget) for each in (only_forward, step))
    if torch.cuda.is_available() and length <= GRAPHED and name not in WAITING:
        row["forward_graph"], row["both_graph"] = (replayed(each, arguments.budget) for each in (only_forward, step))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        row["peak_bytes"] = torch.cuda.max_memory_allocated() - before
    return row


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

    from reformer.ops.gpu.layout import row_layout
    from reformer.ops.sequences import Sequences
    from reformer.ops.spec import Octaves

    tensors = inputs(length, arguments.heads, arguments.device, arguments.dtype)
    each = row_layout(Sequences.of(tensors[0]), Octaves(WINDOW), True).token.shape[1]
    rows, tokens = arguments.heads * ROUNDS * each, arguments.heads * ROUNDS * length
    line, pair = 2 * WIDTH, 2 * 2 * WINDOW * WIDTH  # bytes of a row; FLOP of a row's products with two tiles of keys
    work = {
        "attend_runs": (rows * 2 * line + tokens * line, rows * 2 * pair),
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


def run_all(arguments: argparse.Namespace, keep: Callable[[list[dict[str, Any]]], None]) -> None:
    """Every contender at every length; `keep` writes what there is."""
    from gpu_peers import CONTENDERS

    rows: list[dict[str, Any]] = []
    for name in arguments.contenders or CONTENDERS:
        expected = 0.0
        for length in arguments.lengths:
            spent = time.perf_counter() - arguments.started
            if name not in OURS and (expected > arguments.limit or spent + 4 * expected > arguments.seconds):
                print(f"{length:>9,} {name:<30} left out: some {expected:.1f} s a step, {spent:.0f} s gone", flush=True)
                break
            try:
                row = measure(name, length, arguments)
            except Exception as reason:  # whatever a peer says
                said = (str(reason).splitlines() or [""])[0][:100]
                print(f"{length:>9,} {name:<30} left out: {type(reason).__name__}: {said}", flush=True)
                if name in OURS and arguments.dry:
                    raise
                break
            finally:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            before = rows[-1]["both"] / rows[-1]["length"] if rows and rows[-1]["contender"] == name else 0.0
            rows.append(row)
            keep(rows)
            growth = row["both"] / row["length"] / before if before else 1.0  # beyond linear
            expected = row["both"] * 4 * max(growth, 1.0)
            figures = [row.get(key) for key in ("forward", "both", "forward_graph", "both_graph")]
            print(
                f"{length:>9,} {name:<30}", *(f"{x * 1e3:>11.3f} ms" if x else f"{'':>14}" for x in figures), flush=True
            )


def keep_rows(rows: list[dict[str, Any]], more: dict[str, Any]) -> None:
    save("gpu_attention", rows, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--contenders", nargs="+", default=[])
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--limit", type=float, default=25, help="seconds of a step beyond which a peer is left out")
    parser.add_argument("--budget", type=float, default=0.3, help="seconds of runs of one figure")
    parser.add_argument("--seconds", type=float, default=330, help="peers end after so long")
    parser.add_argument("--dry", action="store_true", help="one small run of everything in the interpreter")
    arguments = parser.parse_args()
    arguments.started = time.perf_counter()
    arguments.device, arguments.dtype = "cuda", torch.bfloat16
    if arguments.dry:
        os.environ["TRITON_INTERPRET"] = "1"
        arguments.device, arguments.dtype, arguments.lengths, arguments.heads = "cpu", torch.float32, [130], 1
    elif not torch.cuda.is_available():
        sys.exit("there is no GPU; --dry runs everything once in Triton's interpreter")
    titles = "forward", "with backward", "graph: forward", "with backward"
    print(f"{'tokens':>9} {'':<30}", *(f"{title:>14}" for title in titles))
    if arguments.dry:
        run_all(arguments, lambda rows: None)
        return
    more: dict[str, Any] = {"ceilings": ceilings(8192), "kernels": []}
    try:
        for length in (1 << 14, 1 << 18, 1 << 20):
            more["kernels"] += kernels_of(length, arguments, more["ceilings"])
    except RuntimeError as reason:  # a profiler that is not allowed to look
        print(f"no figures of single kernels: {reason}")
    for row in more["kernels"]:
        shares = [f"{row[key]:.0%} of {key[3:]}" for key in ("of_bandwidth", "of_flops") if key in row]
        print(f"{row['length']:>9,} {row['kernel']:<60}{row['seconds'] * 1e3:>10.3f} ms  {', '.join(shares)}")
    run_all(arguments, lambda rows: keep_rows(rows, more))


if __name__ == "__main__":
    main()
