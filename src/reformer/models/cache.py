"""`ReformerCache`: what a model keeps of the tokens that it has seen (a transformers `Cache`)."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache

from reformer.errors import InputError
from reformer.layers.caches.cross import CrossCache
from reformer.layers.caches.full import FullCache
from reformer.layers.caches.layer import CacheLayer
from reformer.layers.caches.local import LocalCache
from reformer.layers.caches.lsh import LSHCache
from reformer.layers.caches.step import Step, cut_into_octaves
from reformer.models.config import ReformerConfig
from reformer.ops.checks import check_integer
from reformer.ops.hashing import layer_seeds
from reformer.ops.spec import Octaves
from reformer.settings import ModelSettings

CROP_LIMIT = 64


def why_not_cached(settings: ModelSettings) -> str | None:
    """The reason why a model's decoding recomputes all tokens; None where a cache gives exactly the same."""
    if not settings.causal:
        return "causal=False: an earlier token sees later ones"
    kinds = set(settings.attention_pattern)
    if "lsh" in kinds and settings.rule == "chunk":
        return "rule='chunk': a new token changes which tokens earlier ones see"
    if "local" in kinds and settings.local_rule == "chunk":
        return "local_rule='chunk': its chunks go by slots, padding included"
    return None


OF_NO_CACHE = {
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "label_smoothing", "loss_chunk"),
    *("pooling", "embedding_dropout", "attention_dropout", "lsh_dropout", "hidden_dropout"),
    *("attention_output_dropout", "feed_forward_dropout", "chunk_size_feed_forward", "vocab_size"),
}
"""Settings that decoding in evaluation does not depend on."""


def differing(a: ModelSettings, b: ModelSettings) -> list[str]:
    """Names of the fields in which two models' settings differ, once what they leave open is worked out."""
    a, b = a.worked_out(), b.worked_out()
    return [field.name for field in fields(a) if getattr(a, field.name) != getattr(b, field.name)]


