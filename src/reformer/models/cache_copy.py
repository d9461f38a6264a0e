"""`FrozenCache`: a cache that stays as it is, and copies of it that share its memory until they write to it.

A cache of many tokens is large, and what follows changes it in more places than at its end: its last row is completed
by the token that comes, which enters rings and the inputs of a convolution too. So copies must not see what others
write. On a CPU the system sees to that page by page: what is frozen lies in an anonymous file, which each copy maps
privately.
"""

import copy
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from typing import IO, Any

import torch
from torch import Tensor

from reformer.errors import InputError
from reformer.layers.caches.full import FullCache
from reformer.layers.caches.lsh import LSHCache
from reformer.layers.caches.wider_rows import WiderRows
from reformer.models.cache import ReformerCache

SHARED = 1 << 18
"""Bytes from which on a tensor is shared; smaller ones are copied."""

ROOM = 1 << 15
"""Tokens that a copy has room for behind those of the cache, or as many as it has: pages that stay empty are free."""


class FrozenCache:
    """What a cache holds now, to begin any number of caches with; nothing that becomes of these or of it changes that.

    On a CPU a copy takes the pages that it writes to, elsewhere the size of the cache.
    Raises InputError for a cache that has seen nothing, and for an encoder-decoder's.
    """

    @torch.inference_mode(False)
    def __init__(self, cache: ReformerCache) -> None:
        if cache.cross or not cache.seen or cache.rank is None:
            raise InputError("a cache that has seen nothing, or an encoder-decoder's, cannot be frozen")
        self.seen = cache.seen
        if cache.padding is None:
            cache.make_ready()  # what the next token needs is made once, not by each copy
        large = list(_large(cache)) if cache.rank.device.type == "cpu" else []
        self._layout = _Layout([(x.dtype, _shape(x, slots)) for x, slots in large])
        self._file = _anonymous_file(self._layout.size) if large else None
        self._shared: list[Tensor] = []
        if self._file is not None:
            weakref.finalize(self, self._file.close)
            self._shared = self._layout.views(mmap.mmap(self._file.fileno(), 0))
        filled = 0
        for (x, slots), view in zip(large, self._shared, strict=True):
            end = slots or x.shape[2]
            view[:, :, :end] = x[:, :, :end]
            filled += x[:, :, :end].numel() * x.element_size()
        self._cache = _copied(cache, {id(x): view for (x, _), view in zip(large, self._shared, strict=True)})
        for layer in self._cache.layers:
            _note_room(layer)
        self.earliest = max(
            (layer.earliest(row) for layer in cache.layers for row in range(cache.batch_size)), default=0
        )
        """The shortest length that a copy can be cropped to."""
        self.bytes: int = cache.bytes() - sum(x.nbytes for x, _ in large) + filled
        """Memory that it takes."""

    @torch.inference_mode(False)
    def copy(self) -> ReformerCache:
        """A cache of its own, which begins with what is frozen."""
        if self._file is None:
            return _copied(self._cache, {})
        private = self._layout.views(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY))
        return _copied(self._cache, {id(x): own for x, own in zip(self._shared, private, strict=True)})


class _Layout:
    """Where tensors of some types and shapes lie in one file."""

    def __init__(self, tensors: list[tuple[torch.dtype, torch.Size]]) -> None:
        self.places, self.size = [], 0
        for dtype, shape in tensors:
            self.places.append((self.size, dtype, shape))
            self.size += -(-shape.numel() * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE

    def views(self, memory: mmap.mmap) -> list[Tensor]:
        return [
            torch.frombuffer(memory, dtype=dtype, count=shape.numel(), offset=offset).view(shape)
            for offset, dtype, shape in self.places
        ]


def _anonymous_file(size: int) -> IO[bytes]:
    """Memory that has a file's ways, or where a system has none, a file that is gone when it is closed."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("cache"), "r+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the cache
    file.truncate(size)
    return file


def _large(cache: ReformerCache) -> Iterator[tuple[Tensor, int]]:
    """Tensors to share, and of those that grow with the text how many slots are in use."""
    for layer in cache.layers:
        if isinstance(layer, LSHCache) and layer.rings is not None:
            slots = max(length - dropped for length, dropped in zip(cache.lengths, layer.dropped, strict=True))
            tensors = [(layer.rings.rows, slots), *((x, 0) for each in layer.rings.sets for x in vars(each).values())]
        elif isinstance(layer, FullCache) and layer.keys is not None and layer.values is not None:
            tensors = [(layer.keys, max(cache.lengths)), (layer.values, max(cache.lengths))]
        else:
            continue
        yield from ((x, slots) for x, slots in tensors if x.nbytes >= SHARED)


def _shape(x: Tensor, slots: int) -> torch.Size:
    """That of a frozen tensor; one that grows has room for more, and a place for padding."""
    return torch.Size((*x.shape[:2], slots + max(slots, ROOM) + 1, *x.shape[3:])) if slots else x.shape


def _note_room(layer: Any) -> None:
    """Tell a layer of the room that its frozen tensors have."""
    if isinstance(layer, LSHCache) and layer.rings is not None:
        layer.room = layer.foreseen = layer.rings.padding_slot
        layer.wider = WiderRows()
    elif isinstance(layer, FullCache) and layer.keys is not None:
        layer.room = layer.keys.shape[2] - 1


def _copied(cache: ReformerCache, replaced: Mapping[int, Tensor]) -> ReformerCache:
    """A deep copy, but for tensors that others stand for, and for what nobody changes."""
    constant: list[Any] = [cache.settings, cache.octaves, *(cache.accepted or ())]
    for layer in cache.layers:
        if isinstance(layer, LSHCache) and layer.rings is not None:
            constant += [layer.spec, layer.rule, layer.rings.rotations, layer.rings.drawn, layer.rings.by_column]
    memo: dict[int, Any] = {id(x): x for x in constant} | dict(replaced)
    return copy.deepcopy(cache, memo)
