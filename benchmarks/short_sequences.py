"""Batches of sentences: exact attention of short sequences beside tiles of sorted rows, and bf16 beside fp32.

Milliseconds of forward and backward, the least of ten, 4 heads of 64, two-sided, the second half of the rows padded.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import save
from torch import Tensor

from reformer.ops.attention import local_attention, lsh_attention

SHAPES = ((140, 15), (32, 60))


def measure(run: Callable[[], Tensor]) -> dict[str, float]:
    run().sum().backward()
    forward, backward = [], []
    for _ in range(10):
        start = time.perf_counter()
        out = run()
        middle = time.perf_counter()
        out.sum().backward()
        forward.append(middle - start)
        backward.append(time.perf_counter() - middle)
    return {"forward_ms": 1e3 * min(forward), "backward_ms": 1e3 * min(backward)}


def ways_of(b: int, length: int) -> dict[str, Callable[[], Tensor]]:
    q, k, v = (torch.randn(b, 4, length, 64, requires_grad=True) for _ in range(3))
    half = [x.detach().bfloat16().requires_grad_() for x in (q, k, v)]
    real = torch.arange(length) < torch.tensor([length] * (b // 2) + [length * 2 // 3] * (b - b // 2))[:, None]
    ways: dict[str, Callable[[], Tensor]] = {}
    for backend in ("auto", "numba"):
        options = {"causal": False, "key_padding_mask": real, "backend": backend}
        ways[f"local, {backend}"] = lambda o=options: local_attention(q, k, v, window=128, **o)
        ways[f"lsh, {backend}"] = lambda o=options: lsh_attention(q, v, window=64, seed=0, **o)
    ways["SDPA, fp32"] = lambda: F.scaled_dot_product_attention(q, k, v)
    ways["SDPA, bf16"] = lambda: F.scaled_dot_product_attention(*half)
    return ways


def main() -> None:
    rows = []
    for b, length in SHAPES:
        for name, run in ways_of(b, length).items():
            rows.append({"rows": b, "length": length, "way": name, **measure(run)})
            print(
                f"{b:>4} rows of {length:>3}  {name:<14}{rows[-1]['forward_ms']:8.2f}{rows[-1]['backward_ms']:8.2f} ms"
            )
    save("short_sequences", rows)


if __name__ == "__main__":
    main()
