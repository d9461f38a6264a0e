"""Attention layers with their projections: by content (LSH), by place (local), and exact (full)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reformer.errors import InputError
from reformer.layers.batch import Batch
from reformer.layers.caches.full import FullCache
from reformer.layers.caches.local import LocalCache
from reformer.layers.caches.lsh import LSHCache
from reformer.layers.caches.rows import RowsOf
from reformer.layers.projections import SelfAttention
from reformer.ops.attention import attend_by_content, attend_nearby
from reformer.ops.checks import check_integer
from reformer.ops.exact_attention import exact_attention, visible_pairs
from reformer.ops.flat import flattened
from reformer.ops.hashing import KeptRotations, Rotations, draw_seed, layer_seeds
from reformer.ops.neighbourhoods import SortedRows
from reformer.ops.plain.backend import hashed_rows, near_rows, normalise_keys, pairs
from reformer.ops.plain.core import Pairs
from reformer.ops.shift import shift
from reformer.ops.spec import LSH, Chunks, Local, make_local, make_lsh


class Weighed(NamedTuple):
    """What one head of a layer weighs."""

    queries: Float[Tensor, "1 1 l d"]
    keys: Float[Tensor, "1 1 l d"]
    spec: LSH | Local
    rows: SortedRows
    pairs: tuple[Float[Tensor, "l"], Pairs]
    """As `attended_pairs` gives them."""


FULL_PIECE = 1024  # queries at a time where exact attention needs a mask


class LSHAttention(SelfAttention):
    """LSH attention with shared queries and keys, as `spec` or `options` say.

    Options are those of `reformer.lsh_attention` (its `dropout_p` is `dropout` here), and `num_hashes_eval`,
    `hash_seed` and `hash_rotations`.

    In front of `query_key`, and not of `value`, stands a `ShortConvolution` of `conv_size` tokens (0: none), so that a
    token is matched by some of its past.

    In training the rotations come from `seed`, or from one integer of torch's generator; in evaluation from
    `hash_seed`, unless `seed` is given. `hash_rotations="transformers"` draws them as transformers' Reformer
    does under its own `hash_seed`, from torch's generator seeded with it (`rule="chunk"`). `rotary` turns what is
    compared, not what is hashed, by `position_ids`, which are the ranks unless given (`rule="chunk"`). `bias` is that
    of the output, here and in the other kinds of attention.
    """

    query_key: nn.Linear
    value: nn.Linear

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int | None = None,
        *,
        spec: LSH | None = None,
        conv_size: int = 8,
        rotary: bool = False,
        bias: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, bias, ("query_key", "value"))
        self.spec = flattened(make_lsh(**options) if spec is None else spec)
        self.spec_in_evaluation = flattened(self.spec.in_evaluation())
        if rotary and not isinstance(self.spec.rule, Chunks):
            raise InputError("rotary=True in an LSH layer needs rule='chunk'; rule='bucket' sees content only")
        self.rotary, self.rotations = rotary, KeptRotations()
        self._convolve(hidden_size, conv_size, self.spec.causal)

    def _attend(self, x: Tensor, batch: Batch, layer: int) -> Tensor:
        q = self._heads(self.query_key, self._context(x, batch, layer))
        v = self._heads(self.value, x)
        step = batch.step
        if step is not None:
            cache = batch.caches[layer]
            assert isinstance(cache, LSHCache | RowsOf)
            if not step.first:
                return self._merge(cache.attend(q, v, step))
            assert isinstance(cache, LSHCache)
            cache.extend(q, v, step)
        q, v = batch.to_heads(q, v)
        spec = batch.of_heads(self.spec if self.training else self.spec_in_evaluation, self.num_heads)
        seed = self._seed(batch, layer)
        rotations = None
        if spec.hash_rotations == "transformers":
            rotations = self._transformers_rotations(spec, q)
        elif not self.training and not torch.compiler.is_compiling():  # a graph draws them where it hashes
            rotations = self.rotations.of(seed, q.shape[1], spec, self.head_dim, q.shape[2], x.device)
        out = attend_by_content(
            self._rotated(batch, q)[0] if self.rotary else q,
            v,
            spec,
            batch.sequences,
            hashed=q if self.rotary else None,
            rotations=rotations,
            seed=seed if rotations is None else None,
            dropout_seed=batch.dropout_seeds[layer] if batch.dropout_seeds else None,
        )
        return self._merge(batch.to_parts(out))

    def weighed(self, x: Float[Tensor, "1 l hidden"], batch: Batch, layer: int) -> Iterator[Weighed]:
        """Head by head, what the layer weighs in evaluation, by the plain backend."""
        q, spec = self._heads(self.query_key, self._context(x, batch, layer)), self.spec_in_evaluation
        seed, rotations = self._seed(batch, layer), None
        if spec.hash_rotations == "transformers":
            rotations = self._transformers_rotations(spec, q)
        spec = spec.fitted(q.shape[2])
        for head in range(self.num_heads):
            one = replace(spec, part_of=(head, self.num_heads))
            drawn = Rotations(None if rotations is None else rotations[head : head + 1], seed)
            mine = q[:, head : head + 1]
            rows, pattern = hashed_rows(mine, batch.sequences, drawn, one)
            turned = self._rotated(batch, mine)[0] if self.rotary else mine
            turned = batch.sequences.without_padding(turned)
            yield Weighed(
                turned, normalise_keys(turned), spec, rows, pairs(turned, normalise_keys(turned), rows, pattern, one)
            )

    def _seed(self, batch: Batch, layer: int) -> int:
        if batch.seeds:
            return batch.seeds[layer]
        return draw_seed() if self.training else layer_seeds(self.spec.hash_seed, 1)[0]

    def _transformers_rotations(self, spec: LSH, like: Tensor) -> Tensor:
        """What transformers draws on a CPU under `hash_seed`: rotations [h, d, r, columns] of the vectors' type."""
        assert isinstance(spec.rule, Chunks)
        columns = sum(spec.rule.factors or ()) // 2
        generator = torch.Generator().manual_seed(spec.hash_seed)
        heads = 1 if spec.share_rotations else self.num_heads
        drawn = torch.randn(heads, self.head_dim, spec.rounds, columns, generator=generator, dtype=like.dtype)
        first, _ = spec.first_of(self.num_heads)
        return drawn.transpose(1, 2).expand(self.num_heads, -1, -1, -1)[first : first + like.shape[1]]


