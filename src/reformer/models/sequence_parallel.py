"""The processes that hold one sequence together: who they are, and what they agree on before a forward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    Raises InputError before `torch.distributed.init_process_group`, for a mesh of several dimensions and for a group
    of others.
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
        if self.place < 0:
            raise InputError("this process is not in the group; make a SequenceParallel of the one that it is in")

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


@dataclass(frozen=True, eq=False)
class Own:
    """What one process brings to a forward."""

    device: torch.device
    heads: int
    training: bool
    seed: int | None
    """That of the hashes, if it was given."""
    drawn: Sequence[int]
    """What this process would draw: the seed of the hashes, then one for each layer's dropout."""
    problem: InputError | None
    """What is wrong with what it was given."""
    inputs: Tensor | None
    given: Mapping[str, Tensor | None]
    """Of its part, under the names of `Joined`."""
    apart: Sequence[str] = ()
    """Names of what nobody needs of the other parts."""


class Joined(NamedTuple):
    """What the processes of a group know of their sequences together: each has all of it."""

    parts: Parts
    seed: int
    dropout_seeds: tuple[int, ...]
    attention_mask: Bool[Tensor, "b l"] | None
    segment_ids: Slots | None
    position_ids: Slots | None
    labels: Slots | None


def join(processes: SequenceParallel, own: Own) -> Joined:
    """Tell each other what there is, and exchange what is given of each part.

    Raises InputError, in all processes, for what is wrong in one of them, heads that cannot be dealt out, and where
    rows, modes or seeds differ or something is given in some processes only.
    """
    if own.heads % processes.size:
        raise InputError(
            f"{own.heads} heads cannot be dealt out to {processes.size} processes; take a number of processes that "
            "divides num_attention_heads"
        )
    b, length = (0, 0) if own.inputs is None else own.inputs.shape[:2]
    flags = [x is not None for x in own.given.values()]
    seed = own.drawn[0] if own.seed is None else own.seed
    numbers = [own.problem is not None, own.training, own.seed is not None, seed, b, length, *flags, *own.drawn[1:]]
    header = torch.tensor([int(number) for number in numbers], device=own.device)
    headers = [torch.empty_like(header) for _ in range(processes.size)]
    dist.all_gather(headers, header, group=processes.group)
    said = [one.tolist() for one in headers]
    _check_alike(said, own, list(own.given))
    parts = Parts(processes.group, tuple(one[5] for one in said), processes.place)
    there = {
        name: x.to(own.device, torch.long).expand(b, -1)
        for name, x in own.given.items()
        if x is not None and name not in own.apart
    }
    whole: dict[str, Tensor] = {}
    if there:
        together = parts.gather(torch.cat(list(there.values())))
        whole = dict(zip(there, together.split(b) if b else [together] * len(there), strict=True))
    mask = whole.pop("attention_mask", None)
    rest = (whole.get(name) for name in Joined._fields[4:])
    drawn = tuple(said[0][6 + len(flags) :])
    return Joined(parts, said[0][3], drawn, None if mask is None else mask.bool(), *rest)


def _check_alike(said: Sequence[Sequence[int]], own: Own, names: Sequence[str]) -> None:
    agree([bool(one[0]) for one in said], own.problem)
    if len({one[4] for one in said}) > 1:
        raise InputError(
            f"the processes of a sequence have {[one[4] for one in said]} rows; all must have the same rows"
        )
    if len({one[1] for one in said}) > 1:
        raise InputError("the model is in training mode in some processes of a sequence only; call train() or eval()")
    if len({(one[2], one[3] if one[2] else 0) for one in said}) > 1:
        raise InputError("the processes of a sequence have different seeds; give the same in all of them, or none")
    for i, name in enumerate(names):
        if len({one[6 + i] for one in said}) > 1:
            where = [place for place, one in enumerate(said) if one[6 + i]]
            raise InputError(f"{name} is given in process {where} of {len(said)}; give it in all of them or none")


def agree(wrong: Sequence[bool], problem: InputError | None) -> None:
    """Raise in all processes what is wrong in some of them."""
    if problem is not None:
        raise problem
    if any(wrong):
        where = [place for place, one in enumerate(wrong) if one]
        raise InputError(f"process {where} of a sequence was given something wrong, and says what")


def refuse_parts(processes: SequenceParallel | None, kind: type) -> None:
    """InputError for a model that makes one thing of a whole text."""
    if processes is not None:
        raise InputError(
            f"sequence_parallel: {kind.__name__} makes one thing of a whole text, which no process holds; leave it out"
        )
