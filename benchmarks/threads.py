"""One row of few heads on one thread and on two: milliseconds of attention, forward and backward, and tasks for more.

Local attention (window 128) and LSH attention with default settings, heads of width 64, fp32; the least of the
repeats, threads in turn. `tasks` counts what may run at the same time, on average over the phases of the work weighed
by their runs: the most threads that such a call could keep busy.

    python benchmarks/threads.py --before 5c0a8d7
"""

import argparse
import json
import time
from typing import Any

from machine import save
from trees import beside

CASES = [(kind, heads, length) for kind in ("lsh", "local") for heads, length in ((1, 65536), (1, 16384), (3, 16384))]
THREADS = (1, 2)


def measure(kind: str, heads: int, length: int, repeats: int) -> dict[str, Any]:
    """Milliseconds by number of threads."""
    import torch

    from reformer.ops.attention import local_attention, lsh_attention

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, length, 64, requires_grad=True) for _ in range(3))
    least = {(threads, part): float("inf") for threads in THREADS for part in ("forward", "backward")}
    for repeat in range(repeats + 1):
        for threads in THREADS:
            torch.set_num_threads(threads)
            started = time.perf_counter()
            out = lsh_attention(q, v, seed=0) if kind == "lsh" else local_attention(q, k, v, window=128)
            ahead = time.perf_counter()
            out.sum().backward()
            for part, seconds in (("forward", ahead - started), ("backward", time.perf_counter() - ahead)):
                if repeat:
                    least[threads, part] = min(least[threads, part], seconds)
    row: dict[str, Any] = {"kind": kind, "heads": heads, "length": length}
    for threads in THREADS:
        row |= {f"{part}_ms_{threads}": 1e3 * least[threads, part] for part in ("forward", "backward")}
    one, two = (least[threads, "forward"] + least[threads, "backward"] for threads in THREADS)
    return {**row, "two_over_one": two / one, **parallel_tasks(kind, length)}


def parallel_tasks(kind: str, length: int) -> dict[str, float]:
    """Tasks that may run at the same time in one head on 64 threads, of this tree."""
    import numpy as np
    import torch

    try:
        from reformer.ops.cpu import kernels
        from reformer.ops.cpu.schedule import schedule_runs
        from reformer.ops.cpu.tasks import RUNS
    except ImportError:  # an earlier commit: a head is one task
        return {"forward_tasks": 1.0, "backward_tasks": 1.0}
    from reformer.ops.hashing import Rotations
    from reformer.ops.spec import LSH, Band, Local

    q, document = torch.randn(1, 1, length, 64), torch.zeros(1, length, dtype=torch.int32)
    spec = LSH() if kind == "lsh" else Local(rule=Band(128))
    hashed = [kernels.hash_rows(q, document, Rotations(None, 0), spec)] if isinstance(spec, LSH) else []
    runs = kernels.sorted_rows(hashed, document, spec)(0, 0).runs
    pieces, ends = schedule_runs(runs, kernels.options_of(spec, 0, q, True, 0))
    rounds = np.bincount(runs[:, 4])
    sizes = np.diff(pieces).ravel()
    phases = [(last - first, int(sizes[first:last].sum())) for first, last in zip([0, *ends], ends, strict=False)]
    return {
        "forward_tasks": float(np.average(-(-rounds // RUNS), weights=rounds)),
        "backward_tasks": float(np.average([tasks for tasks, _ in phases], weights=[size for _, size in phases])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a commit to compare with")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, heads, length = arguments.one.split()
        print(json.dumps(measure(kind, int(heads), int(length), arguments.repeats)))
        return
    rows = []
    cases = [f"{kind} {heads} {length}" for kind, heads, length in CASES]
    for row in beside(arguments.before, __file__, cases, ["--repeats", str(arguments.repeats)]):
        rows.append(row)
        print(
            f"{row['tree']:6} {row['kind']:5} {row['heads']} heads, {row['length']:6} tokens: forward "
            f"{row['forward_ms_1']:6.1f} ms on one thread, {row['forward_ms_2']:6.1f} on two; backward "
            f"{row['backward_ms_1']:6.1f}, {row['backward_ms_2']:6.1f}; together {row['two_over_one']:.2f}; "
            f"{row['forward_tasks']:.0f} and {row['backward_tasks']:.0f} tasks at a time",
            flush=True,
        )
    save("threads", rows, before=arguments.before)


if __name__ == "__main__":
    main()
