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
from reformer.ops.exchange import Parts
from reformer.ops.flat import Attention, flattened
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
    parts: Parts | None = None
    """Where several processes hold the sequences, of which all else here is whole: their parts."""
    dropout_seeds: Sequence[int] = ()
    """That of each layer's dropout of weights, where processes must agree on it."""
    source_parts: Parts | None = None
    """Those of what a decoder attends to."""
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

    def waves(self, width: int, dtype: torch.dtype, own: bool = False) -> Waves:
        """Cosines and sines for heads of a width; `own`: of the tokens that this process holds."""
        positions = self.sequences.ranks.rank if self.positions is None else self.positions
        if own and self.parts is not None:
            positions = positions[:, self.parts.own]
        return self.sequences.remember(("waves", width, dtype, own), lambda: compute_waves(positions, width, dtype))

    def to_heads(self, *vectors: Float[Tensor, "b h own d"]) -> list[Float[Tensor, "b heads l d"]]:
        """All tokens of the heads that this process computes."""
        return [x if self.parts is None else self.parts.to_heads(x) for x in vectors]

    def to_parts(self, x: Float[Tensor, "b heads l d"]) -> Float[Tensor, "b h own d"]:
        """All heads of the tokens that this process holds."""
        return x if self.parts is None else self.parts.to_parts(x)

    def of_heads(self, spec: Attention, heads: int) -> Attention:
        """The attention of this process's heads, of so many."""
        if self.parts is None:
            return spec
        part_of = self.parts.heads(heads)
        return self.sequences.remember((spec, part_of), lambda: flattened(replace(spec, part_of=part_of)))
