"""Models over parts of a sequence, in processes that come from a fork: what they give beside one process."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.forks import FORKS

Made = dict[str, Any]


def over_processes(function: Callable[..., Made], size: int, folder: Path, *arguments: Any) -> list[Made]:
    """What a function gives in each of so many processes of one group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        FORKS.Process(target=_run, args=(function, place, size, port, str(folder), arguments)) for place in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        process.kill()
    return [torch.load(folder / f"{place}.pt", weights_only=True) for place in range(size)]


def _run(function: Callable[..., Made], place: int, size: int, port: int, folder: str, arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=place, world_size=size)
    torch.save(function(*arguments), f"{folder}/{place}.pt")
    dist.barrier()
    dist.destroy_process_group()


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Those of all weights; zeros where there is none."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def averaged(model: torch.nn.Module) -> dict[str, Tensor]:
    """Gradients averaged over the processes, as DDP and FSDP do it."""
    found = gradients(model)
    for grad in found.values():
        dist.all_reduce(grad)
        grad /= dist.get_world_size()
    return found
