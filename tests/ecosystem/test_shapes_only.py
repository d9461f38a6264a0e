"""Forwards of tensors without values, as summaries, planners and counters of operations make them."""

from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from reformer.models import ReformerConfig, ReformerForCausalLM
from tests.ecosystem.models import CLASSES, inputs_of, tiny

SETTINGS: list[dict[str, Any]] = [
    {},
    {"attention_pattern": ("full", "lsh"), "position_embedding": "learned", "max_position_embeddings": 400},
    {"rule": "chunk", "chunk_length": 8, "num_buckets": 4, "local_rule": "chunk", "local_chunk_length": 8},
    {"attention_pattern": ("full",), "residual": "single", "reversible": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", CLASSES)
def test_shapes_are_those_of_real_tensors(kind: Any, settings: dict[str, Any]) -> None:
    for length, training, masked in ((12, False, True), (300, True, False)):
        model = tiny(kind, **settings).train(training)
        inputs = inputs_of(model, length)
        if masked:
            inputs["attention_mask"] = torch.ones(2, length, dtype=torch.long)
        with torch.no_grad():
            expected = model(**inputs)[0].shape
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = model(**{name: mode.from_tensor(x) for name, x in inputs.items()})[0]
            fake.sum().backward()
        assert fake.shape == expected
        model.to("meta")
        output = model(**{name: x.to("meta") for name, x in inputs.items()})[0]
        assert output.shape == expected
        output.sum().backward()


def test_a_model_made_of_nothing_has_its_shapes() -> None:
    with init_empty_weights():
        model = ReformerForCausalLM(ReformerConfig(vocab_size=40, hidden_size=64, num_attention_heads=4))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model(torch.zeros(1, 2000, dtype=torch.long, device="meta")).logits.shape == (1, 2000, 40)


def test_operations_are_counted() -> None:
    model = tiny()
    with FlopCounterMode(display=False) as counter:
        model(**inputs_of(model))
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    assert counter.get_total_flops() >= 2 * 24 * weights
