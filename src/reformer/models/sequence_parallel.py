"""The processes that hold one sequence together: who they are, and what they agree on before a forward."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from reformer.errors import InputError
from reformer.ops.exchange import Parts

Slots = Int[Tensor, "b l"]


class SequenceParallel:
    """The processes of a group, each of which holds a part of every sequence: the first one the first part, and so on.

    `group` is a process group, a device mesh of one dimension, or None for all processes. A model takes it in its
    forward, with the parts of what it takes otherwise (`part`), and gives the part of its outputs and the loss over all
    of it (`docs/scaling.md`).

    Raises InputError before `torch.distributed.init_process_group`, and for a mesh of several dimensions.
    """

    def __init__(self, group: Any = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise InputError(
                "a sequence over several processes needs them: start with torchrun and call "
                "torch.distributed.init_process_group() first"
            )
        if hasattr(group, "get_group"):
            if group.ndim != 1:
                raise InputError(f"the mesh has {group.ndim} dimensions; give the one that sequences are split over")
            group = group.get_group()
        self.group = dist.group.WORLD if group is None else group
        self.size, self.place = dist.get_world_size(self.group), dist.get_rank(self.group)

    def part(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Cut this process's part out of a batch of whole rows, [b, l] or [b, l, hidden]; the rest of it as it is.

        Parts are of like length, the first ones a token longer where the length is no multiple of the processes.
        """
        return {name: self._own(value) if _has_slots(value) else value for name, value in batch.items()}

    def whole(self, x: Shaped[Tensor, "b part ..."]) -> Shaped[Tensor, "b l ..."]:
        """All parts of what each process has of its own, logits for instance, one behind the other; without a graph."""
        lengths = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([x.shape[1]], device=x.device), group=self.group)
        return Parts(self.group, tuple(map(int, lengths)), self.place).gather(x.detach())

    def _own(self, x: Tensor) -> Tensor:
        size, longer = divmod(x.shape[1], self.size)
        start = self.place * size + min(self.place, longer)
        return x[:, start : start + size + (self.place < longer)]


def _has_slots(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 2


class Joined(NamedTuple):
    """What the processes of a group know of their sequences together: each has all of it."""

    parts: Parts
    attention_mask: Bool[Tensor, "b l"] | None
    segment_ids: Slots | None
    position_ids: Slots | None
    labels: Slots | None


def join(processes: SequenceParallel, heads: int, inputs: Tensor, given: Mapping[str, Tensor | None]) -> Joined:
    """Exchange what is given of each part, under the names of `Joined`.

    Raises InputError, in all processes, for heads that cannot be dealt out, other numbers of rows, and where something
    is given in some processes only.
    """
    if heads % processes.size:
        raise InputError(
            f"{heads} heads cannot be dealt out to {processes.size} processes; take a number of processes that "
            "divides num_attention_heads"
        )
    b, length = inputs.shape[:2]
    for name, x in given.items():
        if x is not None and x.shape not in ((b, length), (1, length)):
            raise InputError(f"{name} has shape {list(x.shape)}; it must be that of this part, {[b, length]}")
    flags = [x is not None for x in given.values()]
    own = torch.tensor([b, length, *map(int, flags)], device=inputs.device)
    headers = [torch.empty_like(own) for _ in range(processes.size)]
    dist.all_gather(headers, own, group=processes.group)
    said = [header.tolist() for header in headers]
    if any(one[0] != b for one in said):
        raise InputError(
            f"the processes of a sequence have {[one[0] for one in said]} rows; all must have the same rows"
        )
    for i, name in enumerate(given):
        if len({one[2 + i] for one in said}) > 1:
            where = [place for place, one in enumerate(said) if one[2 + i]]
            raise InputError(f"{name} is given in process {where} of {processes.size}; give it in all of them or none")
    parts = Parts(processes.group, tuple(one[1] for one in said), processes.place)
    there = {name: x.to(inputs.device, torch.long).expand(b, -1) for name, x in given.items() if x is not None}
    whole: dict[str, Tensor] = {}
    if there:
        together = parts.gather(torch.cat(list(there.values())))
        whole = dict(zip(there, together.split(b) if b else [together] * len(there), strict=True))
    mask = whole.pop("attention_mask", None)
    rest = (whole.get(name) for name in Joined._fields[2:])
    return Joined(parts, None if mask is None else mask.bool(), *rest)


def refuse_parts(processes: SequenceParallel | None, kind: type) -> None:
    """InputError for a model that makes one thing of a whole text."""
    if processes is not None:
        raise InputError(
            f"sequence_parallel: {kind.__name__} makes one thing of a whole text, which no process holds; leave it out"
        )
