"""What all kernels share: tensors and sorted rows as they take them, tiles of rows, and which pairs of rows count.

Rows stand in sorted order, all rounds one after another. A tile of them holds the queries of a program; its keys lie
from `before` rows in front of the tile's chunk to `after` behind it (a band's chunk is the tile itself).
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
NOBODY = tl.constexpr(-(1 << 31))  # the token of a row that nobody sees and that sees nobody

WIDE = (tl.constexpr(False), tl.constexpr(True))


def cdiv(a: int, b: int) -> int:
    """Rounded up; `triton.cdiv` takes 4 us, for it is a function of kernels too."""
    return -(-a // b)


class Heads(NamedTuple):
    """A tensor [b, h, l, d]: memory and strides; the numbers of a token lie side by side."""

    data: Any
    batch: Any
    head: Any
    row: Any
    wide: Any
    """Whether a row may lie 2**31 numbers behind the first one."""


class Rows(NamedTuple):
    """Sorted rows [b, h, rows] of all rounds; the strides are 0 where all batch rows or heads are alike."""

    token: Any
    """The slot of each row's token; -1 - slot where the row is a key only; NOBODY."""
    low: Any
    """In a band the first row that each row's window reaches; by chunks the document of each row."""
    high: Any
    """In a band that is not causal, one behind the last row that the window reaches."""
    name: Any
    """The place of each row in the layout before sorting."""
    batch: Any
    head: Any
    count: Any
    each: Any
    """Rows of one round."""
    wide: Any = WIDE[True]
    """Whether there may be 2**31 rows, or tokens of all rounds, in all."""


class Reach(NamedTuple):
    """Which rows the queries of a launch are, and which rows they may see."""

    first: Any
    """The first row of the launch."""
    end: Any
    chunk: Any
    before: Any
    after: Any


class Beside(NamedTuple):
    """The slot [b, l] of the token beside each in its document, -1 for none; memory is read if there are masks."""

    slot: Any
    batch: Any


OWN, BY_ONE, BY_TABLE = (tl.constexpr(i) for i in range(3))
"""Whose value a pair delivers: its key's, that of the token in the next slot, or that of the token in a table."""


class Dropout(NamedTuple):
    """The seed as two int32, the threshold of the pairs' mix, 1 - p, the first head's number and that of all heads."""

    low: Any
    high: Any
    threshold: Any
    keep: Any
    first: Any
    heads: Any


@triton.jit
def row_offset(x, token):
    """How far behind the first a token's row lies: 32 bits where they do, for addresses cost as much as softmax."""
    return token.to(tl.int64) * x.row if x.wide else token * x.row


@triton.jit
def slots_beside(beside, batch, slot, there, length, STEP: tl.constexpr, DELIVERS: tl.constexpr):
    """The slots of the tokens one rank behind, or with a STEP of -1 before, some tokens; below 0 where none is."""
    if DELIVERS == BY_TABLE:
        slot = tl.load(beside.slot + batch.to(tl.int64) * beside.batch + slot, mask=there, other=-1)
    elif DELIVERS == BY_ONE:
        slot = tl.where(there & (slot + STEP < length), slot + STEP, -1)
    else:
        slot = tl.where(there, slot, -1)
    return slot


@triton.jit
def load_rows(x, batch, head, token, valid, D: tl.constexpr, BD: tl.constexpr):
    """[rows, BD] of some tokens, zeros elsewhere."""
    at = x.data + batch.to(tl.int64) * x.batch + head.to(tl.int64) * x.head
    column = tl.arange(0, BD)
    at += row_offset(x, token)[:, None] + column[None, :]
    return tl.load(at, mask=valid[:, None] & (column[None, :] < D), other=0.0)


@triton.jit
def store_rows(x, batch, head, token, valid, value, D: tl.constexpr, BD: tl.constexpr):
    """Write [rows, BD] to some tokens."""
    at = x.data + batch.to(tl.int64) * x.batch + head.to(tl.int64) * x.head
    column = tl.arange(0, BD)
    at += row_offset(x, token)[:, None] + column[None, :]
    tl.store(at, value.to(x.data.dtype.element_ty), mask=valid[:, None] & (column[None, :] < D))


@triton.jit
def key_factors(x, D: tl.constexpr, EPS: tl.constexpr):
    """What makes the key of each query (`docs/rule.md`, "Softmax")."""
    wide = x.to(tl.float32)
    return tl.rsqrt(tl.sum(wide * wide, 1) / D + EPS) * (D**-0.5)