class LocalAttention(SelfAttention):
    """Attention to near tokens, as `spec` or `options` say.

    Options are those of `reformer.ops.attention.local_attention` (its `dropout_p` is `dropout` here).
    `rotary` turns queries and keys by `position_ids`, which are the ranks unless given.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int | None = None,
        *,
        spec: Local | None = None,
        rotary: bool = False,
        bias: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, bias, ("query", "key", "value"))
        self.spec = flattened(make_local(**options) if spec is None else spec)
        self.spec_in_evaluation = flattened(self.spec.in_evaluation())
        self.rotary = rotary

    def weighed(self, x: Float[Tensor, "1 l hidden"], batch: Batch, layer: int) -> Iterator[Weighed]:
        """Head by head, what the layer weighs in evaluation, by the plain backend."""
        q, k = self._heads(self.query, x), self._heads(self.key, x)
        if self.rotary:
            q, k = self._rotated(batch, q, k)
        spec = self.spec_in_evaluation.fitted(x.shape[1])
        rows, pattern = near_rows(batch.sequences, spec)
        for head in range(self.num_heads):
            mine, keys = q[:, head : head + 1], k[:, head : head + 1]
            yield Weighed(mine, keys, spec, rows, pairs(mine, keys, rows, pattern, spec))

    def _attend(self, x: Tensor, batch: Batch, layer: int) -> Tensor:
        q, k = self._heads(self.query, x), self._heads(self.key, x)
        if self.rotary:
            q, k = self._rotated(batch, q, k, own=True)
        v = self._heads(self.value, x)
        step = batch.step
        if step is not None:
            cache = batch.caches[layer]
            assert isinstance(cache, LocalCache)
            if not step.first:
                return self._merge(cache.attend(q, k, v, step))
            cache.extend(k, v, step)
        q, k, v = batch.to_heads(q, k, v)
        spec = batch.of_heads(self.spec if self.training else self.spec_in_evaluation, self.num_heads)
        dropout_seed = batch.dropout_seeds[layer] if batch.dropout_seeds else None
        return self._merge(batch.to_parts(attend_nearby(q, k, v, spec, batch.sequences, dropout_seed=dropout_seed)))


class FullAttention(SelfAttention):
    """Exact attention through `scaled_dot_product_attention`, the baseline; cost grows with the square of l.

    `shifted_keys`: with a token's value, itself included, stands the key of the token before it in its document, zeros
    with the first; so a query matches what came before a value (Olsson et al. 2022, "smeared keys"; Xu et al. 2024,
    arXiv 2411.19574). With it a `ShortConvolution` of `conv_size` tokens stands in front of query and key.

    Raises InputError for shifted keys without `causal`.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int | None = None,
        *,
        causal: bool = True,
        dropout: float = 0.0,
        shifted_keys: bool = False,
        conv_size: int = 8,
        rotary: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(hidden_size, num_heads, head_dim, bias, ("query", "key", "value"))
        check_integer("conv_size", conv_size, 0)
        if shifted_keys:
            if not causal:
                raise InputError("shifted_keys=True needs causal=True: a key would stand with a value that came later")
            self._convolve(hidden_size, conv_size, causal)
        self.causal, self.dropout, self.shifted_keys, self.rotary = causal, dropout, shifted_keys, rotary

    def _attend(self, x: Tensor, batch: Batch, layer: int) -> Tensor:
        context, step, sequences = self._context(x, batch, layer), batch.step, batch.sequences
        q, k, v = self._heads(self.query, context), self._heads(self.key, context), self._heads(self.value, x)
        q, k, v = batch.to_heads(q, k, v)
        if self.shifted_keys and step is not None:
            k = batch.caches[layer].recent["keys"].follow(k, step, lambda keys, both: shift(keys, -1, both))
        elif self.shifted_keys:
            k = shift(k, -1, sequences)
        if self.rotary:
            q, k = self._rotated(batch, q, k)
        if step is not None:
            cache = batch.caches[layer]
            assert isinstance(cache, FullCache | RowsOf)
            if not step.first:
                return self._merge(cache.attend(q, k, v, step))
            assert isinstance(cache, FullCache)
            cache.extend(k, v, step)
        dropout = self.dropout if self.training else 0.0
        if not sequences.masked:
            return self._merge(batch.to_parts(exact_attention(q, k, v, dropout_p=dropout, causal=self.causal)))
        ranks, k, v = sequences.ranks, sequences.without_padding(k), sequences.without_padding(v)
        pieces = [
            exact_attention(q[:, :, rows], k, v, visible_pairs(ranks, self.causal, rows), dropout_p=dropout)
            for rows in (slice(start, start + FULL_PIECE) for start in range(0, q.shape[2], FULL_PIECE))
        ]
        return self._merge(batch.to_parts(sequences.without_padding(torch.cat(pieces, dim=2))))
