"""Prompts that were read, with their caches: a request goes on behind the longest that it begins with."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reformer.errors import InputError, RunError
from reformer.models import ReformerForCausalLM
from reformer.models.cache import CROP_LIMIT, ReformerCache
from reformer.models.cache_copy import FrozenCache
from reformer.models.cache_file import load_cache, save_cache

Tokens = NDArray[np.int64]

SUFFIX = ".cache"

WORTH = 64
"""Tokens that a cache must save to be kept."""

SHARE = 16
"""To freeze a prompt costs as much as to read a fraction of its tokens: fewer new ones are not worth it."""


MOST = 256
"""Prompts at most: each takes handles of the system, and is compared with each request."""


@dataclass(eq=False)
class Prefix:
    """A prompt and its cache."""

    tokens: Tokens
    cache: FrozenCache
    pinned: bool = False
    """It stays, whatever else comes."""
    used: float = field(default_factory=time.monotonic)

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.cache.bytes + self.tokens.nbytes

    @property
    def name(self) -> str:
        """Of its file."""
        return blake2b(self.tokens.tobytes(), digest_size=16).hexdigest() + SUFFIX


class Prefixes:
    """Caches of prompts in bounded memory, the one that was used longest ago out first.

    A cache ends where its prompt ended, and can be taken back by `CROP_LIMIT` tokens. Where a prompt leaves a known one
    earlier than that, more prompts will: `fork` says where, for a cache to be kept from there.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.kept = most_bytes, list[Prefix]()
        self.stale = set[str]()  # files of prompts that were kept once

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(each.bytes for each in self.kept)

    def longest(self, prompt: Tokens) -> tuple[ReformerCache, int] | None:
        """A cache of the longest beginning of a prompt that is known, but for its last token; and its tokens."""
        best, most = None, 0
        for each in self.kept:
            common = min(_common(each.tokens, prompt), len(prompt) - 1)
            if common > most and common >= each.cache.earliest:
                best, most = each, common
        if best is None:
            return None
        best.used = time.monotonic()
        cache = best.cache.copy()
        cache.crop(most - len(best.tokens))
        return cache, most

    def fork(self, prompt: Tokens, known: int) -> int | None:
        """Where a prompt leaves the known ones, if that is far enough behind the `known` tokens to be worth a cache."""
        apart = max((_common(each.tokens, prompt) for each in self.kept), default=0)
        return apart if self._worth(apart, known) and apart < len(prompt) else None

    def add(self, prompt: Tokens, cache: ReformerCache | FrozenCache, known: int = 0, *, pinned: bool = False) -> None:
        """Keep the cache of a prompt of which `known` tokens were read before, if that is worth it and there is room.

        Raises InputError for one that is to stay and for which there is no room.
        """
        if not pinned and not self._worth(len(prompt), known):
            return
        for each in self.kept:
            if np.array_equal(each.tokens, prompt):
                each.pinned |= pinned
                return
        new = Prefix(prompt.copy(), cache if isinstance(cache, FrozenCache) else FrozenCache(cache), pinned)
        room = self.most_bytes - new.bytes - sum(each.bytes for each in self.kept if each.pinned)
        if room < 0 and pinned:
            raise InputError(
                f"the cache of the prompt's {len(prompt):,} tokens takes {new.bytes / 2**30:.2f} GiB, and prefix-gib "
                f"has {(room + new.bytes) / 2**30:.2f} left for it; raise it"
            )
        if room < 0:
            return
        self.kept.append(new)
        while self.bytes > self.most_bytes or len(self.kept) > MOST:
            oldest = min((each for each in self.kept[:-1] if not each.pinned), key=lambda each: each.used)
            self.kept.remove(oldest)
            self.stale.add(oldest.name)

    def load(self, folder: Path, model: ReformerForCausalLM) -> list[str]:
        """Take up what `save` wrote, newest last; what cannot be used is left out, and said in the lines returned."""
        said = []
        for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime):
            try:
                cache, tokens = load_cache(path, model)
                if tokens is None or tokens.shape[0] != 1 or cache.seen != tokens.shape[1]:
                    raise InputError(f"{path} is no prompt with its cache")
                if cache.crop_limit != CROP_LIMIT:
                    raise InputError(f"{path} has crop_limit={cache.crop_limit}, and a server needs {CROP_LIMIT}")
                self.add(tokens[0].cpu().numpy(), cache)
            except InputError as error:
                said.append(f"{error}; it is left out")
        return said

    def save(self, folder: Path, model: ReformerForCausalLM) -> list[str]:
        """Write what is kept, a file for each prompt, named by it; those of prompts that had to go are removed.

        No other file is touched. What cannot be written is left out, and said in the lines returned.
        """
        said = []
        for each in sorted(self.kept, key=lambda each: each.used):
            path = folder / each.name
            try:
                if path.exists():
                    path.touch()
                else:
                    save_cache(each.cache.copy(), path, model, torch.from_numpy(each.tokens)[None])
            except (InputError, RunError, OSError) as error:
                said.append(f"a prompt of {len(each.tokens):,} tokens is not kept: {error}")
        for name in self.stale - {each.name for each in self.kept}:
            (folder / name).unlink(missing_ok=True)
        return said

    @staticmethod
    def _worth(tokens: int, known: int) -> bool:
        return tokens - known >= max(WORTH, tokens // SHARE)


def _common(a: Tokens, b: Tokens) -> int:
    """Tokens that two texts begin with alike."""
    length = min(len(a), len(b))
    differing = a[:length] != b[:length]
    first = int(differing.argmax()) if length else 0
    return first if length and differing[first] else length


def as_tokens(tokens: Sequence[int]) -> Tokens:
    """Tokens as prefixes compare them."""
    return np.asarray(tokens, dtype=np.int64)