@triton.jit
def as_keys(raw, D: tl.constexpr, SHARED: tl.constexpr, EPS: tl.constexpr):
    """Keys, normalised where they are the queries, and what each was multiplied by."""
    if SHARED:
        factors = key_factors(raw, D, EPS)
        keys = (raw.to(tl.float32) * factors[:, None]).to(raw.dtype)
    else:
        factors = tl.full((raw.shape[0],), 1.0, tl.float32)
        keys = raw
    return keys, factors


@triton.jit
def tile_span(reach, tile, M: tl.constexpr):
    """First row and end of a tile, and the first row of its chunk; tiles do not cross chunks."""
    each = tl.cdiv(reach.chunk, M)
    start = reach.first + tile // each * reach.chunk
    first = start + tile % each * M
    return first, tl.minimum(tl.minimum(first + M, start + reach.chunk), reach.end), start


@triton.jit
def slot_of(token):
    """The slot of a row's token, be the row a query or not."""
    return tl.where(token < 0, -1 - token, token)


@triton.jit
def head_rows(rows, batch, head):
    """Where the rows of a head begin."""
    if rows.wide:
        batch, head = batch.to(tl.int64), head.to(tl.int64)
    return batch * rows.batch + head * rows.head


@triton.jit
def row_index(rows, position, RING: tl.constexpr):
    """Places of rows; on a ring, positions go round."""
    return (position % rows.count + rows.count) % rows.count if RING else position


@triton.jit
def read_rows(rows, batch, head, position, end, RING: tl.constexpr):
    """Places of the rows before `end`, their tokens as they are stored, and what stands in `rows.low`."""
    valid = position < end
    if not RING:
        valid &= (position >= 0) & (position < rows.count)
    at = row_index(rows, position, RING) + head_rows(rows, batch, head)
    return at, tl.load(rows.token + at, mask=valid, other=NOBODY), tl.load(rows.low + at, mask=valid, other=-1)


@triton.jit
def read_keys(rows, batch, head, position, end, RING: tl.constexpr):
    """Tokens of rows, their documents by chunks, and whether there are such rows."""
    _, token, document = read_rows(rows, batch, head, position, end, RING)
    return slot_of(token), document, token != NOBODY


@triton.jit
def read_queries(rows, batch, head, position, end, BAND: tl.constexpr, CAUSAL: tl.constexpr, SELF: tl.constexpr):
    """Tokens of query rows, what they see (keys from `low` to `high`, or a document), and which rows are queries."""
    at, token, low = read_rows(rows, batch, head, position, end, not BAND)
    is_query = token >= 0
    if BAND and not CAUSAL:
        high = tl.load(rows.high + at, mask=is_query, other=0)
    else:
        high = position + SELF
    return token, tl.where(is_query, low, 2147483647), high, is_query


@triton.jit
def visible(
    query, query_token, low, high, key, key_token, key_document,
    BAND: tl.constexpr, CAUSAL: tl.constexpr, SELF: tl.constexpr,
):  # fmt: skip
    """Which pairs [queries, keys] count. In a group, rows stand in time order: a window is a band (identity 3)."""
    if BAND:
        pairs = (key[None, :] >= low[:, None]) & (key[None, :] < high[:, None])
        if not (CAUSAL or SELF):
            pairs &= key[None, :] != query[:, None]
    else:
        pairs = low[:, None] == key_document[None, :]
        back = query_token[:, None] - key_token[None, :]
        if CAUSAL:
            pairs &= back >= (0 if SELF else 1)
        elif not SELF:
            pairs &= back != 0
    return pairs


@triton.jit
def mix(x):
    """A bijection of 32 bits; `reformer.ops.dropout` has the same."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def query_stream(dropout, batch, head, hash_round, token):
    """The random stream of each query in its round."""
    low = tl.full(token.shape, dropout.low, tl.int32).to(tl.uint32, bitcast=True)
    high = tl.full(token.shape, dropout.high, tl.int32).to(tl.uint32, bitcast=True)
    batch_head = batch * dropout.heads + dropout.first + head
    stream = mix(mix(mix(low) ^ high) ^ batch_head.to(tl.uint32))
    return mix(mix(stream ^ hash_round.to(tl.uint32)) ^ token.to(tl.uint32))


@triton.jit
def key_stream(token, slot):
    """What tells keys apart: the token, and the slot in which a chunk rule may offer it again."""
    return token.to(tl.uint32) * 0x9E3779B1 + slot.to(tl.uint32) * 0x85EBCA77


@triton.jit
def kept_pairs(queries, keys, dropout):
    """Which pairs dropout leaves, from the streams of queries and keys, which broadcast."""
    return mix(queries ^ keys).to(tl.int32, bitcast=True) >= dropout.threshold
