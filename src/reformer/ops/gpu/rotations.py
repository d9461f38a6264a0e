"""Rotations on the GPU, as the products of the hash take them."""

import torch
from torch import Tensor

from reformer.ops.capture import cached
from reformer.ops.hashing import Rotations, draw_rotations
from reformer.ops.spec import LSH


def rotations_for(q: Tensor, rotations: Rotations, spec: LSH, columns: int) -> Tensor:
    """Rotations [h, r, parts, d, columns], the sum of whose parts is as exact as fp32, in the type of the queries.

    At least one column of them; the last that were drawn from a seed are kept on the device.
    """
    heads, width = q.shape[1], q.shape[3]
    if rotations.given is not None:
        given = rotations.columns(columns, heads, width, spec)
        return _in_parts(given.to(q.device, torch.float32), q.dtype)
    drawn = rotations.seed, heads, spec.rounds, width, max(columns, 1), spec.share_rotations, spec.first_of(heads)[0]
    return _drawn(*drawn, q.dtype, q.device)


@cached(1)  # for a call that is captured in a CUDA graph, behind one that was not; layers keep their own
def _drawn(
    seed: int,
    heads: int,
    rounds: int,
    width: int,
    columns: int,
    share: bool,
    first_head: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    drawn = draw_rotations(seed, heads, rounds, width, columns, share, first_head=first_head)
    drawn = drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn
    return _in_parts(drawn, dtype)


def _in_parts(rotations: Tensor, dtype: torch.dtype) -> Tensor:
    """What three numbers of 8 or 11 bits hold of each number of 24: products with queries of that type are exact."""
    if dtype == torch.float32:
        return rotations[:, :, None]
    parts, rest = [], rotations
    for _ in range(3):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1].float()
    return torch.stack(parts, 2)
