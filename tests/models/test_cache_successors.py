"""Decoding with successor values and a convolution: the next token completes a row, and what a crop needs is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from reformer.models import ReformerCache, ReformerForCausalLM, save_cache
from tests.models.caching import (
    check,
    decoder,  # noqa: F401 - a fixture that all tests take
    tokens,
)
from tests.models.conftest import Make

SIZES = (4, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 8)))
KINDS: list[dict[str, Any]] = [
    {"attention_pattern": ("lsh",)},
    {"attention_pattern": ("full",), "shifted_keys": True},
    {"attention_pattern": ("local", "lsh", "full"), "shifted_keys": True, "duplicates": "once"},
    {"attention_pattern": ("lsh", "local"), "successor_values": False},
]


def sharp(lm: ReformerForCausalLM) -> ReformerForCausalLM:
    """Convolutions that are no identity."""
    torch.manual_seed(1)
    for name, weight in lm.named_parameters():
        if "convolution" in name:
            torch.nn.init.normal_(weight)
    return lm.eval()


@pytest.mark.parametrize("conv_size", SIZES)
@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_pieces_of_any_length(make: Make, settings: dict[str, Any], conv_size: int) -> None:
    lm = sharp(make(conv_size=conv_size, **settings))
    check(lm, tokens(2), None, [1] * 80)
    check(lm, tokens(2), None, [2, 3, 1, 2, 1, 7, 64], crop_limit=1)
    check(lm, tokens(2), None, [77, 1, 1, 1], crop_limit=2)


@pytest.mark.parametrize("conv_size", SIZES)
def test_padding_in_front_inside_and_alone(make: Make, conv_size: int) -> None:
    lm = sharp(make(conv_size=conv_size, attention_pattern=("lsh", "local", "full"), shifted_keys=True))
    mask = torch.ones(3, 80, dtype=torch.long)
    mask[0, :27] = 0  # begins in the third piece
    mask[1, :11] = 0
    mask[1, 20:31] = 0  # a whole piece of padding in the middle
    mask[2, 15:65:3] = 0
    for cuts in ([10, 10, 11, 5, 3, 41], [1] * 80, [26, 2, 52]):
        check(lm, tokens(), mask, cuts, crop_limit=3)
    mask[:, :10] = 0  # a first piece of nothing else
    check(lm, tokens(), mask, [10, 10, 11, 49])


@pytest.mark.parametrize("conv_size", SIZES)
def test_crops_to_across_and_behind_an_octave_s_start(make: Make, conv_size: int) -> None:
    """Octaves start at 4, 8, 16, 32, 64 tokens."""
    lm = sharp(make(conv_size=conv_size, attention_pattern=("lsh", "full"), shifted_keys=True))
    x = tokens(2, 150)
    with torch.no_grad():
        full = lm(x).logits
        for seen, back in ((64, 1), (65, 1), (66, 5), (70, 38), (33, 1), (40, 40), (20, 16), (150, 20)):
            cache = ReformerCache(lm.config, crop_limit=40)
            lm(x[:, : seen - 3], past_key_values=cache)
            lm(x[:, seen - 3 : seen], past_key_values=cache)
            cache.crop(-back)
            lm(torch.full((2, 2), 39), past_key_values=cache)  # another future, which is taken back too
            cache.crop(-2)
            rest = torch.cat(
                [lm(x[:, t : t + 1], past_key_values=cache).logits for t in range(seen - back, min(seen + 3, 150))], 1
            )
            assert (rest - full[:, seen - back : min(seen + 3, 150)]).abs().max() < 1e-9, (seen, back)


@pytest.mark.parametrize("conv_size", SIZES)
def test_crops_behind_a_drop(make: Make, conv_size: int) -> None:
    lm = sharp(make(conv_size=conv_size, attention_pattern=("lsh",), num_buckets=4))
    x, at = tokens(2, 900), 0
    cache = ReformerCache(lm.config, crop_limit=6)
    with torch.no_grad():
        full = lm(x).logits
        for k, back in [(300, 6), (40, 3), (260, 6), (1, 1), (1, 0), (1, 1), (5, 6), (200, 2), (80, 0)]:
            out = lm(x[:, at : at + k], past_key_values=cache).logits
            assert (out - full[:, at : at + k]).abs().max() < 1e-9, at
            cache.crop(-back)
            at += k - back
    layer = cache.layers[0]
    assert layer.dropped[0] > 0
    with pytest.raises(ValueError, match="crop_limit=6"):
        cache.crop(-7)


def test_a_prompt_whose_last_token_is_computed_again(make: Make) -> None:
    lm, x = sharp(make(attention_pattern=("local", "lsh"))), tokens(1, 60)
    with torch.no_grad():
        cache = ReformerCache(lm.config)
        lm(x, past_key_values=cache)
        cache.crop(-1)
        assert (lm(x[:, -1:], past_key_values=cache).logits - lm(x).logits[:, -1:]).abs().max() < 1e-9


@pytest.mark.parametrize("conv_size", SIZES)
@pytest.mark.parametrize("how", ["assisted", "lookup", "beams", "samples"])
def test_generation(make: Make, how: str, conv_size: int) -> None:
    lm = sharp(make(conv_size=conv_size, attention_pattern=("lsh", "full"), shifted_keys=True))
    x = tokens(1, 30)
    options: dict[str, Any] = {"max_new_tokens": 45, "pad_token_id": 0, "eos_token_id": None}
    if how == "assisted":
        options["assistant_model"] = sharp(make(num_hidden_layers=1, attention_pattern=("lsh",)))
    elif how == "lookup":
        options["prompt_lookup_num_tokens"] = 5
    elif how == "beams":
        options["num_beams"] = 3
    else:
        options |= {"do_sample": True, "num_return_sequences": 3}
    found = []
    for use_cache in (True, False):
        if not use_cache and how in ("assisted", "lookup"):
            options = {
                name: value
                for name, value in options.items()
                if name in ("max_new_tokens", "pad_token_id", "eos_token_id")
            }
        torch.manual_seed(3)
        found.append(lm.generate(x, use_cache=use_cache, do_sample=options.pop("do_sample", False), **options))
        if how == "samples":
            options["do_sample"] = True
    assert torch.equal(*found)


def test_a_crop_counts_from_the_most_that_was_seen(make: Make) -> None:
    """The rings of a layer are filled anew when an octave starts; what the convolution saw is not."""
    lm, x = sharp(make(attention_pattern=("lsh",))), tokens(1, 160)
    with torch.no_grad():
        full = lm(x).logits
        cache = ReformerCache(lm.config, crop_limit=30)
        lm(x[:, :140], past_key_values=cache)
        cache.crop(-30)
        lm(x[:, 110:111], past_key_values=cache)
        with pytest.raises(ValueError, match="crop_limit=30"):
            cache.crop(-2)  # to 109: less than 140 - 30
        cache.crop(-1)
        assert (lm(x[:, 110:], past_key_values=cache).logits - full[:, 110:]).abs().max() < 1e-9


def test_a_cropped_cache_has_the_bytes_of_one_that_never_saw_more(make: Make, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"attention_pattern": ("local", "lsh", "full"), "shifted_keys": True}
    lm, x = sharp(make(**settings)), tokens(2, 40)
    written = []
    with torch.no_grad():
        for longer in (0, 9):
            cache = ReformerCache(lm.config, crop_limit=60)
            lm(x[:, : 30 + longer], past_key_values=cache)
            cache.crop(-longer)
            save_cache(cache, tmp_path / "cache", lm)
            with safe_open(tmp_path / "cache", "pt") as file:
                written.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                assert file.metadata()["version"] == "4"
    assert written[0].keys() == written[1].keys()
    assert any("inputs.data" in name for name in written[0])
    for name, x in written[0].items():
        assert torch.equal(x, written[1][name]) or (x - written[1][name]).abs().max() < 1e-14, name
    rows = written[0]["layers.1.rows"]
    assert not rows[:, :, -1, 1].any()


def test_none_and_true_are_one_model(make: Make) -> None:
    lm, asked = make().eval(), make(successor_values=True).eval()
    cache = ReformerCache(lm.config)
    with torch.no_grad():
        asked(tokens(), past_key_values=cache)
    with pytest.raises(ValueError, match="successor_values"):
        make(successor_values=False).eval()(tokens(), past_key_values=ReformerCache(lm.config))


def test_what_is_kept_goes_through_everything(make: Make) -> None:
    """Selected, repeated, moved, counted; and where a captured graph would look for it."""
    lm, x = sharp(make(attention_pattern=("lsh",))), tokens(2, 60)
    with torch.no_grad():
        full = lm(x).logits
        cache = ReformerCache(lm.config)
        lm(x[:, :40], past_key_values=cache)
        (layer,) = {type(layer): layer for layer in cache.layers}.values()
        inputs = layer.recent["inputs"]
        assert cache.bytes() > len(cache.layers) * inputs.data.nbytes
        assert inputs.data.data_ptr() in cache.make_ready()[-1]
        before = inputs.data
        cache.to("cpu").batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([3, 0, 1, 2]))
        assert inputs.data is not before
        rows: Tensor = x[torch.tensor([1, 0, 0, 1])]
        out = lm(rows[:, 40:], past_key_values=cache).logits
        assert (out - full[torch.tensor([1, 0, 0, 1]), 40:]).abs().max() < 1e-9
