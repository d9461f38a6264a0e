"""Dropout masks as a function of (seed, round, query, key): nothing is stored, and every backend drops alike."""

import torch
from torch import Tensor

_INT32 = 1 << 32


def signed(value: int) -> int:
    """The lowest 32 bits as an int32."""
    value &= _INT32 - 1
    return value - _INT32 if value >= _INT32 // 2 else value


def _mix(x: Tensor) -> Tensor:
    """A bijection of int32 with full avalanche (the constants of C. Wellons' `lowbias32`); products wrap around."""
    x = (x ^ (x >> 16 & 0xFFFF)) * signed(0x7FEB352D)
    x = (x ^ (x >> 15 & 0x1FFFF)) * signed(0x846CA68B)
    return x ^ (x >> 16 & 0xFFFF)


def query_stream(seed: int, batch_head: Tensor, hash_round: Tensor, query: Tensor) -> Tensor:
    """The random stream of a query row in a round, as int32; the arguments are int32 and broadcast."""
    low = torch.full((), signed(seed), dtype=torch.int32, device=query.device)
    high = torch.full((), signed(seed >> 32), dtype=torch.int32, device=query.device)
    return _mix(_mix(_mix(_mix(_mix(low) ^ high) ^ batch_head) ^ hash_round) ^ query)


def key_stream(key: Tensor, slot: Tensor) -> Tensor:
    """What tells keys apart: the token, and the slot in which a chunk rule may offer it again; int32."""
    return key * signed(0x9E3779B1) + slot * signed(0x85EBCA77)


def dropped(query: Tensor, key: Tensor, p: float) -> Tensor:
    """True for the pairs that dropout with probability `p` takes away, from the streams of query and key."""
    return _mix(query ^ key) < drop_threshold(p)


def batch_head_stream(seed: int, batch_head: int) -> int:
    """What `query_stream` has mixed before it comes to the round, as an unsigned number."""

    def mix(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % _INT32
        x = (x ^ x >> 15) * 0x846CA68B % _INT32
        return x ^ x >> 16

    return mix(mix(mix(seed % _INT32) ^ (seed >> 32) % _INT32) ^ batch_head)


def drop_threshold(p: float) -> int:
    """What the signed mix of a pair's streams must lie below for the pair to be dropped."""
    return min(round(p * _INT32), _INT32 - 1) - _INT32 // 2
