"""The convolution as a part of layers and models: how it begins, what trains it, what leaves it alone."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from reformer.layers.attention import FullAttention, LSHAttention
from reformer.layers.convolution import ShortConvolution
from reformer.models import ReformerConfig, ReformerForCausalLM, ReformerForConditionalGeneration, ReformerForMaskedLM
from reformer.ops.sequences import Sequences


def config(**settings: Any) -> ReformerConfig:
    small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "window": 4}
    return ReformerConfig(**{**small, "local_window": 6, "num_hashes": 2, **settings})


def names(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if "convolution" in name]


def test_it_begins_as_the_identity_or_without_the_token() -> None:
    assert ShortConvolution(3, 4).weight.tolist() == [[0, 0, 0, 1]] * 3
    assert ShortConvolution(3, 1).weight.tolist() == [[1]] * 3
    assert ShortConvolution(3, 1, causal=False).weight.tolist() == [[1]] * 3
    third = pytest.approx(1 / 3)
    assert ShortConvolution(1, 4, causal=False).weight.tolist() == [[third, third, 0, third]]
    assert ShortConvolution(1, 2, causal=False).weight.tolist() == [[1, 0]]


def test_which_layers_have_one() -> None:
    assert names(LSHAttention(16, 2)) == ["convolution.weight"]
    assert names(LSHAttention(16, 2, conv_size=0)) == []
    assert names(FullAttention(16, 2)) == []
    assert names(FullAttention(16, 2, shifted_keys=True)) == ["convolution.weight"]
    assert names(FullAttention(16, 2, shifted_keys=True, conv_size=0)) == []
    for wrong in (-1, 2.5, True):
        with pytest.raises(ValueError, match=f"conv_size={wrong}"):
            LSHAttention(16, 2, conv_size=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="conv_size=-1"):
        config(conv_size=-1)
    assert len(names(ReformerForCausalLM(config(num_hidden_layers=6)))) == 3
    assert len(names(ReformerForCausalLM(config(num_hidden_layers=6, share_layers=True)))) == 1
    both = ReformerForConditionalGeneration(config(num_hidden_layers=2))
    sides = [both.get_submodule(name.removesuffix(".weight")) for name in names(both)]
    assert [side.causal for side in sides] == [False, True]


def test_the_value_sees_the_token_alone() -> None:
    layer = LSHAttention(16, 2, num_hashes=1).double().eval()
    torch.nn.init.normal_(layer.convolution.weight)
    x, queries, values = torch.randn(1, 20, 16, dtype=torch.float64), [], []
    layer.query_key.register_forward_hook(lambda _, given, __: queries.append(given[0]))
    layer.value.register_forward_hook(lambda _, given, __: values.append(given[0]))
    layer(x)
    assert torch.equal(values[0], x)
    assert torch.equal(queries[0], layer.convolution(x))


@pytest.mark.parametrize("kind", [ReformerForCausalLM, ReformerForMaskedLM])
def test_a_folder_without_one_is_loaded_with_one(kind: Any, tmp_path: Path) -> None:
    """What no file holds begins as it should, not as whatever lay in memory."""
    causal = kind is ReformerForCausalLM
    model = kind(config(conv_size=0, causal=causal)).eval()
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path, conv_size=4).eval()
    (name,) = names(again)
    assert torch.equal(again.get_parameter(name), ShortConvolution(16, 4, causal).weight)
    x = torch.randint(3, 40, (2, 30))
    assert (torch.allclose(again(x).logits, model(x).logits, atol=1e-5)) == causal


def step(model: Any, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model(x, labels=x).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_alone_trainable_its_gradients_are_those_of_the_plain_twin() -> None:
    x, found = torch.randint(3, 40, (2, 50)), []
    for reversible in (True, False):
        torch.manual_seed(0)
        model = ReformerForCausalLM(config(num_hidden_layers=4, reversible=reversible, hidden_dropout=0.1)).double()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("convolution" in name)
        found.append(step(model.train(), x))
    assert len(found[0]) == 2
    for name, gradient in found[0].items():
        assert gradient.any()
        assert (gradient - found[1][name]).abs().max() < 1e-12


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of transformers, at a call of peft's
def test_adapters_leave_it_frozen_unless_it_is_named() -> None:
    x = torch.randint(3, 40, (2, 30))
    for named in (None, ["convolution"]):
        options = peft.LoraConfig(target_modules="all-linear", modules_to_save=named, r=2, task_type="CAUSAL_LM")
        model = peft.get_peft_model(ReformerForCausalLM(config()), options)
        trained = [name for name in step(model.train(), x) if "convolution" in name]
        assert len(trained) == (0 if named is None else 1)


def test_shifted_keys_are_causal() -> None:
    with pytest.raises(ValueError, match="shifted_keys=True needs causal=True"):
        FullAttention(16, 2, shifted_keys=True, causal=False)
    settings = config(shifted_keys=True, attention_pattern=("full",), causal=False)
    with pytest.raises(ValueError, match="shifted_keys=True needs causal=True"):
        ReformerForMaskedLM(settings)
    both = ReformerForConditionalGeneration(settings)  # the encoder has plain keys
    assert [layer.shifted_keys for layer in both.modules() if isinstance(layer, FullAttention)] == [False] * 2 + [
        True
    ] * 2


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_shifted_keys_stand_with_the_value_behind_them(rotary: bool, masked: bool) -> None:
    """Against the definition, one token at a time."""
    torch.manual_seed(0)
    layer = FullAttention(8, 1, shifted_keys=True, conv_size=3, rotary=rotary).double().eval()
    torch.nn.init.normal_(layer.convolution.weight)
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    mask = torch.ones(1, 12, dtype=torch.bool)
    segments = torch.zeros(1, 12, dtype=torch.long)
    if masked:
        mask[0, [0, 4, 5]], segments[0, 7:] = False, 1
    out = layer(x, key_padding_mask=mask, segment_ids=segments) if masked else layer(x)
    context = layer.convolution(x, Sequences.of(x, mask, segments))
    q, k, v = layer.query(context)[0], layer.key(context)[0], layer.value(x)[0]
    for document in (0, 1) if masked else (0,):
        slots = [t for t in range(12) if mask[0, t] and segments[0, t] == document]
        keys = torch.stack([torch.zeros(8, dtype=torch.float64), *(k[s] for s in slots[:-1])])
        queries = q[slots]
        if rotary:
            queries, keys = (turn(y) for y in (queries, keys))
        logits = (queries @ keys.T / 8**0.5).masked_fill(~torch.ones(len(slots), len(slots)).tril().bool(), -torch.inf)
        expected = layer.out(logits.softmax(-1) @ v[slots])
        assert (out[0, slots] - expected).abs().max() < 1e-12


def turn(x: Tensor) -> Tensor:
    """Rotary positions by rank."""
    from reformer.layers.positions import compute_waves, rotate

    return rotate(x[None, None], compute_waves(torch.arange(len(x))[None], x.shape[1], x.dtype))[0, 0]
