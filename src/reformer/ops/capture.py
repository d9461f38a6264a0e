"""CUDA graphs: what is captured computes on the GPU alone, again at every replay, in memory that must stay."""

from typing import TypeVar

import torch

Kept = TypeVar("Kept")


def capturing(device: torch.device) -> bool:
    """Whether a graph is being captured: then nothing may wait for the GPU, nor rely on what was computed before."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def held(kept: Kept, device: torch.device) -> Kept:
    """What a cache keeps, kept for good where a graph that is being captured will read it."""
    if capturing(device):
        _held.append(kept)
    return kept


_held: list[object] = []
