"""How many buckets there may be, and the chunk rule's automatic number. Free of torch, for configurations."""

from collections.abc import Sequence
from math import prod

from reformer.errors import InputError
from reformer.ops.checks import check_integer

MOST_BUCKETS = 1 << 20
"""The most buckets of the chunk rule: far more than there are tokens."""


def automatic_buckets(length: int, chunk_length: int, factor_limit: int | None = None) -> int | list[int]:
    """The chunk rule's own number of buckets: the largest power of two <= 2 * floor(l / m), at least 2.

    With `factor_limit`, a number above it becomes two factors, the second the larger (transformers' choice).
    """
    log2 = max(2 * (length // chunk_length), 2).bit_length() - 1
    if factor_limit is None or 1 << log2 <= factor_limit:
        return 1 << log2
    return [1 << log2 // 2, 1 << (log2 + 1) // 2]


def check_bucket_limit(num_buckets: int | Sequence[int] | None) -> int | None:
    """The limit of `rule="bucket"`; InputError unless it is a power of two or None."""
    if num_buckets is None:
        return None
    if not isinstance(num_buckets, int) or num_buckets < 1 or num_buckets & (num_buckets - 1):
        raise InputError(
            f"num_buckets={num_buckets!r}: with rule='bucket' it is the most buckets, a power of two, "
            "or None for no limit"
        )
    return num_buckets


def check_factors(num_buckets: int | Sequence[int]) -> list[int]:
    """The factors of the chunk rule's buckets; InputError unless each is an even number of at least 2."""
    factors = [num_buckets] if isinstance(num_buckets, int) else list(num_buckets)
    if not factors or any(not isinstance(f, int) or f < 2 or f % 2 for f in factors):
        raise InputError(
            f"num_buckets={num_buckets!r}: with rule='chunk' it is an even number of at least 2, or a list of such "
            "factors, or None for one that fits the length"
        )
    if prod(factors) > MOST_BUCKETS:
        raise InputError(
            f"num_buckets={num_buckets!r} makes {prod(factors):,} buckets; there may be {MOST_BUCKETS:,}: lower it"
        )
    return factors


def check_chunks(chunk_length: int, chunks_before: int, chunks_after: int) -> None:
    """InputError for a chunk without tokens or a negative number of neighbours."""
    check_integer("chunk_length", chunk_length, 1)
    check_integer("chunks_before", chunks_before, 0)
    check_integer("chunks_after", chunks_after, 0)
