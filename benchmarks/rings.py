"""Two layouts of a bucket's ring: slots of rows that are kept once, or the keys and values themselves.

One step of one LSH layer (4 heads of 64, 4 rounds, window 64, rings of 128, fp32, one thread) over random buckets: the
reads and products of the softmax, no hashing. Bytes are those of the whole layer.
"""

import argparse
import time
from typing import Any

import numba
import numpy as np
from machine import save

HEADS, ROUNDS, WINDOW, SIZE, WIDTH = 4, 4, 64, 128, 64


@numba.njit(fastmath=True)
def attend(q: Any, k: Any, v: Any, out: Any) -> Any:
    """Adds one candidate; returns its weight."""
    s = np.float32(0)
    for i in range(q.shape[0]):
        s += q[i] * k[i]
    p = np.exp(s)
    for i in range(q.shape[0]):
        out[i] += p * v[i]
    return p


@numba.njit(fastmath=True)
def by_slots(q: Any, rows: Any, ring: Any, buckets: Any, out: Any) -> None:
    for h in range(q.shape[0]):
        total = np.float32(0)
        for r in range(buckets.shape[1]):
            for i in range(WINDOW):
                row = rows[h, ring[h, r, buckets[h, r], i]]
                total += attend(q[h], row[0], row[1], out[h])
        out[h] /= total


@numba.njit(fastmath=True)
def by_copies(q: Any, ring: Any, buckets: Any, out: Any) -> None:
    for h in range(q.shape[0]):
        total = np.float32(0)
        for r in range(buckets.shape[1]):
            for i in range(WINDOW):
                row = ring[h, r, buckets[h, r], i]
                total += attend(q[h], row[0], row[1], out[h])
        out[h] /= total


def measure(context: int, steps: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    count = max(2 * context // WINDOW, 1)
    q = rng.standard_normal((steps, HEADS, WIDTH), np.float32) * 0.1
    buckets = rng.integers(count, size=(steps, HEADS, ROUNDS))
    rows = rng.standard_normal((HEADS, context, 2, WIDTH), np.float32)
    ring = rng.integers(context, size=(HEADS, ROUNDS, count, SIZE), dtype=np.int32)
    result: dict[str, Any] = {"context": context, "buckets": count}
    result["slots"] = {"bytes": rows.nbytes + ring.nbytes, "us": timed(by_slots, q, (rows, ring), buckets)}
    copies = ROUNDS * HEADS * count * SIZE * 2 * WIDTH * 4
    result["copies"] = {"bytes": copies}
    if copies < 8 << 30:
        whole = np.ones((HEADS, ROUNDS, count, SIZE, 2, WIDTH), np.float32)
        result["copies"]["us"] = timed(by_copies, q, (whole,), buckets)
    return result


def timed(step: Any, q: Any, memory: Any, buckets: Any) -> float:
    """Median microseconds of a step."""
    seconds = []
    for i in range(len(q)):
        out = np.zeros((HEADS, WIDTH), np.float32)
        start = time.perf_counter()
        step(q[i], *memory, buckets[i], out)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]) * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", type=int, nargs="+", default=[2048, 16384, 65536, 131072])
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    results = [measure(context, arguments.steps) for context in arguments.contexts]
    print(f"{'context':>9} {'slots, us':>10} {'MiB':>7} {'copies, us':>11} {'MiB':>7}")
    for row in results:
        slots, copies = row["slots"], row["copies"]
        print(
            f"{row['context']:>9,} {slots['us']:>10.0f} {slots['bytes'] / 2**20:>7.0f} "
            f"{copies.get('us', float('nan')):>11.0f} {copies['bytes'] / 2**20:>7.0f}"
        )
    save("rings", results)


if __name__ == "__main__":
    main()