class ReformerCache(Cache):
    """Decoding with it equals the full forward, and costs the same at any context without full layers.

    Local layers keep their last window, LSH layers (`rule="bucket"`) all queries and values and rings of each bucket's
    last tokens, full layers all keys and values. With `num_buckets`, tokens that no window can come back to are dropped
    once that many buckets are reached, so that any stream fits into bounded memory: feed it in pieces, since memory
    that one long piece took is kept.

    Args:
        config: the model's.
        crop_limit: tokens that can always be taken back (speculative decoding, undo), at least 1.
        room: tokens that are known to come, so that memory need not grow.

    Raises InputError for a model whose decoding no cache can make exact (`rule="chunk"`, `causal=False`).
    """

    layers: list[CacheLayer]  # type: ignore[assignment]

    def __init__(self, config: ReformerConfig, *, crop_limit: int = CROP_LIMIT, room: int = 0) -> None:
        check_integer("crop_limit", crop_limit, 1)
        check_integer("room", room, 0)
        settings = (config.of_decoder() if config.is_encoder_decoder else config).settings
        if reason := why_not_cached(settings):
            raise InputError(f"this model has no cache ({reason}); pass use_cache=False to recompute every token")
        self.settings, self.crop_limit, self.room = settings, crop_limit, room
        rule = settings.lsh.rule
        self.octaves = rule if isinstance(rule, Octaves) else Octaves(num_buckets=1)  # then no layer hashes
        self.seen = 0
        self.lengths: tuple[int, ...] = ()
        self.rank: Int[Tensor, "b 1"] | None = None  # `lengths`, where the model is
        self.padding: Bool[Tensor, "b seen"] | None = None  # None: no padding so far
        self.within = False  # a forward is in its layers
        self.accepted: tuple[ModelSettings, int] | None = (
            None  # of the model that found it to be its own, its hash_seed
        )
        self.assisted = False  # `generate` hands over the whole text first, with what was drafted
        self.cross: list[CrossCache] = []  # of a decoder's layers, from its first forward on
        self.copies = 1  # batch rows that follow each other and have one source: beams, samples
        super().__init__(layers=self._make_layers())  # type: ignore[arg-type]

    def _make_layers(self) -> list[CacheLayer]:
        kinds, seeds = (
            self.settings.attention_pattern,
            layer_seeds(self.settings.hash_seed, self.settings.num_hidden_layers),
        )
        return [
            _make_layer(self.settings, kinds[i % len(kinds)], seed, self.crop_limit, self.room)
            for i, seed in enumerate(seeds)
        ]

    def _parts(self) -> Iterable[CacheLayer | CrossCache]:
        yield from self.layers
        yield from self.cross

    def cross_layers(self) -> list[CrossCache]:
        """Where the layers of a decoder keep the keys and values of their sources."""
        self.cross = self.cross or [CrossCache(self.copies) for _ in self.layers]
        return self.cross

    def begin(self, b: int, count: int, mask: Bool[Tensor, "b all"] | None, device: torch.device) -> Step:
        """Make room for `count` new tokens of each batch row; `mask` covers those in the cache too.

        What depends on numbers that the host knows happens here: growth, and octaves that start. Raises InputError for
        another batch size, a mask of another shape, and one that calls cached tokens otherwise than before.
        """
        if self.within:
            raise InputError("a forward over this cache did not end; start with a fresh cache")
        if self.rank is None or (not self.seen and all(layer.empty for layer in self.layers)):
            self.lengths = (0,) * b
            with torch.inference_mode(False):
                self.rank = torch.zeros(b, 1, dtype=torch.long, device=device)
        if len(self.lengths) != b:
            raise InputError(f"the batch has {b} rows and the cache {len(self.lengths)}; use a cache of its own for it")
        real = self._real(b, count, mask)
        self.within = True  # what fails from here on leaves half of a change in it
        step = self._plan(count, real)
        self.within = False
        return step

    def _plan(self, count: int, real: Bool[Tensor, "b k"] | None) -> Step:
        """Where new tokens stand, with room for them."""
        assert self.rank is not None
        if real is None:
            rank = self.rank + torch.arange(count, device=self.rank.device)
            after = tuple(length + count for length in self.lengths)
        else:
            rank = self.rank + real.cumsum(1) - real.long()
            after = tuple((self.rank + real.sum(1, keepdim=True))[:, 0].tolist())
        segments = cut_into_octaves(self.lengths, real, count, self.octaves)
        step = Step.behind(rank, real, self.lengths, after, segments)
        for layer in self.layers:
            layer.prepare(step)
        return step

    def _real(self, b: int, count: int, mask: Tensor | None) -> Tensor | None:
        """Which of the new tokens are real; None where all are."""
        if mask is None:
            if self.padding is not None:
                raise InputError("the cached tokens have padding; pass an attention_mask that covers them too")
            return None
        if mask.shape != (b, self.seen + count):
            raise InputError(
                f"attention_mask has shape {list(mask.shape)}; with {self.seen} cached tokens and {count} new ones it "
                f"must be [b, p + k] = [{b}, {self.seen + count}]"
            )
        past, real = mask[:, : self.seen], mask[:, self.seen :]
        if not torch.equal(past, torch.ones_like(past) if self.padding is None else ~self.padding):
            raise InputError(
                "attention_mask calls cached tokens otherwise than when they came; pass the same again; "
                "what `generate` wrote behind the end of a text counts as real"
            )
        return None if real.all() else real

    def end(self, step: Step) -> None:
        """Count the new tokens as seen."""
        assert self.rank is not None
        count = step.rank.shape[1]
        if step.real is not None or self.padding is not None:
            new = ~step.real if step.real is not None else step.rank.new_zeros(*step.rank.shape, dtype=torch.bool)
            old = self.padding if self.padding is not None else new.new_zeros(new.shape[0], self.seen)
            self.padding = torch.cat((old, new), dim=1)
        self.rank += count if step.real is None else step.real.sum(1, keepdim=True)
        self.seen, self.within = self.seen + count, False
        self._reach(step.after)

    def _reach(self, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths
        for layer in self.layers:
            layer.raise_high(lengths)

    def make_ready(self) -> tuple[Any, ...]:
        """Do the host's part of one more token: before a forward of one token is captured (CUDA graph) or replayed.

        A captured forward is good as long as what this returns is what it was at the capture. Raises InputError for an
        empty cache and for a batch with padding, whose masks change with each token.
        """
        if self.padding is not None or not self.seen:
            raise InputError(
                "only a forward over cached tokens without padding can be captured: its shapes stay the same"
            )
        self._plan(1, None)
        return tuple(layer.fixed() for layer in self.layers)

    def count_replay(self) -> None:
        """Count the token that a replay of a captured forward has added."""
        self.seen += 1
        self._reach(tuple(length + 1 for length in self.lengths))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen, padding included."""
        return self.seen

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: no limit."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -tokens_to_remove tokens, exactly; 0 does nothing (transformers' convention).

        Raises InputError for more than can be forgotten exactly: more than `crop_limit` once a local window has passed
        on or tokens were dropped.
        """
        if isinstance(tokens_to_remove, Tensor) and tokens_to_remove.numel() == 1:  # of older versions of transformers
            tokens_to_remove = int(tokens_to_remove)
        if not isinstance(tokens_to_remove, int) or tokens_to_remove > 0 or -tokens_to_remove > self.seen:
            raise InputError(
                f"crop({tokens_to_remove!r}): pass minus the number of tokens to forget, from 0 to -{self.seen}"
            )
        if not tokens_to_remove:
            return
        assert self.rank is not None
        kept = self.seen + tokens_to_remove
        after = [length + tokens_to_remove for length in self.lengths]
        if self.padding is not None:
            after = (~self.padding[:, :kept]).sum(1).tolist()
        for row, new in enumerate(after):
            earliest = max((layer.earliest(row) for layer in self.layers), default=0)
            if new < earliest:
                raise InputError(
                    f"crop({tokens_to_remove}) goes back behind what windows still hold; crop_limit={self.crop_limit} "
                    "tokens can be forgotten: make the cache with a larger crop_limit"
                )
        for layer in self.layers:
            layer.crop(self.lengths, after)
        if not kept:
            self.cross = []
        if self.padding is not None:
            self.padding = self.padding[:, :kept] if self.padding[:, :kept].any() else None
        self.lengths, self.seen = tuple(after), kept
        self.rank.copy_(torch.tensor(after)[:, None])

    @torch.inference_mode(False)  # what is made in inference mode could not be written to outside of it
    def _select(self, index: Int[Tensor, "rows"]) -> None:
        if self.rank is None:
            return
        for layer in self._parts():
            layer.select(index)
        self.rank = self.rank[index.to(self.rank.device)]
        self.lengths = tuple(self.lengths[i] for i in index.tolist())
        if self.padding is not None:
            self.padding = self.padding[index.to(self.padding.device)]

    def reorder_cache(self, beam_idx: Int[Tensor, "rows"]) -> None:
        """Keep the beams of that index, in its order."""
        if not torch.equal(beam_idx, torch.arange(len(self.lengths), device=beam_idx.device)):
            self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these batch rows, by index or by truth value."""
        self._select(indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each batch row."""
        self._select(torch.arange(len(self.lengths)).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything."""
        self.layers, self.cross = self._make_layers(), []
        self.seen, self.lengths, self.rank, self.padding, self.within = 0, (), None, None, False

    @torch.inference_mode(False)
    def to(self, device: torch.device | str) -> "ReformerCache":
        """Move to a device, in place."""
        for layer in self._parts():
            layer.to(device)
        self.rank = None if self.rank is None else self.rank.to(device)
        self.padding = None if self.padding is None else self.padding.to(device)
        return self

    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(layer.bytes() for layer in self._parts())

    @property
    def batch_size(self) -> int:
        """Batch rows; -1 while nothing was seen."""
        return len(self.lengths) if self.lengths else -1

    @property
    def is_initialized(self) -> bool:
        """Whether anything was seen."""
        return not all(layer.empty for layer in self.layers)

    def early_initialization(self, *_: Any, **__: Any) -> None:
        """Nothing to do: memory comes with tokens; `room` says how many are to come."""

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Tokens that a mask over cached and new ones has, and 0, where it begins."""
        return self.seen + query_length, 0

    def _refuse_offloading(self, *_: Any, **__: Any) -> None:
        """Layers stay where the model is; whole caches move."""
        raise InputError("a ReformerCache is not offloaded layer by layer; move all of it with cache.to(device)")

    offload = prefetch = _refuse_offloading

    @property
    def is_compileable(self) -> bool:
        """False: `generate` is not to make masks for static caches."""
        return False

    @property
    def is_croppable(self) -> bool:
        """True: `crop` leaves no trace."""
        return True

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refused: layers of other models keep keys and values of all tokens, these do not."""
        raise InputError("a ReformerCache belongs to the layers of a Reformer; give other models a cache of theirs")


def _make_layer(settings: ModelSettings, kind: str, seed: int, crop_limit: int, room: int) -> CacheLayer:
    inputs = {"inputs": settings.conv_size - 1} if settings.conv_size > 1 else {}
    if kind == "full":
        return FullCache(crop_limit, room, {**inputs, "keys": 1} if settings.shifted_keys else {})
    if kind == "local":
        return LocalCache(crop_limit, settings.local.in_evaluation())
    return LSHCache(crop_limit, settings.lsh.in_evaluation(), seed, room, inputs)
