"""What all layers work out from the same masks, worked out once: ranks, and rows before they are sorted."""

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

from reformer.ops.capture import capturing

Found = TypeVar("Found")

FOUND = "_worked_out"  # an attribute of masks, so that results live as long as these


def share_masks(*masks: Tensor | None) -> tuple[Tensor | None, ...]:
    """Copies, to which nobody may write, on which `worked_out` keeps what it finds."""
    if torch.compiler.is_compiling():
        return masks
    found: dict[Hashable, object] = {}
    copies = tuple(None if mask is None else mask.clone() for mask in masks)
    for copy in copies:
        if copy is not None:
            setattr(copy, FOUND, found)
    return copies


def worked_out(masks: tuple[Tensor | None, ...], key: Hashable, compute: Callable[[], Found]) -> Found:
    """`compute()`, once for masks that `share_masks` gave together; its result must not hold the masks themselves.

    Never in a CUDA graph that is being captured, which has to compute everything itself.
    """
    given = [mask for mask in masks if mask is not None]
    found = getattr(given[0], FOUND, None) if given and not torch.compiler.is_compiling() else None
    together = all(getattr(mask, FOUND, None) is found for mask in given)
    if found is None or not together or capturing(given[0].device):
        return compute()
    key = key, *(mask is None for mask in masks)
    if key not in found:
        found[key] = compute()
    return found[key]
