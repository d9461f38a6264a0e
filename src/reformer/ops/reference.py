"""The dense reference: LSH attention as section 2 of the design states it, to be checked by eye.

Every backend is compared with this file, in values and in gradients. It stores `[b, h, slots, l, l]`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from reformer.ops.dropout import dropped, key_stream, query_stream
from reformer.ops.hashing import hash_factors
from reformer.ops.ranks import Ranks, compute_ranks


def normalised_keys(q: Float[Tensor, "b h l d"]) -> Float[Tensor, "b h l d"]:
    """Return k = q * rsqrt(mean(q^2) + 1e-6) / sqrt(d)."""
    return q * torch.rsqrt(q.pow(2).mean(-1, keepdim=True) + 1e-6) / q.shape[-1] ** 0.5


def buckets_at(rank: Int[Tensor, "#b l"], bucket_size: int, num_buckets: int | None) -> Int[Tensor, "#b l"]:
    """n(t) = min(2 ** (t // c).bit_length(), num_buckets)."""
    n = [2 ** (t // bucket_size).bit_length() for t in rank.flatten().tolist()]
    n = [x if num_buckets is None else min(x, num_buckets) for x in n]
    return torch.tensor(n, device=rank.device).view_as(rank)


def bucket_of(q: Tensor, rotations: Tensor, n: int, factor_from: int) -> Integer[Tensor, "b h r l"]:
    """bucket_n(q), one level up to `factor_from` buckets and two above."""
    x = q.detach()[:, :, None] @ rotations.to(q)[None]
    if n <= factor_from:
        return _signed_argmax(x, n)
    n1 = 2 ** math.ceil(math.log2(n) / 2)
    return _signed_argmax(x[..., 0::2], n1) + n1 * _signed_argmax(x[..., 1::2], n // n1)


def _signed_argmax(x: Tensor, n: int) -> Tensor:
    if n == 1:
        return torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device)
    x = x[..., : n // 2]
    return torch.cat((x, -x), -1).argmax(-1)


def bucket_offers(
    q: Tensor,
    rotations: Tensor,
    ranks: Ranks,
    window: int,
    bucket_size: int,
    num_buckets: int | None,
    factor_from: int,
    causal: bool,
) -> Bool[Tensor, "b h r l l"]:
    """Which keys each round of `rule="bucket"` offers to which queries."""
    rank, document = ranks.rank, ranks.document
    n_of = buckets_at(rank if causal else ranks.last, bucket_size, num_buckets)
    together = ranks.real[:, :, None] & (document[:, :, None] == document[:, None, :])
    earlier = together & (rank[:, None, :] < rank[:, :, None])
    later = together & (rank[:, None, :] > rank[:, :, None])

    offers = torch.zeros(1, dtype=torch.bool, device=q.device)
    for n in n_of.unique().tolist():
        bucket = bucket_of(q, rotations, n, factor_from)
        same = bucket[..., :, None] == bucket[..., None, :]
        last = same & earlier[:, None, None]
        last &= last.flip(-1).cumsum(-1).flip(-1) <= window  # the last `window` of them
        if not causal:
            first = same & later[:, None, None]
            last |= first & (first.cumsum(-1) <= window)
        offers = offers | last & (n_of == n)[:, None, None, :, None]
    return offers


def chunk_offers(
    q: Tensor,
    rotations: Tensor,
    ranks: Ranks,
    chunk_length: int,
    before: int,
    after: int,
    factors: Sequence[int],
    causal: bool,
) -> Bool[Tensor, "b h slots l l"]:
    """Which keys each slot of `rule="chunk"`, a round and a chunk beside the own one, offers to which queries."""
    buckets = hash_factors(q, rotations, factors)
    b, h, rounds, length = buckets.shape
    m = chunk_length
    padded = -(-length // m) * m
    document = ranks.document.expand(b, -1)
    chunk = torch.zeros(b, h, rounds, length, dtype=torch.long, device=q.device)  # of each token in each round
    for i in range(b):
        for j in range(h):
            for r in range(rounds):
                bucket, documents = buckets[i, j, r].tolist(), document[i].tolist()
                slots = sorted(range(length), key=lambda t: (documents[t] < 0, documents[t], bucket[t]))
                for place, t in enumerate(slots):
                    chunk[i, j, r, t] = (r * padded + place) // m
    total = rounds * padded // m
    time = torch.arange(length, device=q.device)
    allowed = (document >= 0)[:, :, None] & (document[:, :, None] == document[:, None, :])
    allowed &= (time[None, :] < time[:, None]) if causal else (time[None, :] != time[:, None])
    offers = [
        ((chunk[:, :, r, :, None, None] + offset) % total == chunk.transpose(2, 3)[:, :, None]).any(-1)
        for r in range(rounds)
        for offset in range(-before, after + 1)
    ]
    return torch.stack(offers, 2) & allowed[:, None, None]


def attend(
    q: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    offers: Bool[Tensor, "b h slots l l"],
    real: Bool[Tensor, "#b l"],
    scale: float = 1.0,
    duplicates: str = "count",
    kept: Float[Tensor, "b h slots l l"] | None = None,
    keeps_own: bool = False,
) -> Float[Tensor, "b h l d"]:
    """One softmax over all that is offered; padding gives 0, and a token that is offered nothing 0 or its own value.

    `kept`: dropout's factor on numerators.
    """
    q, v = q.masked_fill(~real[:, None, :, None], 0.0), v.masked_fill(~real[:, None, :, None], 0.0)
    count = (offers.any(2, keepdim=True) if duplicates == "once" else offers).to(q.dtype)
    logits = (scale * q @ normalised_keys(q).transpose(-1, -2)).masked_fill(count.sum(2) == 0, -torch.inf)
    top = logits.amax(-1, keepdim=True).detach()
    e = torch.exp(logits - torch.where(top == -torch.inf, 0.0, top))
    weights = count.sum(2) * e
    numerators = weights if kept is None else (count * kept[:, :, : count.shape[2]]).sum(2) * e
    total = weights.sum(-1, keepdim=True)
    out = numerators @ v / torch.where(total == 0, 1.0, total)
    return torch.where((total == 0) & real[:, None, :, None], v, out) if keeps_own else out


def deliver_successors(v: Float[Tensor, "b h l d"], ranks: Ranks) -> Float[Tensor, "b h l d"]:
    """What a pair with each key delivers: v of the token of the next rank in its document, 0 for the last."""
    follows = ranks.real[:, :, None] & (ranks.document[:, None, :] == ranks.document[:, :, None])
    follows &= ranks.rank[:, None, :] == ranks.rank[:, :, None] + 1
    return follows[:, None].to(v) @ v.masked_fill(~ranks.real[:, None, :, None], 0.0)


def dropout_factors(
    shape: Sequence[int], p: float, seed: int, offsets: int, once: bool, device: torch.device
) -> Float[Tensor, "b h slots l l"]:
    """1 / (1 - p) for pairs that are kept and 0 for those that are dropped, per round and slot, or per pair."""
    b, h, slots, length, _ = shape
    batch_head = torch.arange(b * h, dtype=torch.int32, device=device).view(b, h, 1, 1, 1)
    slot = torch.arange(slots, dtype=torch.int32, device=device).view(1, 1, slots, 1, 1) * (0 if once else 1)
    token = torch.arange(length, dtype=torch.int32, device=device)
    query = query_stream(seed, batch_head, slot // offsets, token[:, None])
    return (~dropped(query, key_stream(token[None, :], slot % offsets), p)).double() / (1 - p)


def lsh_attention_reference(
    qk: Float[Tensor, "b h l d"],
    v: Float[Tensor, "b h l d"],
    rotations: Float[Tensor, "h r d columns"],
    *,
    num_buckets: int | Sequence[int] | None = None,
    rule: str = "bucket",
    window: int = 32,
    bucket_size: int | None = None,
    factor_from: int = 256,
    chunk_length: int = 64,
    chunks_before: int = 1,
    chunks_after: int = 0,
    causal: bool = True,
    key_padding_mask: Bool[Tensor, "#b l"] | None = None,
    segment_ids: Int[Tensor, "#b l"] | None = None,
    scale: float = 1.0,
    duplicates: str = "count",
    hashed: Float[Tensor, "b h l d"] | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int = 0,
    successor_values: bool | None = None,
) -> Float[Tensor, "b h l d"]:
    """LSH attention, dense; arguments as `reformer.lsh_attention`'s (the chunk rule's `num_buckets` must be given)."""
    ranks = compute_ranks(qk.shape[0], qk.shape[2], key_padding_mask, segment_ids, qk.device)
    masked = (qk if hashed is None else hashed).masked_fill(~ranks.real[:, None, :, None], 0.0)
    offsets = 1
    if rule == "bucket":
        assert num_buckets is None or isinstance(num_buckets, int)
        offers = bucket_offers(
            masked, rotations, ranks, window, bucket_size or window, num_buckets, factor_from, causal
        )
    else:
        factors = [num_buckets] if isinstance(num_buckets, int) else list(num_buckets or ())
        offsets = chunks_before + chunks_after + 1
        offers = chunk_offers(masked, rotations, ranks, chunk_length, chunks_before, chunks_after, factors, causal)
    kept = None
    if dropout_p:
        kept = dropout_factors(offers.shape, dropout_p, dropout_seed, offsets, duplicates == "once", qk.device)
        kept = kept.to(qk.dtype)
    successors = causal if successor_values is None else successor_values
    delivered = deliver_successors(v, ranks) if successors else v
    keeps_own = rule == "chunk" and not successors
    return attend(qk, delivered, offers, ranks.real, scale, duplicates, kept, keeps_own)
