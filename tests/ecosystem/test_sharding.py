"""FSDP2 over each class, as accelerate and so the Trainer wraps it, on two gloo processes."""

import os
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from tests.ecosystem.models import CLASSES, inputs_of, tiny

CASES: list[tuple[str, Any, dict[str, Any]]] = [
    *((kind.__name__, kind, {}) for kind in CLASSES),
    ("plain", CLASSES[1], {"reversible": False}),
    ("single", CLASSES[1], {"residual": "single", "reversible": False}),
    ("shared", CLASSES[1], {"share_layers": True, "num_hidden_layers": 4}),
    ("frozen", CLASSES[1], {"num_hidden_layers": 4}),
]
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16, output_dtype=torch.bfloat16)


def made(name: str, kind: Any, changes: dict[str, Any]) -> Any:
    model = tiny(kind, **changes)
    if name == "frozen":
        model.model.layers.blocks[1].requires_grad_(False)
        model.model.layers.blocks[3].requires_grad_(False)
    return model


def loss_of(model: nn.Module, rows: slice) -> Tensor:
    output = model(**{name: x[rows] for name, x in inputs_of(model).items()})
    logits: Tensor = output[0] if output.get("logits") is None else output["logits"]
    return logits.float().square().sum()


def wrap(model: Any, policy: MixedPrecisionPolicy) -> Any:
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    plugin.set_auto_wrap_policy(model)
    is_unit: Any = fsdp2_prepare_auto_wrap_policy(plugin, model)
    for module in reversed(list(model.modules())[1:]):
        if is_unit(module):
            fully_shard(module, mp_policy=policy)
    assert any(isinstance(module, FSDPModule) for module in model.modules())
    return fully_shard(model, mp_policy=policy)


def steps(rank: int, world: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    found: dict[str, Any] = {}
    for policy, type_name in ((MixedPrecisionPolicy(), "fp32"), (BF16, "bf16")):
        for name, kind, changes in CASES:
            model = wrap(made(name, kind, changes), policy)
            for norm in (module for name, module in model.named_modules() if name.endswith("f.norm")):
                norm.register_forward_pre_hook(lambda _, inputs: check_type(inputs[0]))
            for _ in range(2):
                model.zero_grad()
                loss_of(model, slice(rank, rank + 1)).backward()
            grads = {n: p.grad.full_tensor() for n, p in model.named_parameters() if p.grad is not None}
            found[f"{name} {type_name}"] = grads
    if rank == 0:
        torch.save(found, f"{folder}/grads.pt")
    dist.destroy_process_group()
    os._exit(0)  # as in tests/layers/test_distributed.py


def check_type(stream: Tensor) -> None:
    assert stream.dtype == torch.float32, "streams keep their type, whatever the policy of the weights"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("sharded")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(steps, (2, port, str(folder)), nprocs=2)
    return torch.load(folder / "grads.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.slow
def test_a_training_step_over_blocks(case: Any, sharded: Any) -> None:
    model = made(*case)
    loss_of(model, slice(None)).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    exact, rounded = sharded[f"{case[0]} fp32"], sharded[f"{case[0]} bf16"]
    assert exact.keys() == expected.keys()
    for name, grad in expected.items():
        assert (exact[name] * 2 - grad).abs().max() <= 1e-4 * grad.abs().max() + 1e-5, name
        assert torch.isfinite(rounded[name]).all()
    both = [torch.cat([grads[name].flatten() for name in expected]) for grads in (rounded, expected)]
    assert torch.cosine_similarity(*both, dim=0) > 0.9
