"""Weights, optimizer and schedule in checkpoints: each process writes what it holds, any number of them reads it.

PyTorch's distributed checkpoints do it, in their safetensors format.
"""

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from reformer.training.checkpoint import WEIGHTS

OPTIMIZER = "optimizer"
"""The folder of the optimizer's tensors in a checkpoint."""

SCHEDULE = "schedule.json"
"""How far the learning rate has come."""


def save_weights(model: nn.Module, folder: Path, main: bool) -> None:
    """The weights of a model that is sharded, whole and in one file; all its processes take part."""
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    scratch = folder / ".weights"
    _save(tensors, HuggingFaceStorageWriter(str(scratch), save_distributed=True, enable_consolidation=True))
    if main:
        (whole,) = scratch.glob("*.safetensors")
        whole.replace(folder / WEIGHTS)
        shutil.rmtree(scratch)


def load_weights(model: nn.Module, folder: Path) -> None:
    """The parts of the weights of a checkpoint that this process has."""
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    _load(tensors, HuggingFaceStorageReader(str(folder)))


def save_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path, sharded: bool) -> None:
    """What an optimizer remembers of each weight; of a sharded one, all processes take part."""
    tensors, folder = _tensors(_remembered(model, optimizer)), checkpoint / OPTIMIZER
    if sharded:
        _save(tensors, HuggingFaceStorageWriter(str(folder), save_distributed=True))
    else:
        folder.mkdir()
        save_file(tensors, folder / f"{OPTIMIZER}.safetensors")


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """What `save_optimizer` wrote, by whatever number of processes, into an optimizer that made no step yet."""
    remembered = _remembered(model, optimizer)
    reader = HuggingFaceStorageReader(str(checkpoint / OPTIMIZER))
    written = reader.read_metadata().state_dict_metadata
    weights = dict(model.named_parameters())
    for name in [name for name, values in remembered.items() if not all(f"{name}/{key}" in written for key in values)]:
        optimizer.state.pop(weights[name])  # a weight that had no gradient up to then
        remembered.pop(name)
    tensors = _tensors(remembered)
    _load(tensors, reader)
    for name, values in remembered.items():
        for key, value in values.items():
            if not isinstance(value, Tensor):
                optimizer.state[weights[name]][key] = type(value)(tensors[f"{name}/{key}"].item())


def save_schedule(schedule: Any, checkpoint: Path) -> None:
    """How far a schedule of the learning rate has come."""
    (checkpoint / SCHEDULE).write_text(json.dumps(schedule.state_dict()), encoding="utf-8")


def load_schedule(schedule: Any, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Go on where a schedule was, the rates of the optimizer too."""
    schedule.load_state_dict(json.loads((checkpoint / SCHEDULE).read_text(encoding="utf-8")))
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate


def _save(tensors: dict[str, Tensor], writer: HuggingFaceStorageWriter) -> None:
    """All processes together."""
    with _raised_as_it_is():
        save(tensors, storage_writer=writer)


def _load(tensors: dict[str, Tensor], reader: HuggingFaceStorageReader) -> None:
    """Each process for itself, whatever the others do."""
    with warnings.catch_warnings(), _raised_as_it_is():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is meant
        load(tensors, storage_reader=reader, no_dist=True)


@contextmanager
def _raised_as_it_is() -> Iterator[None]:
    """In each process, what went wrong in any; PyTorch's own is no Exception, and as long as all tracebacks."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None


def _remembered(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The values of each weight by the weight's name, themselves and no copies; of a fresh optimizer, as it begins."""
    state: dict[str, dict[str, Any]] = get_optimizer_state_dict(model, optimizer)["state"]  # type: ignore[assignment]
    return state


def _tensors(remembered: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
        for name, values in remembered.items()
        for key, value in values.items()
    }
