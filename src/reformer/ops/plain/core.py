"""The plain backend: neighbourhood attention in ordinary PyTorch operations, on every device.

Sorted rows are cut into tiles, and a piece of tiles is computed at a time; scores live for one piece only. All
rounds form one softmax by plain addition under a shift that is fixed beforehand (`docs/rule.md`, identity 1),
and the backward recomputes each piece from the merged output and log-sum-exp (identity 2).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from reformer.ops.dropout import dropped, key_stream, query_stream
from reformer.ops.neighbourhoods import NOBODY, Pattern, SortedRows

PIECE = 1 << 20  # scores computed at a time

SAFE_EXPONENT = 80.0  # exp(-80) is still a normal fp32 number


@dataclass(frozen=True)
class CoreOptions:
    """What the core needs besides tensors."""

    pattern: Pattern
    scale: float
    once: bool
    """A distinct key counts once, however many rounds or slots offer it."""
    dropout_p: float
    dropout_seed: int
    keys_bounded: bool
    """No key is longer than 1, so that scale * |q| bounds the logits."""
    number: Callable[[Tensor, int], Tensor]
    """What dropout calls a (batch, head) of so many heads."""


@dataclass
class _Piece:
    """Some tiles: indices of their tokens in [b * h * l], and what depends on the pair."""

    query: Tensor  # [tiles, tile]
    key: Tensor  # [tiles, halo and tile]
    denied: Tensor  # [tiles, tile, halo and tile]
    dropped: Tensor | None  # numerators that dropout takes away
    share: Tensor | None  # one over the number of offers, for `once`


class _Tiling:
    """Sorted rows, cut into pieces of tiles."""

    def __init__(self, rows: SortedRows, heads: int, length: int, options: CoreOptions, dtype: torch.dtype) -> None:
        self.options, self.rows, self.length, self.dtype = options, rows, length, dtype
        pattern = options.pattern
        b, h, count = rows.token.shape
        self.batch_heads, self.heads, self.heads_per_row = b * heads, heads, heads // h
        tiles = -(-count // pattern.tile)
        device = rows.token.device
        index = torch.arange(-pattern.before, tiles * pattern.tile + pattern.after, device=device)
        if pattern.ring:
            index, outside = index % count, torch.zeros_like(index, dtype=torch.bool)
        else:
            outside = (index < 0) | (index >= count)
            index = index.clamp(0, count - 1)
        self.position = self._windows(index.int()[None])
        self.token = self._windows(rows.token.flatten(0, 1)[:, index])
        group = rows.group.flatten(0, 1)[:, index].masked_fill(outside, NOBODY)
        self.group = self._windows(group)
        is_query = rows.query.flatten(0, 1)[:, index] & ~outside
        self.query_group = self._queries(self._windows(group.masked_fill(~is_query, NOBODY - 1)))
        self.name = None if rows.name is None else self._windows(rows.name.flatten(0, 1)[:, index])

    def _windows(self, padded: Tensor) -> Tensor:
        pattern = self.options.pattern
        return padded.unfold(1, pattern.before + pattern.tile + pattern.after, pattern.tile)

    def _queries(self, windows: Tensor) -> Tensor:
        return windows[..., self.options.pattern.before :][..., : self.options.pattern.tile]

    def __iter__(self) -> Iterator[_Piece]:
        """Pieces: some tiles of one (batch, head), or all tiles of several."""
        _, tiles, width = self.token.shape
        at_once = max(PIECE // (width * self.options.pattern.tile), 1)
        heads_at_once = max(at_once // max(tiles, 1), 1)
        for first in range(0, self.batch_heads, heads_at_once):
            batch_heads = torch.arange(
                first, min(first + heads_at_once, self.batch_heads), device=self.token.device, dtype=torch.int32
            )
            for start in range(0, tiles, at_once):
                yield self._piece(batch_heads, slice(start, start + at_once))

    def _piece(self, batch_heads: Tensor, tiles: slice) -> _Piece:
        options, pattern = self.options, self.options.pattern
        rows = (batch_heads // self.heads_per_row).long()
        token, group = self.token[rows, tiles], self.group[rows, tiles]
        query_token = self._queries(token)
        allowed = self.query_group[rows, tiles].unsqueeze(-1) == group.unsqueeze(-2)
        if pattern.window is None:
            allowed &= self._in_time(query_token.unsqueeze(-1), token.unsqueeze(-2))
        else:
            allowed &= self._band(token.device)
        offset = (batch_heads * self.length)[:, None, None]
        return _Piece(
            query=(query_token + offset).flatten(0, 1),
            key=(token + offset).flatten(0, 1),
            denied=~allowed.flatten(0, 1),
            dropped=self._dropped(batch_heads, tiles, token).flatten(0, 1) if options.dropout_p else None,
            share=self._share(rows, tiles).flatten(0, 1) if options.once else None,
        )

    def _in_time(self, query: Tensor, key: Tensor) -> Tensor:
        pattern = self.options.pattern
        if pattern.causal:
            return key <= query if pattern.include_self else key < query
        return key == key if pattern.include_self else key != query

    def _band(self, device: torch.device) -> Tensor:
        """Which rows of the halo lie within the window: in a group, rows stand in time order (identity 3)."""
        pattern = self.options.pattern
        assert pattern.window is not None
        query = torch.arange(pattern.tile, device=device)[:, None] + pattern.before
        back = query - torch.arange(pattern.before + pattern.tile + pattern.after, device=device)
        band = (back <= pattern.window) & (back >= (0 if pattern.causal else -pattern.window))
        return band if pattern.include_self else band & (back != 0)

    def _dropped(self, batch_heads: Tensor, tiles: slice, token: Tensor) -> Tensor:
        """Dropout per round and slot, or per pair where a key counts once."""
        options, pattern = self.options, self.options.pattern
        hash_round = self._queries(self.position[:, tiles]) // (self.rows.token.shape[2] // self.rows.rounds)
        slot = torch.arange(token.shape[-1], device=token.device, dtype=torch.int32)
        slot = slot // pattern.tile if pattern.window is None else slot * 0
        if options.once:
            hash_round, slot = hash_round * 0, slot * 0
        called = options.number(batch_heads, self.heads)[:, None, None]
        query = query_stream(options.dropout_seed, called, hash_round, self._queries(token))
        return dropped(query.unsqueeze(-1), key_stream(token, slot).unsqueeze(-2), options.dropout_p)

    def _share(self, rows: Tensor, tiles: slice) -> Tensor:
        """One over how often a pair is offered in all, over all rounds and slots."""
        pattern, place = self.options.pattern, self.rows.place
        assert self.name is not None
        assert place is not None
        place = place.flatten(0, 1)[rows]  # [heads, r, names]
        name = self.name[rows, tiles]
        at = [place[:, i].gather(1, name.flatten(1)).view_as(name) for i in range(self.rows.rounds)]
        query_at = [self._queries(x).unsqueeze(-1) for x in at]
        key_at = [x.unsqueeze(-2) for x in at]
        if pattern.window is None:
            offers = torch.stack([self._slots(i, j) for i in query_at for j in key_at]).sum(0)
        else:
            group = self.rows.group.flatten(0, 1)[rows]
            groups = [group.gather(1, x.flatten(1)).view_as(x) for x in at]
            offered = [
                (self._queries(g).unsqueeze(-1) == g.unsqueeze(-2)) & ((i - j).abs() <= pattern.window)
                for g, i, j in zip(groups, query_at, key_at, strict=True)
            ]
            offers = torch.stack(offered).sum(0)
        return offers.clamp(min=1).to(self.dtype).reciprocal()

    def _slots(self, query_at: Tensor, key_at: Tensor) -> Tensor:
        """How many slots of a query at one place in the ring show the key at another."""
        pattern = self.options.pattern
        m = pattern.tile
        chunks, seen = self.rows.token.shape[2] // m, (pattern.before + pattern.after) // m + 1
        behind = (key_at // m - query_at // m + pattern.before // m) % chunks
        return (seen - behind + chunks - 1).clamp(min=0) // chunks


def _scores(piece: _Piece, q: Tensor, k: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Masked logits, scaled queries and keys of a piece."""
    queries, keys = _rows(q, piece.query, dtype).mul_(scale), _rows(k, piece.key, dtype)
    return torch.bmm(queries, keys.transpose(1, 2)).masked_fill_(piece.denied, -torch.inf), queries, keys


