"""Whether kernels compute on a device what the plain backend computes there, on a small case, gradients included.

A backend that is chosen without being named has to show this first: kernels are compiled for the device, by a version
of a compiler that nobody may have tried on it.
"""

from threading import Thread
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from reformer.ops.arguments import NO_LIMIT, Attending, Hashing
from reformer.ops.plain import backend as plain

LENGTH, HEADS, WIDTH = 160, 2, 32

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 8e-2, torch.float16: 2e-2}
"""Of results of about 1."""


def why_not(backend: ModuleType, device: torch.device, dtype: torch.dtype) -> str:
    """What is wrong with a backend, or nothing.

    In a thread of its own, which has none of the caller's modes: autocast, inference, hooks on what is saved, tapes.
    """
    found: list[str] = []

    def compare() -> None:
        try:
            found.append(_compare(backend, device, dtype))
        except Exception as error:  # whatever goes wrong in there, the plain backend is the way out
            found.append(" ".join(f"{type(error).__name__}: {error}".split())[:300])

    thread = Thread(target=compare)
    thread.start()
    thread.join()
    return found[0]


def _compare(backend: ModuleType, device: torch.device, dtype: torch.dtype) -> str:
    mask = torch.ones(1, LENGTH, dtype=torch.bool)
    mask[0, :3], mask[0, 50:60] = False, False
    cases: list[tuple[str, bool, Tensor | None]] = [
        ("bucket", True, None),
        ("bucket", False, mask.to(device)),
        ("local window", True, None),
    ]
    for rule, causal, padding in cases:
        expected = _results(plain, rule, causal, padding, device, torch.float32, dtype)
        for a, b in zip(_results(backend, rule, causal, padding, device, dtype, dtype), expected, strict=True):
            far = ((a.float() - b).abs() / b.abs().clamp(min=1)).max().item()
            if not far < TOLERANCE[dtype]:  # NaN is not
                return f"off by {far:.1e} with rule={rule!r}, causal={causal}"
    return ""


def _results(
    backend: Any,
    rule: str,
    causal: bool,
    padding: Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
    rounded_to: torch.dtype,
) -> list[Tensor]:
    """Output and gradients; inputs are drawn on the CPU, the same for every backend."""
    local = rule == "local window"
    at = Attending(rule, 16, 16, NO_LIMIT, 1, 0, 0, causal, False, not local, 1.0, 0.0, 0)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, HEADS, LENGTH, WIDTH, generator=generator) for _ in range(4)]
    grad, *inputs = (x.to(rounded_to).to(device, dtype) for x in drawn)
    leaves = [x.requires_grad_() for x in inputs[: 3 if local else 2]]
    if local:
        out = backend.local(*leaves, padding, None, at)
    else:
        out = backend.lsh(*leaves, leaves[0].detach(), padding, None, Hashing(2, None, 0, False, 256, ()), at)
    if padding is not None:
        grad = grad * padding[:, None, :, None]
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]
