"""From tensors to kernels: which tiles, how many programs, and what is kept between two launches."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from math import prod
from typing import Any

import torch
from torch import Tensor

from reformer.ops.dropout import drop_threshold, signed
from reformer.ops.gpu import backward, forward, fused
from reformer.ops.gpu import hashing as hash_kernels
from reformer.ops.gpu.layout import HASHED, Layout, hashed_rows, layout_of, local_rows, order_rows, reach_of
from reformer.ops.gpu.rotations import rotations_for
from reformer.ops.gpu.tiles import BY_ONE, BY_TABLE, OWN, WIDE, Beside, Dropout, Heads, cdiv
from reformer.ops.gpu.tuning import size_class
from reformer.ops.hashing import Rotations, columns_for
from reformer.ops.plain.backend import bucket_type
from reformer.ops.ranks import Ranks
from reformer.ops.sequences import Sequences
from reformer.ops.spec import KEY_EPS, LSH, Chunks, Local

PARTS = 1 / 3
"""Share of the device's memory for what rounds give before they are added up; beyond, fewer rounds are computed at a
time, and their sum is kept in fp32."""

NARROW = (torch.bfloat16, torch.float16)
"""Types of which large tiles and those of the fused backward fit into registers."""

COLUMNS = 32  # of a product of the hash
MERGED = 16  # tokens of a program that adds up rounds


def prepare(sequences: Sequences, spec: LSH | Local) -> tuple[list[Tensor], list[int]]:
    """The layout of the rows, or, in a graph that is traced and knows no sizes, what it follows from."""
    if not torch.compiler.is_compiling():
        return sequences.remember(("layout", spec), lambda: layout_of(sequences, spec).packed())
    ranks = sequences.ranks
    return ([ranks.real, ranks.document, ranks.rank, ranks.last] if sequences.masked else []), []


def describe(q: Tensor, facts: list[Tensor], sizes: list[int], spec: LSH | Local) -> Layout:
    """The layout inside an operator."""
    if sizes:
        return Layout.unpacked(facts, sizes)
    sequences = Sequences(q.shape[0], q.shape[2], q.device)
    if facts:
        ranks = Ranks(*facts)
        memo: dict[Any, Any] = {"ranks": (ranks, None)}
        sequences = replace(sequences, key_padding_mask=ranks.real, segment_ids=ranks.document, memo=memo)
    return layout_of(sequences, spec)


def in_kernel_type(x: Tensor) -> Tensor:
    """The numbers of a token side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def compute_type(_: Tensor) -> torch.dtype:
    """The type of log-sum-exps."""
    return torch.float32