def _weights(piece: _Piece, q: Tensor, k: Tensor, shift: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """exp(logit - shift) of every pair, for `once` over the number of its offers; scaled queries and keys."""
    scores, queries, keys = _scores(piece, q, k, scale, shift.dtype)
    weights = scores.sub_(shift[piece.query].unsqueeze(-1)).exp_()
    if piece.share is not None:
        weights *= piece.share
    return weights, queries, keys


def _rows(x: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    return x.index_select(0, index.flatten()).to(dtype).view(*index.shape, -1)


def _shift(q: Tensor, k: Tensor, tiling: _Tiling, dtype: torch.dtype) -> Tensor:
    """What is subtracted from the logits of each query: their bound where that is safe, else their maximum."""
    options = tiling.options
    if options.keys_bounded:
        bound = abs(options.scale) * q.to(dtype).norm(dim=-1)
        if not bool((2 * bound > SAFE_EXPONENT).any()):
            return bound
    shift = torch.full(q.shape[:1], -torch.inf, dtype=dtype, device=q.device)
    for piece in tiling:
        scores = _scores(piece, q, k, options.scale, dtype)[0]
        shift.scatter_reduce_(0, piece.query.flatten().long(), scores.amax(-1).flatten(), "amax")
    return shift.masked_fill_(shift == -torch.inf, 0.0)


class _Core(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        options: CoreOptions,
        rounds: int,
        *rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        flat = [x.reshape(-1, x.shape[-1]) for x in (q, k, v)]
        tiling = _Tiling(_sorted_rows(rows, rounds), q.shape[1], q.shape[2], options, dtype)
        shift = _shift(flat[0], flat[1], tiling, dtype)
        numerator = torch.zeros(flat[2].shape, dtype=dtype, device=q.device)
        denominator = torch.zeros_like(shift)
        for piece in tiling:
            weights = _weights(piece, flat[0], flat[1], shift, options.scale)[0]
            index = piece.query.flatten()
            denominator.index_add_(0, index, weights.sum(-1).flatten())
            if piece.dropped is not None:
                weights.masked_fill_(piece.dropped, 0.0)
            numerator.index_add_(0, index, torch.bmm(weights, _rows(flat[2], piece.key, dtype)).flatten(0, 1))
        kept_denominator = denominator.masked_fill(denominator == 0, 1.0).mul_(1 - options.dropout_p)
        out = numerator.div_(kept_denominator.unsqueeze(-1)).view(v.shape)
        logsumexp = (shift + denominator.log()).view(q.shape[:3])
        ctx.save_for_backward(q, k, v, out, logsumexp, *rows)  # type: ignore[arg-type]
        ctx.options, ctx.rounds = options, rounds  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(logsumexp)
        return out, logsumexp

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, logsumexp, *rows = ctx.saved_tensors  # type: ignore[attr-defined]
        options: CoreOptions = ctx.options  # type: ignore[attr-defined]
        dtype, scale, keep = out.dtype, options.scale, 1 - options.dropout_p
        tiling = _Tiling(_sorted_rows(rows, ctx.rounds), q.shape[1], q.shape[2], options, dtype)  # type: ignore[attr-defined]
        flat_q, flat_k, flat_v, flat_grad, flat_out = (x.reshape(-1, x.shape[-1]) for x in (q, k, v, grad, out))
        delta = (flat_grad * flat_out).sum(-1)
        z = logsumexp.flatten()
        z = z.masked_fill(z == -torch.inf, 0.0)
        dq, dk, dv = (torch.zeros(x.shape, dtype=dtype, device=q.device) for x in (flat_q, flat_k, flat_v))
        for piece in tiling:
            p, queries, keys = _weights(piece, flat_q, flat_k, z, scale)
            grads = _rows(flat_grad, piece.query, dtype)
            dp = torch.bmm(grads, _rows(flat_v, piece.key, dtype).transpose(1, 2))
            kept = p
            if piece.dropped is not None:
                kept, dp = p.masked_fill(piece.dropped, 0.0), dp.masked_fill_(piece.dropped, 0.0).div_(keep)
            query, key = piece.query.flatten(), piece.key.flatten()
            dv.index_add_(0, key, torch.bmm(kept.transpose(1, 2), grads).flatten(0, 1), alpha=1 / keep)
            ds = dp.sub_(delta[piece.query].unsqueeze(-1)).mul_(p)
            dq.index_add_(0, query, torch.bmm(ds, keys).flatten(0, 1), alpha=scale)
            dk.index_add_(0, key, torch.bmm(ds.transpose(1, 2), queries).flatten(0, 1))
        grads_in = (dq.view(q.shape).to(q), dk.view(k.shape).to(k), dv.view(v.shape).to(v))
        return *grads_in, None, None, *(None for _ in rows)


Pairs = Iterator[tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"], Float[Tensor, "pairs"]]]
"""Queries, keys and weights."""


def attended_pairs(
    q: Float[Tensor, "b h l d"], k: Float[Tensor, "b h l d"], rows: SortedRows, options: CoreOptions
) -> tuple[Float[Tensor, "queries"], Pairs]:
    """What is subtracted from each query's logits, and the pairs of every piece: numbers in [b * h * l], exp(logit).

    A weight is divided by the number of its offers for `once`.
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    flat_q, flat_k = q.reshape(-1, q.shape[-1]), k.reshape(-1, k.shape[-1])
    tiling = _Tiling(rows, q.shape[1], q.shape[2], options, dtype)
    shift = _shift(flat_q, flat_k, tiling, dtype)

    def found() -> Pairs:
        for piece in tiling:
            weights, allowed = _weights(piece, flat_q, flat_k, shift, options.scale)[0], ~piece.denied
            query = piece.query.unsqueeze(-1).expand_as(allowed)[allowed]
            yield query, piece.key.unsqueeze(-2).expand_as(allowed)[allowed], weights[allowed]

    return shift, found()


def _sorted_rows(tensors: Sequence[Tensor | None], rounds: int) -> SortedRows:
    token, group, query, name, place = tensors
    assert token is not None
    assert group is not None
    assert query is not None
    return SortedRows(token, group, query, rounds, name, place)


def neighbour_attention(
    q: Float[Tensor, "b h l d"],
    k: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l e"],
    rows: SortedRows,
    options: CoreOptions,
) -> tuple[Float[Tensor, "b h l e"], Float[Tensor, "b h l"]]:
    """Attend along sorted rows; outputs in fp32 or wider and log-sum-exps (-inf where nothing is offered)."""
    shared = (x.expand(q.shape[0], -1, -1) for x in (rows.token, rows.group, rows.query))
    out, logsumexp = _Core.apply(q, k, v, options, rows.rounds, *shared, rows.name, rows.place)
    return out, logsumexp
