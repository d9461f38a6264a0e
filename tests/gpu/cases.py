"""What the tests of the kernels share."""

from typing import Any

import torch
from torch import Tensor

from reformer.ops.attention import local_attention, lsh_attention

TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def vectors(shape: tuple[int, ...], count: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Tensors [b, h, l, d] whose heads lie side by side, as projections give them."""
    b, h, length, d = shape
    generator = torch.Generator().manual_seed(length + d)
    drawn = [torch.randn(b, length, h, d, generator=generator) for _ in range(count)]
    return [x.to(device, dtype).transpose(1, 2) for x in drawn]


def padded(batch: int, length: int, device: str) -> Tensor:
    """Padding in front, inside and behind; the last row has nothing else."""
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(length)) < 0.85
    mask[0, :5] = False
    mask[0, -7:] = False
    mask[-1] = False
    return mask.to(device)


def documents(batch: int, length: int, device: str) -> Tensor:
    starts = torch.rand(batch, length, generator=torch.Generator().manual_seed(length)) < 3 / length
    return starts.long().cumsum(1).to(device)


def with_gradients(inputs: list[Tensor], grad: Tensor, **options: Any) -> list[Tensor]:
    """The output of `lsh_attention`, or of `local_attention` for three inputs, and the gradients."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    attention = lsh_attention if len(leaves) == 2 else local_attention
    out = attention(*leaves, **options)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out))]


def compare(inputs: list[Tensor], grad: Tensor, **options: Any) -> None:
    """The kernels against the plain backend in fp64, which is compared with the dense reference elsewhere."""
    dtype = inputs[0].dtype
    found = with_gradients(inputs, grad, backend="triton", **options)
    wide = [x.double() for x in inputs]
    options |= {name: options[name].double() for name in ("rotations",) if options.get(name) is not None}
    expected = with_gradients(wide, grad.double(), backend="plain", **options)
    for name, a, b in zip(("output", "gradient", "gradient", "gradient"), found, expected, strict=False):
        assert a.dtype == dtype
        far = ((a.double() - b).abs() / b.abs().clamp(min=1)).max().item()
        assert far < TOLERANCE[dtype], f"{name}: off by {far:.2e} with {options}"
