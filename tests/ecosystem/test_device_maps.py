"""accelerate's device maps over each class: blocks on the disk, and on another device."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from transformers import GenerationMixin

from reformer.models import ReformerModel
from tests.ecosystem.models import CLASSES, inputs_of, tiny


def blocks_of(model: Any) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if type(m).__name__ in model._no_split_modules}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("single", [False, True])
def test_blocks_that_lie_on_the_disk(kind: Any, single: bool, tmp_path: Path) -> None:
    changes = {"residual": "single", "reversible": False} if single else {}
    model = tiny(kind, num_hidden_layers=4, **changes)
    inputs, expected = inputs_of(model), None
    with torch.no_grad():
        expected = model(**inputs)[0]
    written = model.generate(inputs["input_ids"], max_new_tokens=9, do_sample=False) if may_write(model) else None
    blocks = list(blocks_of(model))
    assert blocks
    sizes = {name: sum(p.nbytes for p in model.get_submodule(name).parameters()) for name in blocks}
    room = sum(p.nbytes for p in model.parameters()) - int(1.5 * sizes[blocks[-1]])
    places = infer_auto_device_map(
        model, {"cpu": room, "disk": 1 << 30}, no_split_module_classes=model._no_split_modules
    )
    assert "disk" in places.values()
    assert not any(name.startswith(block + ".") for name in places for block in blocks)
    model = dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], expected)
    if written is not None:
        assert torch.equal(model.generate(inputs["input_ids"], max_new_tokens=9, do_sample=False), written)


def targets_of(model: Any) -> dict[str, torch.Tensor]:
    """A target of a kind that the class learns from."""
    name = type(model).__name__
    if "Question" in name:
        return {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    return {"labels": torch.ones(2, dtype=torch.long) if "Sequence" in name else torch.ones(2, 12, dtype=torch.long)}


def may_write(model: Any) -> bool:
    return isinstance(model, GenerationMixin) and (model.config.causal or model.config.is_encoder_decoder)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("padded", [False, True])
def test_a_block_on_another_device_takes_all_that_it_needs_there(kind: Any, padded: bool) -> None:
    """The meta device stands for it: tensors of two devices do not meet there either."""
    model = tiny(kind, num_hidden_layers=3)
    inputs = inputs_of(model)
    if padded:
        inputs["attention_mask"] = torch.ones(2, 12).tril_(9)
    expected = model(**inputs)[0].shape
    moved = list(blocks_of(model))[-2:]
    behind = [name for name, _ in model.named_parameters() if "blocks" not in name and "embeddings" not in name]
    for name, module in list(model.named_modules()):
        if name in moved or any(name == other.rpartition(".")[0] for other in behind if "encoder." not in other):
            add_hook_to_module(module.to("meta"), AlignDevicesHook("meta"))
    found = model(**inputs)[0]
    assert (found.shape, found.device.type) == (expected, "meta")
    if kind is not ReformerModel:
        assert model(**inputs, **targets_of(model)).loss.device.type == "meta"
