"""The cache of cross-attention: keys and values of the sources, computed once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class CrossCache:
    """So many batch rows that follow each other have one source (beams, samples), and share its keys and values."""

    def __init__(self, repeats: int = 1) -> None:
        self.repeats = repeats
        self.keys: Float[Tensor, "sources h s d"] | None = None
        self.values: Float[Tensor, "sources h s d"] | None = None
        self.mask: Bool[Tensor, "sources s"] | None = None

    def distinct(
        self, source: Float[Tensor, "b s width"], mask: Bool[Tensor, "b s"] | None
    ) -> Float[Tensor, "sources s width"]:
        """The sources, each once; their masks are kept."""
        self.mask = None if mask is None else mask[:: self.repeats]
        return source[:: self.repeats]

    def fold(self, q: Float[Tensor, "b h k d"]) -> Float[Tensor, "sources h more d"]:
        """Rows of one source become more queries of one row."""
        return q.unflatten(0, (-1, self.repeats)).transpose(1, 2).flatten(2, 3)

    def unfold(self, out: Float[Tensor, "sources h more d"]) -> Float[Tensor, "b h k d"]:
        """The other way round."""
        return out.unflatten(2, (self.repeats, -1)).transpose(1, 2).flatten(0, 1)

    def select(self, index: Int[Tensor, "rows"]) -> None:
        """Keep these batch rows, in this order; beams that change places within their source cost nothing."""
        if self.keys is None or self.values is None:
            return
        sources = index.to(self.keys.device) // self.repeats
        self.repeats = _run_length(sources)
        kept = sources[:: self.repeats]
        if torch.equal(kept, torch.arange(len(self.keys), device=kept.device)):
            return
        self.keys, self.values = self.keys[kept], self.values[kept]
        self.mask = None if self.mask is None else self.mask[kept]

    def to(self, device: torch.device | str) -> None:
        """Move to a device."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys.to(device), self.values.to(device)
            self.mask = None if self.mask is None else self.mask.to(device)

    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(x.nbytes for x in (self.keys, self.values, self.mask) if x is not None)


def _run_length(values: Int[Tensor, "rows"]) -> int:
    """The length of the runs of equal values if all are as long, else 1."""
    runs = values.unique_consecutive(return_counts=True)[1]
    return int(runs[0]) if len(runs) and bool((runs == runs[0]).all()) else 1
