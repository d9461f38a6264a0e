"""Whether kernels compute on a device what the plain backend computes there, on a small case, gradients included.

A backend that is chosen without being named has to show this first: kernels are compiled for the device, by a version
of a compiler that nobody may have tried on it.
"""

from threading import Thread
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from reformer.ops.hashing import Rotations
from reformer.ops.plain import backend as plain
from reformer.ops.sequences import Sequences
from reformer.ops.spec import LSH, Band, Local, Octaves

LENGTH, HEADS, WIDTH = 160, 2, 32

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 8e-2, torch.float16: 2e-2}
"""The largest difference that is put down to rounding, of results of about 1."""


def why_not(backend: ModuleType, device: torch.device, dtype: torch.dtype) -> str:
    """What is wrong with a backend, or nothing.

    In a thread of its own, which has none of the caller's modes: autocast, inference, hooks on what is saved, tapes.
    """
    reasons: list[str] = []

    def compare() -> None:
        try:
            reasons.append(_compare(backend, device, dtype))
        except Exception as error:  # whatever goes wrong in there, the plain backend is the way out
            reasons.append(" ".join(f"{type(error).__name__}: {error}".split())[:300])

    thread = Thread(target=compare)
    thread.start()
    thread.join()
    return reasons[0]


def _compare(backend: ModuleType, device: torch.device, dtype: torch.dtype) -> str:
    mask = torch.ones(1, LENGTH, dtype=torch.bool)
    mask[0, :3], mask[0, 50:60] = False, False
    cases: list[tuple[LSH | Local, Tensor | None]] = [
        (LSH(rule=Octaves(16), rounds=2, successor_values=True), None),
        (LSH(rule=Octaves(16), rounds=2, successor_values=True, causal=False), mask.to(device)),
        (Local(rule=Band(16), scale=1.0), None),
    ]
    for spec, padding in cases:
        expected = _results(plain, spec, padding, device, torch.float32, dtype)
        for a, b in zip(_results(backend, spec, padding, device, dtype, dtype), expected, strict=True):
            far = ((a.float() - b).abs() / b.abs().clamp(min=1)).max().item()
            if not far < TOLERANCE[dtype]:  # NaN is not
                return f"off by {far:.1e} with {spec}"
    return ""


def _results(
    backend: Any,
    spec: LSH | Local,
    padding: Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
    rounded_to: torch.dtype,
) -> list[Tensor]:
    """Output and gradients; inputs are drawn on the CPU, the same for every backend."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, HEADS, LENGTH, WIDTH, generator=generator) for _ in range(4)]
    grad, *inputs = (x.to(rounded_to).to(device, dtype) for x in drawn)
    leaves = [x.requires_grad_() for x in inputs[: 3 if isinstance(spec, Local) else 2]]
    sequences = Sequences.of(leaves[0], padding)
    if isinstance(spec, Local):
        out = backend.local(*leaves, sequences, spec, 0)
    else:
        out = backend.lsh(*leaves, leaves[0].detach(), sequences, Rotations(None, 0), spec, 0)
    if padding is not None:
        grad = grad * padding[:, None, :, None]
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]
