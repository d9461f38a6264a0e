"""A stable sort of rows by their groups alone: a radix sort of digits of up to DIGIT bits, in one or two passes.

A pass counts the digits of each block of rows, adds the counts up in (digit, block) order, and moves each row to its
place. Within a block, rows are ordered by (digit, place), so rows of a group stay in time order.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Int, Integer
from torch import Tensor

from reformer.ops.gpu.tiles import NOBODY, cdiv
from reformer.ops.gpu.tuning import CHANGING

DIGIT = 9  # bits
PASSES = 2  # for more groups than that a general sort is the better one
BLOCK = 512  # rows
BOUNDED = 256  # rows of a program that looks for bounds


@triton.jit
def read_group(group, bucket, base, line, place, there, base_line, groups, each, FIRST: tl.constexpr):
    """The group of each row; rows that do not exist come behind all others."""
    if FIRST:
        start = tl.load(base + base_line + place, mask=there, other=-1)
        number = tl.load(bucket + line * each + place, mask=there, other=0).to(tl.int32)
        value = tl.where(start >= 0, start + number, groups)
    else:
        value = tl.load(group + line * each + place, mask=there, other=groups)
    return value


@triton.jit(do_not_specialize=CHANGING)
def count_digits(
    group, bucket, base, counts, heads_rounds, base_batch, groups, each, blocks, shift,
    DIGITS: tl.constexpr, B: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """How many rows of a block have each digit, [lines, digits, blocks]."""
    line, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    place = block * B + tl.arange(0, B)
    there = place < each
    value = read_group(group, bucket, base, line, place, there, line // heads_rounds * base_batch, groups, each, FIRST)
    digit = (value >> shift) & (DIGITS - 1)
    histogram = tl.histogram(tl.where(there, digit, DIGITS), 2 * DIGITS)
    index = tl.arange(0, 2 * DIGITS)
    tl.store(counts + (line * DIGITS + index) * blocks + block, histogram, mask=index < DIGITS)


@triton.jit(do_not_specialize=CHANGING)
def move_rows(
    group, name, bucket, base, token, sums, out_group, out_name, out_token, heads_rounds, rounds, base_batch, groups,
    each, blocks, shift, most, DIGITS: tl.constexpr, B: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    BAND: tl.constexpr,
):  # fmt: skip
    """Move the rows of a block to their places; the last pass writes tokens, and the groups that rows see."""
    line, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    base_line = line // heads_rounds * base_batch
    index = tl.arange(0, B)
    place = block * B + index
    there = place < each
    value = read_group(group, bucket, base, line, place, there, base_line, groups, each, FIRST)
    digit = tl.where(there, (value >> shift) & (DIGITS - 1), DIGITS)
    ordered = tl.sort(digit * B + index)
    digit, index = ordered // B, ordered % B
    counted = tl.histogram(digit, 2 * DIGITS)
    before = tl.cumsum(counted, 0) - counted  # rows of the block with lower digits
    place, there = block * B + index, digit < DIGITS
    at = (line * DIGITS + digit) * blocks + block  # a sum includes what is counted at its place
    target = tl.load(sums + at - 1, mask=there & (at > 0), other=0)
    target += tl.arange(0, B) - tl.gather(before, digit, 0)
    value = read_group(group, bucket, base, line, place, there, base_line, groups, each, FIRST)
    named = place if FIRST else tl.load(name + line * each + place, mask=there, other=0)
    if LAST:
        slot = tl.load(token + base_line + named, mask=there, other=0)
        tl.store(out_token + target, tl.where(value == groups, NOBODY, slot), mask=there)
        value = value * rounds + (line % rounds).to(tl.int32) if BAND else value // most
    tl.store(out_group + target, value, mask=there)
    tl.store(out_name + target, named, mask=there)


def sort_rows(
    buckets: Integer[Tensor, "b h r n"],
    base: Int[Tensor, "b n"],
    token: Int[Tensor, "b n"],
    groups: int,
    most: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, groups and names of the rows of every round, sorted stably by `base + bucket`, which is below `groups`.

    A row of base -1 does not exist: it comes last, its token is NOBODY. With `most` buckets a document, the group that
    rows see is the document; without, each round's groups are its own.
    """
    passes = max(-(-groups.bit_length() // DIGIT), 1)
    if passes > PASSES:
        return _general_sort(buckets, base, token, groups, most)
    b, h, rounds, each = buckets.shape
    blocks, lines = cdiv(each, BLOCK), b * h * rounds
    bits = -(-groups.bit_length() // passes)
    digits = 1 << max(bits, 4)
    batch = each if base.shape[0] > 1 else 0
    group = name = buckets
    for i in range(passes):
        shape = {"dtype": torch.int32, "device": buckets.device}
        counts = torch.empty(lines, digits * blocks, **shape)
        out_group, out_name = (torch.empty(b, h, rounds, each, **shape) for _ in range(2))
        out_token = torch.empty_like(out_name) if i + 1 == passes else out_name
        common = {"DIGITS": digits, "B": BLOCK, "FIRST": i == 0}
        grid = (lines * blocks,)
        count_digits[grid](group, buckets, base, counts, h * rounds, batch, groups, each, blocks, i * bits, **common)
        # each line holds `each` rows, so a sum over all lines gives places in the whole
        sums = torch.cumsum(counts.view(-1), 0, dtype=torch.int64 if lines * each >= 1 << 31 else torch.int32)
        move_rows[grid](
            group, name, buckets, base, token, sums, out_group, out_name, out_token, h * rounds, rounds, batch,
            groups, each, blocks, i * bits, most or 1, **common, LAST=i + 1 == passes, BAND=most is None,
        )  # fmt: skip
        group, name = out_group, out_name
    return out_token, group, name


def _general_sort(
    buckets: Tensor, base: Tensor, token: Tensor, groups: int, most: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`sort_rows` by `torch.sort` of unique keys, (group, name)."""
    rounds, each = buckets.shape[2:]
    group = torch.where(base[:, None, None] < 0, groups, base[:, None, None] + buckets.int())
    name = torch.arange(each, device=buckets.device)
    key = (group.long() * each + name).sort(dim=-1).values
    group, name = (key // each).int(), (key % each).int()
    seen = group // most if most else group * rounds + torch.arange(rounds, device=key.device)[:, None].int()
    token = token[:, None, None].expand_as(name).gather(3, name.long())
    return token.masked_fill(group == groups, NOBODY.value), seen, name


@triton.jit(do_not_specialize=CHANGING)
def bound_rows(
    group, low, high, count, blocks, before, after, STEPS: tl.constexpr, B: tl.constexpr, BOTH: tl.constexpr
):
    """Which rows of its group each row's window reaches, by bisection: a group is a run of rows."""
    line, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    row = block * B + tl.arange(0, B)
    there = row < count
    group += line * count
    own = tl.load(group + row, mask=there, other=0)
    outside, inside = tl.maximum(row - before, 0) - 1, row
    for _ in range(STEPS):
        middle = (outside + inside + 1) // 2
        same = tl.load(group + middle, mask=there, other=0) == own
        outside, inside = tl.where(same, outside, middle), tl.where(same, middle, inside)
    tl.store(low + line * count + row, inside, mask=there)
    if BOTH:
        outside, inside = tl.minimum(row + after, count - 1) + 1, row
        for _ in range(STEPS):
            middle = (outside + inside) // 2
            same = tl.load(group + middle, mask=there, other=0) == own
            outside, inside = tl.where(same, outside, middle), tl.where(same, middle, inside)
        tl.store(high + line * count + row, inside + 1, mask=there)


def row_bounds(group: Int[Tensor, "b h rows"], window: int, causal: bool) -> tuple[Tensor, Tensor]:
    """The rows [low, high) of its own group that each row sees, at most `window` on a side; itself among them."""
    group = group.contiguous()
    count = group.shape[-1]
    low = torch.empty_like(group)
    high = low if causal else torch.empty_like(group)
    blocks = cdiv(count, BOUNDED)
    bound_rows[(group.numel() // count * blocks,)](
        group, low, high, count, blocks, window, window, STEPS=(window + 1).bit_length(), B=BOUNDED, BOTH=not causal
    )  # fmt: skip
    return low, high
