"""`CacheRows`: several caches as the rows of one batch, joining and leaving as they come."""

import torch

from reformer.errors import InputError
from reformer.layers.caches.layer import CacheLayer
from reformer.layers.caches.local import LocalCache
from reformer.layers.caches.rows import RowsOf
from reformer.models.cache import ReformerCache


class CacheRows(ReformerCache):
    """Rows of any lengths that take a step together; the memory of each stays where it is.

    A row joins with the cache of its prompt and leaves when it is done, at a cost that does not grow with its context.
    There is no padding, and nothing is cropped.
    """

    def _make_layers(self) -> list[CacheLayer]:
        layers = super()._make_layers()
        return [layer if isinstance(layer, LocalCache) else RowsOf(self.crop_limit) for layer in layers]

    @torch.inference_mode(False)
    def join(self, cache: ReformerCache) -> None:
        """Take over a cache of one row without padding; it is not to be used any more.

        Raises InputError for a cache of another model or crop limit, of several rows or with padding.
        """
        if cache.settings != self.settings or cache.crop_limit != self.crop_limit:
            raise InputError("a cache of other settings or another crop_limit cannot join; make it as these rows were")
        if len(cache.lengths) != 1 or cache.padding is not None or not cache.seen:
            raise InputError(f"the cache holds {len(cache.lengths)} rows; one row without padding can join")
        assert cache.rank is not None
        for layer, other in zip(self.layers, cache.layers, strict=True):
            if isinstance(layer, RowsOf):
                layer.join(other)  # type: ignore[arg-type]
            else:
                for name, recent in layer.recent.items():
                    recent.join(other.recent[name])
        self.rank = cache.rank if self.rank is None else torch.cat((self.rank, cache.rank))
        self.lengths = (*self.lengths, *cache.lengths)
        self.seen = max(self.lengths)

    def whole(self, rows: int) -> bool:
        """Whether there are so many rows, in every layer, and no forward broke off among them."""
        counts = {len(layer.parts) for layer in self.layers if isinstance(layer, RowsOf)}
        recent = [each for layer in self.layers for each in layer.recent.values() if each.data is not None]
        counts |= {len(each.high) for each in recent}
        return not self.within and len(self.lengths) == rows and counts <= {rows}

    def leave(self, row: int) -> None:
        """Forget a row; those behind it move up."""
        kept = [i for i in range(len(self.lengths)) if i != row]
        if not kept:
            self.reset()
            return
        self._select(torch.tensor(kept))
        self.seen = max(self.lengths)
