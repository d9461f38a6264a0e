"""DDP and FSDP2 over the reversible sequence, on two gloo processes."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tests.layers.branches import WIDTH, loss_of, sequence


def batch() -> Tensor:
    torch.manual_seed(5)
    return torch.randn(4, 21, WIDTH, dtype=torch.float64)


def step(rank: int, world: int, wrap: str, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = sequence(True, dropout=0.0).eval()  # evaluation mode: every process draws the same rotations
    if wrap == "ddp":
        run = DistributedDataParallel(model)
    else:
        for block in model.blocks:
            for unit in {"fsdp2 branches": (block.f, block.g), "fsdp2 both": (block.f, block)}.get(wrap, (block,)):
                fully_shard(unit)
        run = fully_shard(model)
    for _ in range(2):  # a second step shows what the first one left behind
        run.zero_grad()
        part = batch()[rank * 2 : rank * 2 + 2]
        loss_of(*run(part, part * 2)).backward()
    grads = [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for p in model.parameters()]
    if rank == 0:
        torch.save(grads, f"{folder}/grads.pt")
    dist.destroy_process_group()
    os._exit(0)  # torch's static threads now and then abort a process that ends behind `fully_shard` on gloo


@pytest.mark.parametrize(
    "wrap",
    ["ddp", "fsdp2 both", *(pytest.param(x, marks=pytest.mark.slow) for x in ("fsdp2 blocks", "fsdp2 branches"))],
)
def test_gradients_equal_one_process(wrap: str, tmp_path: Path) -> None:
    model = sequence(False, dropout=0.0).eval()
    x = batch()
    loss_of(*model(x, x * 2)).backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(step, (2, wrap, port, str(tmp_path)), nprocs=2)
    grads = torch.load(tmp_path / "grads.pt", weights_only=True)
    for found, p in zip(grads, model.parameters(), strict=True):
        assert (found * 2 - p.grad).abs().max() < 1e-10  # both wrappers take the mean over processes