def empty_heads(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Fresh memory [b, h, l, d] in which the heads of a token lie side by side, as the projections want them."""
    b, h, length, d = like.shape
    return like.new_empty(b, length, h, d, dtype=dtype or like.dtype).transpose(1, 2)


def on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Launch kernels where the first tensor is, whatever device is the current one."""

    @wraps(function)
    def call(x: Tensor, *arguments: Any) -> Any:
        with torch.cuda.device_of(x):
            return function(x, *arguments)

    return call


@on_its_device
def hash_rows(q: Tensor, layout: Layout, rotations: Rotations, spec: LSH) -> Tensor:
    """The bucket of every row of the layout, or, by chunks, of every token: [b, h, r, bytes]."""
    b, h, length, width = q.shape
    rounds, rule, blocks = spec.rounds, spec.rule, cdiv(length, HASHED)
    common: dict[str, Any] = {"D": width, "BD": padded(width), "T": HASHED, "PRECISION": "tf32x3"}
    common["PARTS"] = 1 if q.dtype == torch.float32 else 3
    grid = (b * h * rounds * blocks,)
    if isinstance(rule, Chunks):
        factors = rule.factors or ()
        matrix = rotations_for(q, rotations, spec, sum(factors) // 2)
        buckets = q.new_empty(b, h, rounds, length, dtype=bucket_type(prod(factors)))
        hash_kernels.hash_factors[grid](
            heads_of(q), matrix, buckets, h, length, blocks, rounds, *matrix.stride(),
            **common, C=COLUMNS, FACTORS=factors,
        )  # fmt: skip
        return buckets.view(torch.uint8)
    assert layout.names is not None
    assert layout.alive is not None
    octaves, n = layout.names.shape[1], layout.token.shape[1]
    direct = min(octaves, rule.factor_from.bit_length())
    columns = max(columns_for(range(octaves), rule.factor_from), 1)
    matrix = rotations_for(q, rotations, spec, columns)
    buckets = q.new_empty(b, h, rounds, n, dtype=bucket_type(1 << octaves - 1))
    need, need_more = hash_kernels.doublings(octaves, direct)
    hash_kernels.hash_octaves[grid](
        heads_of(q), matrix, layout.names, layout.alive, buckets, h, length, blocks, size_class(grid[0]),
        rounds, n, batch_step(layout.names), batch_step(layout.alive), *matrix.stride(), **common,
        COLUMNS=columns, OCTAVES=octaves, DIRECT=direct, NEED=need, NEED_MORE=need_more,
    )  # fmt: skip
    return buckets.view(torch.uint8)


def padded(width: int) -> int:
    """The width of tiles, a power of two."""
    return max(1 << (width - 1).bit_length(), 16)


def heads_of(x: Tensor) -> Heads:
    """A tensor [b, h, l, d], or [b, h, rounds, rows, d] of parts, as kernels take it."""
    batch, head, *_, row, _ = x.stride()
    return Heads(x, batch, head, row, WIDE[x.shape[2:-1].numel() * row >= 1 << 31])


def batch_step(x: Tensor) -> int:
    """The distance between batch rows, 0 if all are alike."""
    return x.stride(0) if x.shape[0] > 1 else 0


@on_its_device
def sort_rows(buckets: Tensor, layout: Layout, spec: LSH) -> list[Tensor]:
    """Rows in the order of their buckets: token, name, low, and where it is not low, high."""
    return order_rows(buckets, layout, spec)


class Launch:
    """One attention: its rows, the numbers that all kernels need, and how its rounds are grouped."""

    def __init__(
        self, q: Tensor, shared: bool, rows: list[Tensor], layout: Layout, spec: LSH | Local, dropout_seed: int
    ) -> None:
        self.spec, self.shared, self.layout, self.device = spec, shared, layout, q.device
        self.b, self.h, self.length, self.width = q.shape
        local = isinstance(spec, Local)
        self.rounds, self.rows = (
            (1, local_rows(layout)) if isinstance(spec, Local) else (spec.rounds, hashed_rows(*rows))
        )
        all_rows = self.b * self.h * self.rounds * max(self.rows.each, self.length)
        self.rows = self.rows._replace(wide=WIDE[all_rows >= 1 << 31])
        rule, band = spec.rule, not isinstance(spec.rule, Chunks)
        reach = rule.length if isinstance(rule, Chunks) else rule.window
        self.tile = 64 if reach > 32 and q.dtype in NARROW else 32
        self.fused = band and spec.causal and not spec.dropout and q.dtype in NARROW and padded(self.width) <= 64
        seen = reach_of(spec, self.tile, 0, 0).before + local  # keys of a query, itself included or not
        self.fused &= seen <= self.tile <= self.rows.each and spec.scale_at(self.width) > 0
        words = signed(dropout_seed), signed(dropout_seed >> 32)
        self.dropout = Dropout(*words, drop_threshold(spec.dropout), 1.0 - spec.dropout, *spec.first_of(self.h))
        self.common: dict[str, Any] = {
            "D": self.width, "BD": padded(self.width), "M": self.tile, "BAND": band,
            "CAUSAL": spec.causal, "SELF": local, "SHARED": shared, "DROP": spec.dropout > 0, "EPS": KEY_EPS,
            "DELIVERS": (OWN if not spec.successor_values else BY_ONE if layout.following is None else BY_TABLE).value,
            "PRECISION": precision(q),
        }  # fmt: skip

    @property
    def fused_options(self) -> dict[str, Any]:
        names = ("D", "BD", "M", "SELF", "SHARED", "DELIVERS", "EPS", "PRECISION")
        return {name: self.common[name] for name in names}

    def beside(self, offset: int) -> Beside:
        """Where the tokens stand whose values tokens deliver (1), or which deliver theirs (-1)."""
        slot = self.layout.following if offset == 1 else self.layout.preceding
        return Beside(self.rows.token, 0) if slot is None else Beside(slot, batch_step(slot))

    def groups(self, bytes_of_round: int) -> list[tuple[int, int]]:
        """Rounds that are computed together; a ring has all of them in one."""
        if not self.common["BAND"]:
            return [(0, self.rounds)]
        memory = torch.cuda.get_device_properties(self.device).total_memory if self.device.type == "cuda" else 1 << 34
        at_once = max(min(int(PARTS * memory) // bytes_of_round, self.rounds), 1)
        return [(i, min(i + at_once, self.rounds)) for i in range(0, self.rounds, at_once)]

    def tiles(self, rounds: tuple[int, int]) -> tuple[Any, int]:
        """The reach of some rounds' rows and how many tiles they are."""
        first, end = (i * self.rows.each for i in rounds)
        reach = reach_of(self.spec, self.tile, first, end)
        return reach, -(-(end - first) // reach.chunk) * cdiv(reach.chunk, self.tile)

    @property
    def heads(self) -> int:
        return self.b * self.h

    def real(self) -> tuple[Tensor, int]:
        """Which tokens are not padding, and the distance between batch rows."""
        real = self.layout.real
        return (self.rows.token, 0) if real is None else (real, batch_step(real))

    @property
    def merging(self) -> dict[str, Any]:
        return {"D": self.width, "BD": padded(self.width), "T": MERGED, "MASKED": self.layout.real is not None}


def precision(x: Tensor) -> str:
    """How products are computed: fp32 as exactly as three products of TF32, unless the caller allows one."""
    if x.dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


@on_its_device
def attend(
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    rows: list[Tensor],
    layout: Layout,
    spec: LSH | Local,
    dropout_seed: int,
) -> tuple[Tensor, Tensor]:
    """Outputs [b, h, l, d] and log-sum-exps [b, h, l]; without `k`, keys are the normalised queries."""
    launch = Launch(q, k is None, rows, layout, spec, dropout_seed)
    b, h, length, width = v.shape
    out, z = empty_heads(v), v.new_empty(b, h, length, dtype=torch.float32)
    real, real_step = launch.real()
    blocks = cdiv(length, MERGED)
    queries, values = heads_of(q), heads_of(v)
    inputs = queries, queries if k is None else heads_of(k), values, launch.rows, launch.beside(1)

    def attend_rounds(rounds: tuple[int, int], out: Tensor, z: Tensor, keeps_own: bool) -> None:
        reach, tiles = launch.tiles(rounds)
        first, count = rounds[0], rounds[1] - rounds[0]
        numbers = spec.scale_at(width), h, length, tiles, size_class(launch.heads * tiles), first, count
        if launch.fused:
            fused.attend_runs[lambda meta: (launch.heads * cdiv(tiles, meta["RUN"]),)](
                *inputs, heads_of(out), z, reach, *numbers, **launch.fused_options
            )  # fmt: skip
            return
        forward.attend_tiles[(launch.heads * tiles,)](
            *inputs, heads_of(out), z, reach, launch.dropout, *numbers, **launch.common, N=launch.tile,
            KEEPS_OWN=keeps_own,
        )  # fmt: skip

    if launch.rounds == 1:
        if layout.real is not None:
            out.zero_(), z.fill_(-torch.inf)
        attend_rounds((0, 1), out, z, spec.keeps_own)
        return out, z
    groups = launch.groups(launch.heads * length * (width * v.element_size() + 4))
    summed = out if len(groups) == 1 else empty_heads(v, torch.float32)
    for first, end in groups:
        parts = v.new_empty(b, h, end - first, length, width)
        part_z = v.new_empty(b, h, end - first, length, dtype=torch.float32)
        attend_rounds((first, end), parts, part_z, False)
        last = end == launch.rounds
        forward.merge_rounds[(launch.heads * blocks,)](
            heads_of(parts), part_z, values, real, heads_of(summed), heads_of(out if last else summed), z, h,
            length, blocks, end - first, real_step, **launch.merging, MORE=first > 0, KEEPS_OWN=last and spec.keeps_own,
        )  # fmt: skip
    return out, z


@on_its_device
def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    rows: list[Tensor],
    layout: Layout,
    spec: LSH | Local,
    dropout_seed: int,
) -> list[Tensor]:
    """Gradients of queries, of values, and of keys that are not the queries."""
    launch = Launch(q, k is None, rows, layout, spec, dropout_seed)
    b, h, length, width = v.shape
    deltas = torch.empty_like(logsumexp)
    blocks = cdiv(length, MERGED)
    shape = {"D": width, "BD": padded(width), "T": MERGED}
    queries, slopes = heads_of(q), heads_of(grad)
    backward.dot_rows[(launch.heads * blocks,)](slopes, heads_of(out), deltas, h, length, blocks, **shape)
    keys = queries if k is None else heads_of(k)
    inputs = queries, keys, heads_of(v), slopes, launch.rows, launch.beside(1), logsumexp, deltas

    def differentiate(rounds: tuple[int, int], dq: Tensor, dk: Tensor, dv: Tensor, each: int) -> None:
        reach, tiles = launch.tiles(rounds)
        gradients = [heads_of(x) for x in (dq, dk, dv)]
        numbers = spec.scale_at(width), h, length, tiles, size_class(launch.heads * tiles), rounds[0]
        if launch.fused:
            fused.differentiate_tiles[lambda meta: (launch.heads * cdiv(tiles, meta["RUN"]),)](
                *inputs, *gradients, reach, *numbers, each, **launch.fused_options
            )  # fmt: skip
            return
        grid, options = (launch.heads * tiles,), {**launch.common, "N": launch.tile}
        which = reach, launch.dropout, *numbers
        backward.differentiate_queries[grid](*inputs, gradients[0], *which, **options)
        backward.differentiate_keys[grid](*inputs, *gradients[1:], *which, each, **options)

    if k is not None:
        dq, dk, dv = (empty_heads(x) for x in (q, k, v))
        if layout.real is not None:
            for x in (dq, dk, dv):
                x.zero_()
        differentiate((0, 1), dq, dk, dv, launch.rows.each)
        return [dq, dv, dk]
    assert layout.names is not None
    names, each = layout.names, launch.rows.each
    groups = launch.groups(launch.heads * (length + 2 * each) * width * v.element_size())
    dq, dv = empty_heads(q), empty_heads(v)
    sums = (dq, dv) if len(groups) == 1 else (empty_heads(q, torch.float32), empty_heads(v, torch.float32))
    real, real_step = launch.real()
    for first, end in groups:
        dk_parts, dv_parts = (v.new_empty(b, h, end - first, each, width) for _ in range(2))
        dq_parts = v.new_empty(b, h, end - first, length, width)
        differentiate((first, end), dq_parts, dk_parts, dv_parts, each)
        results = (dq, dv) if end == launch.rounds else sums
        backward.merge_gradients[(launch.heads * blocks,)](
            heads_of(dq_parts), heads_of(dk_parts), heads_of(dv_parts), queries, slopes, logsumexp,
            real, names, launch.beside(-1), *(heads_of(x) for x in (*sums, *results)), h, length, blocks, end - first,
            each, names.shape[1], batch_step(names), real_step, **launch.merging, MORE=first > 0,
            DELIVERS=launch.common["DELIVERS"], KEEPS_OWN=spec.keeps_own, EPS=KEY_EPS,
        )  # fmt: skip
    return [dq, dv]
