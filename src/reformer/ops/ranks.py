"""Ranks: where a token stands among the real tokens of its document (`docs/rule.md`, "Position").

Octaves, windows and causality go by rank, never by slot, so that padding changes nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from reformer.errors import InputError

NO_DOCUMENT = -1


@dataclass(frozen=True)
class Ranks:
    """Ranks and documents of a batch; `b` is 1 where all rows are alike (nothing padded, no documents)."""

    real: Bool[Tensor, "b l"]
    """True for a token, False for padding."""
    document: Int[Tensor, "b l"]
    """Number of the token's document within its row, from 0; `NO_DOCUMENT` for padding."""
    rank: Int[Tensor, "b l"]
    """Real tokens of the same document before this one; 0 for padding."""
    last: Int[Tensor, "b l"]
    """Rank of the last token of the same document; 0 for padding."""


def compute_ranks(
    batch: int,
    length: int,
    key_padding_mask: Bool[Tensor, "b l"] | None = None,
    segment_ids: Int[Tensor, "b l"] | None = None,
    device: torch.device | None = None,
) -> Ranks:
    """Rank every token within its document.

    Raises InputError for masks of another shape and for segment ids that decrease among real tokens.
    """
    check_masks(batch, length, key_padding_mask, segment_ids)
    if key_padding_mask is None and segment_ids is None:
        return rank_all(length, device)
    ranks, falls = rank_tokens(batch, length, key_padding_mask, segment_ids, device)
    if segment_ids is not None and falls is not None and falls.any():
        say_where_ids_fall(ranks.real, segment_ids, falls)
    return ranks


def rank_all(length: int, device: torch.device | None) -> Ranks:
    """Ranks of a row without padding that is one document."""
    slots = torch.arange(length, device=device)
    everywhere = torch.ones(1, length, dtype=torch.bool, device=device)
    return Ranks(everywhere, torch.zeros_like(slots)[None], slots[None], torch.full_like(slots, length - 1)[None])


def rank_tokens(
    batch: int, length: int, key_padding_mask: Tensor | None, segment_ids: Tensor | None, device: torch.device | None
) -> tuple[Ranks, Bool[Tensor, "b l"] | None]:
    """Ranks, and where segment ids decrease, which makes them mean nothing."""
    slots = torch.arange(length, device=device)
    if key_padding_mask is None:
        real = torch.ones(batch, length, dtype=torch.bool, device=device)
    else:  # a copy: whoever made the mask may write to it
        real = key_padding_mask.to(device, torch.bool, copy=True, memory_format=torch.contiguous_format)
    first_of_document, falls = _document_starts(real, segment_ids, slots)
    seen = real.long().cumsum(1)  # real tokens up to and with this slot
    document = torch.where(real, first_of_document.long().cumsum(1) - 1, NO_DOCUMENT)
    start = torch.where(first_of_document, seen - 1, 0).cummax(1).values
    rank = torch.where(real, seen - 1 - start, 0)
    return Ranks(real, document, rank, _last_rank(document, rank)), falls


def check_masks(
    batch: int, length: int, key_padding_mask: Bool[Tensor, "b l"] | None, segment_ids: Int[Tensor, "b l"] | None
) -> None:
    """InputError for masks of another shape than [b, l]."""
    for name, value in (("key_padding_mask", key_padding_mask), ("segment_ids", segment_ids)):
        if value is not None and value.shape != (batch, length):
            raise InputError(f"{name} has shape {list(value.shape)}; it must be [b, l] = [{batch}, {length}]")


def _document_starts(real: Tensor, segment_ids: Tensor | None, slots: Tensor) -> tuple[Tensor, Tensor | None]:
    """Real tokens that no earlier real token of the same segment precedes, and those whose segment has a lower id."""
    previous_real = torch.where(real, slots, -1).cummax(1).values.roll(1, 1)
    previous_real[:, 0] = -1
    starts = real & (previous_real < 0)
    if segment_ids is None:
        return starts, None
    before = segment_ids.gather(1, previous_real.clamp(min=0))
    follows = real & (previous_real >= 0)
    return starts | (follows & (segment_ids != before)), follows & (segment_ids < before)


def say_where_ids_fall(real: Bool[Tensor, "b l"], segment_ids: Int[Tensor, "b l"], falls: Bool[Tensor, "b l"]) -> None:
    """Raise the InputError about the first segment id that is lower than that of the real token before it."""
    row, slot = falls.nonzero()[0].tolist()
    before = int(segment_ids[row, :slot][real[row, :slot]][-1])
    raise InputError(
        f"segment_ids fall from {before} to {int(segment_ids[row, slot])} at row {row}, slot {slot}: a document is a "
        "run of equal ids and ids must not decrease; number documents in their order"
    )


def slots_at(ranks: Ranks, offset: int) -> Int[Tensor, "b l"]:
    """The slot of the token `offset` ranks behind each in its document; -1 where there is none, and for padding."""
    length = ranks.rank.shape[1]
    number = ranks.real.long().cumsum(1) - 1  # of each token among the real ones of its row
    slots = torch.arange(length, device=number.device).expand_as(number)
    place = torch.zeros(len(number), length + 1, dtype=torch.long, device=number.device)
    place.scatter_(1, torch.where(ranks.real, number, length), slots)
    rank = ranks.rank + offset
    there = ranks.real & (rank >= 0) & (rank <= ranks.last)
    return torch.where(there, place.gather(1, (number + offset).clamp(0, length)), -1)


def _last_rank(document: Tensor, rank: Tensor) -> Tensor:
    index = document.clamp(min=0)
    last = torch.zeros_like(rank).scatter_reduce(1, index, rank, "amax")
    return torch.where(document >= 0, last.gather(1, index), 0)
