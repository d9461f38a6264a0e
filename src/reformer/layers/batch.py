"""The facts about one forward, for all layers of a stack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer.layers.caches.cross import CrossCache
from reformer.layers.caches.layer import CacheLayer
from reformer.layers.caches.step import Step
from reformer.layers.positions import Waves, compute_waves
from reformer.ops.sequences import Sequences


@dataclass(frozen=True, eq=False)
class Batch:
    """Made once a forward; a layer takes it whole, and its own number.

    A reversible block keeps it for its second run, which so meets the very tensors of the first.
    """

    sequences: Sequences
    """The tokens; those of a forward over a cache are its `Step`."""
    positions: Int[Tensor, "b l"] | None = None
    """What positional waves go by; None: the ranks."""
    seeds: Sequence[int] = ()
    """The seed of each layer's rotations; none: each draws, or takes, its own."""
    caches: Sequence[CacheLayer] = ()
    """What each layer keeps of the tokens in front of these; none: there is no cache."""
    source: Float[Tensor, "b s width"] | None = None
    """What a decoder attends to."""
    source_mask: Bool[Tensor, "b s"] | None = None
    cross_caches: Sequence[CrossCache] = ()
    """What each layer keeps of its source."""

    @property
    def step(self) -> Step | None:
        """Where the tokens stand behind those of a cache."""
        return self.sequences if isinstance(self.sequences, Step) else None

    def to(self, device: torch.device | str | int, **_: Any) -> "Batch":
        """The same facts on a device, moved there once; what caches hold stays with their layers."""
        if (where := torch.device(device)) == self.sequences.device:
            return self

        def move() -> Batch:
            moved: dict[str, Any] = {name: x.to(where) for name, x in vars(self).items() if isinstance(x, Tensor)}
            return replace(self, sequences=self.sequences.to(where), **moved)

        return self.sequences.remember(("batch", id(self), where), move)

    def waves(self, width: int, dtype: torch.dtype) -> Waves:
        """Cosines and sines for heads of a width."""
        positions = self.sequences.ranks.rank if self.positions is None else self.positions
        return self.sequences.remember(("waves", width, dtype), lambda: compute_waves(positions, width, dtype))
