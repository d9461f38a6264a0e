"""Decoding over a cache equals the full forward, whatever the pieces."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

from reformer.layers.caches import ring_keeper
from reformer.models import ReformerCache, load_cache, save_cache
from tests.models.caching import (
    LENGTH,
    by_pieces,
    check,
    decode_plainly,
    decoder,  # noqa: F401 - a fixture that all tests take
    padded,
    tokens,
)
from tests.models.conftest import Make

SETTINGS: list[dict[str, Any]] = [
    {},
    {"attention_pattern": ("lsh",), "num_hashes": 1, "position_embedding": "sinusoidal"},
    {"attention_pattern": ("local", "lsh", "full"), "num_hashes": 3, "duplicates": "once"},
    {"num_hashes": 8, "share_rotations": True, "attention_scale": 4.0},
    {"bucket_size": 3, "factor_from": 4, "num_hashes_eval": 5},
    {"window": 7, "bucket_size": 2, "num_buckets": 8, "duplicates": "once"},
    {"attention_pattern": ("full",), "stream_merge": "mean"},
    {"attention_pattern": ("local",), "local_window": 1, "position_embedding": "learned", "reversible": False},
    {"attention_pattern": ("local", "lsh"), "share_layers": True, "num_hidden_layers": 4},
]
CUTS = [[1] * LENGTH, [30, *[1] * 7, 23, 3, 17], [2, LENGTH - 2], [LENGTH], [40] * 2]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_equals_the_full_forward(make: Make, settings: dict[str, Any]) -> None:
    lm = make(**settings).eval()
    for i, cuts in enumerate(CUTS):
        check(lm, tokens(), padded(3, LENGTH) if i % 2 == 0 else None, cuts, crop_limit=5)
        check(lm, tokens(1), None, cuts[::-1])


def test_plain_decoding_in_small(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of this module, with the decoder of other devices, is among the slow tests."""
    decode_plainly(monkeypatch)
    for settings in SETTINGS[2:5]:
        check(make(**settings).eval(), tokens(), padded(3, LENGTH), CUTS[1], crop_limit=5)


def test_odd_widths_and_fp32(make: Make) -> None:
    check(make(head_dim=6).eval(), tokens(), None, [31, *[1] * 9, 40])
    lm = make(torch.float32, head_dim=6).eval()
    with torch.no_grad():
        x = tokens()
        assert (by_pieces(lm, x, None, [31, *[1] * 9, 40]) - lm(x).logits).abs().max() < 1e-3


def test_bf16_stays_near_fp32(make: Make) -> None:
    """Without hashes, which near-ties turn; with them, pieces beside the whole."""
    x, pieces = tokens(), [31, *[1] * 9, 40]
    with torch.no_grad():
        exact = make(torch.float32, attention_pattern=("local", "full")).eval()(x).logits
        found = by_pieces(make(torch.bfloat16, attention_pattern=("local", "full")).eval(), x, None, pieces)
        assert 0 < (found.float() - exact).abs().mean() < 0.02 * exact.std()
        lm = make(torch.bfloat16, attention_pattern=("lsh", "full")).eval()
        difference = (by_pieces(lm, x, None, pieces) - lm(x).logits).float().abs()
    assert difference.mean() < 0.02 * exact.std()


@pytest.mark.parametrize("mask", [None, padded(3, 150)], ids=["whole", "padded"])
def test_crop_leaves_no_trace(make: Make, mask: Tensor | None) -> None:
    lm = make(attention_pattern=("local", "lsh", "full")).eval()
    x, at = tokens(3, 150), 0
    cache = ReformerCache(lm.config, crop_limit=30)
    with torch.no_grad():
        full = lm(x, attention_mask=mask).logits
        for k, back in [(70, 30), (35, 1), (10, 10), (3, 20), (60, 29), (1, 1), (40, 2)]:
            seen = None if mask is None else mask[:, : at + k]
            out = lm(x[:, at : at + k], attention_mask=seen, past_key_values=cache).logits
            wanted = full[:, at : at + k] if mask is None else full[:, at : at + k][mask[:, at : at + k].bool()]
            assert ((out if mask is None else out[mask[:, at : at + k].bool()]) - wanted).abs().max() < 1e-9
            cache.crop(-back)
            at += k - back


def test_crop_at_octave_starts(make: Make) -> None:
    lm = make().eval()
    x = tokens(2, 150)
    with torch.no_grad():
        full = lm(x).logits
        for edge in (8, 16, 32, 64, 128):
            cache = ReformerCache(lm.config, crop_limit=12)
            lm(x[:, : edge + 5], past_key_values=cache)
            lm(x[:, edge + 5 : edge + 6], past_key_values=cache)
            cache.crop(-9)
            out = lm(x[:, edge - 3 : edge + 15], past_key_values=cache).logits
            assert (out - full[:, edge - 3 : edge + 15]).abs().max() < 1e-9


def test_a_crop_too_far_is_refused(make: Make) -> None:
    lm = make().eval()
    cache = ReformerCache(lm.config, crop_limit=10)
    lm(tokens(1, 150), past_key_values=cache)
    with pytest.raises(ValueError, match="crop_limit=10"):
        cache.crop(-11)
    with pytest.raises(ValueError, match="from 0 to -150"):
        cache.crop(3)
    cache.crop(-10)
    with pytest.raises(ValueError, match="crop_limit=10"):
        cache.crop(-1)
    free = make(attention_pattern=("lsh", "full"), conv_size=0).eval()  # nothing of these is ever lost
    cache, x = ReformerCache(free.config, crop_limit=1), tokens(1, 150)
    with torch.no_grad():
        free(x, past_key_values=cache)
        cache.crop(-101)
        assert (free(x[:, 49:], past_key_values=cache).logits - free(x).logits[:, 49:]).abs().max() < 1e-9


def test_rows_are_repeated_chosen_and_reordered(make: Make) -> None:
    lm = make(attention_pattern=("local", "lsh", "full")).eval()
    x, mask = tokens(), padded(3, LENGTH)
    with torch.no_grad():
        full = lm(x, attention_mask=mask).logits
        cache = ReformerCache(lm.config)
        lm(x[:, :60], attention_mask=mask[:, :60], past_key_values=cache)
        cache.batch_repeat_interleave(2)  # 0 0 1 1 2 2
        cache.reorder_cache(torch.tensor([5, 0, 3, 1, 2, 4]))  # 2 0 1 0 1 2
        cache.batch_select_indices(torch.tensor([True, True, False, False, True, False]))
        cache.to("cpu")
        rows = torch.tensor([2, 0, 1])
        assert cache.batch_size == 3
        for at in range(60, LENGTH):
            out = lm(x[rows, at : at + 1], attention_mask=mask[rows, : at + 1], past_key_values=cache).logits
            real = mask[rows, at].bool()
            assert (out - full[rows, at : at + 1])[real].abs().max() < 1e-9


@pytest.mark.parametrize("settings", [{}, {"num_buckets": 4}], ids=str)
def test_save_and_load(make: Make, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reformer.layers.caches.layer.BLOCK", 16)
    kinds = ("local", "lsh") if settings else ("local", "lsh", "full")
    lm = make(attention_pattern=kinds, **settings).eval()
    x, mask = tokens(3, 400), padded(3, 400)
    path = tmp_path / "prompt.safetensors"
    with torch.no_grad():
        full = lm(x, attention_mask=mask).logits
        cache = ReformerCache(lm.config, crop_limit=9)
        for at in range(0, 300, 20):
            lm(x[:, at : at + 20], attention_mask=mask[:, : at + 20], past_key_values=cache)
        save_cache(cache, path, lm, x[:, :300])
        again, found = load_cache(path, lm)
        assert found is not None
        assert torch.equal(found, x[:, :300])
        again.crop(-9)
        for at in range(291, 400):
            out = lm(x[:, at : at + 1], attention_mask=mask[:, : at + 1], past_key_values=again).logits
            assert (out - full[:, at : at + 1])[mask[:, at].bool()].abs().max() < 1e-9
    assert [file.name for file in tmp_path.iterdir()] == ["prompt.safetensors"]


def test_files_of_others_are_refused(make: Make, tmp_path: Path) -> None:
    lm, path = make().eval(), tmp_path / "cache"
    with pytest.raises(ValueError, match="seen no token"):
        save_cache(ReformerCache(lm.config), path, lm)
    cache = ReformerCache(lm.config)
    lm(tokens(1), past_key_values=cache)
    save_cache(cache, path, lm)
    with pytest.raises(ValueError, match="differs in window"):
        load_cache(path, make(window=5))
    other = make()
    torch.nn.init.ones_(other.lm_head.weight)
    with pytest.raises(ValueError, match="other weights"):
        load_cache(path, other)
    path.write_bytes(path.read_bytes().replace(b'"version":"4"', b'"version":"9"'))
    with pytest.raises(ValueError, match="version 9"):
        load_cache(path, lm)
    path.write_text("nonsense")
    with pytest.raises(ValueError, match="no cache that can be read"):
        load_cache(path, lm)
    lm.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="holds no cache"):
        load_cache(tmp_path / "model" / "model.safetensors", lm)
    with pytest.raises(ValueError, match="cannot be written"):
        save_cache(cache, tmp_path / "nowhere" / "cache", lm)


def test_what_does_not_go_with_a_cache(make: Make) -> None:
    lm, x = make().eval(), tokens(2, 20)
    cache = ReformerCache(lm.config)
    lm(x, attention_mask=padded(3, 20)[:2], past_key_values=cache)
    with pytest.raises(ValueError, match=r"\[2, 21\]"):
        lm(x[:, :1], attention_mask=torch.ones(2, 1), past_key_values=cache)
    with pytest.raises(ValueError, match="have padding"):
        lm(x[:, :1], past_key_values=cache)
    with pytest.raises(ValueError, match="otherwise than when they came"):
        lm(x[:, :1], attention_mask=torch.ones(2, 21), past_key_values=cache)
    with pytest.raises(ValueError, match="3 rows and the cache 2"):
        lm(tokens(3, 1), past_key_values=cache)
    with pytest.raises(ValueError, match="segment_ids"):
        lm(x, segment_ids=torch.zeros_like(x), past_key_values=cache)
    with pytest.raises(ValueError, match="training"):
        lm.train()(x, use_cache=True)
    with pytest.raises(ValueError, match="window"):
        make(window=9).eval()(x, past_key_values=cache)
    with pytest.raises(ValueError, match="needs a ReformerCache"):
        lm.eval()(x, past_key_values=())
    for settings, reason in (
        ({"rule": "chunk"}, "rule='chunk'"),
        ({"local_rule": "chunk"}, "local_rule='chunk'"),
    ):
        with pytest.raises(ValueError, match=reason):
            ReformerCache(make(**settings).config)
    with pytest.raises(ValueError, match="crop_limit"):
        ReformerCache(lm.config, crop_limit=0)


def test_copies_and_inference_mode(make: Make) -> None:
    lm, x = make(attention_pattern=("local", "lsh", "full")).eval(), tokens(2, 300)
    cache = ReformerCache(lm.config)
    with torch.inference_mode():
        lm(x[:, :20], past_key_values=cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([0, 2]))
    with torch.no_grad():
        full = lm(x).logits
        copied = copy.deepcopy(cache)
        lm(x[:, 20:30], past_key_values=cache)
        with torch.inference_mode():
            lm(x[:, 30:270], past_key_values=cache)
        assert (lm(x[:, 270:], past_key_values=cache).logits - full[:, 270:]).abs().max() < 1e-9
        assert (lm(x[:, 20:40], past_key_values=copied).logits - full[:, 20:40]).abs().max() < 1e-9


def test_a_forward_that_failed_spoils_the_cache(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, x = make().eval(), tokens(1, 20)
    cache = ReformerCache(lm.config)
    with pytest.raises(ValueError, match="vocab_size"):
        lm(x + 99, past_key_values=cache)  # refused before any layer: the cache is as it was
    with monkeypatch.context() as patch:
        patch.setattr(lm.model.norm, "forward", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lm(x, past_key_values=cache)
    with pytest.raises(ValueError, match="did not end"):
        lm(x, past_key_values=cache)
    cache.reset()
    assert (lm(x, past_key_values=cache).logits - lm(x).logits).abs().max() < 1e-9


def test_a_start_of_an_octave_that_failed_spoils_the_cache(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, x = make(attention_pattern=("lsh",)).eval(), tokens(1, 120)
    cache = ReformerCache(lm.config)
    lm(x[:, :60], past_key_values=cache)
    lm(x[:, 60:64], past_key_values=cache)

    def fail(*_: Any) -> None:
        raise MemoryError

    def go_on() -> None:
        for at in range(64, 120):  # somewhere there the rings of the next octave begin
            lm(x[:, at : at + 1], past_key_values=cache)

    with monkeypatch.context() as patch:
        patch.setattr(ring_keeper, "widen_rings", fail)
        with pytest.raises(MemoryError):
            go_on()
    with pytest.raises(ValueError, match="did not end"):
        lm(x[:, -1:], past_key_values=cache)


def test_a_configuration_that_changed_under_the_model(make: Make) -> None:
    lm, x = make().eval(), tokens(1)
    lm.config.num_hashes_eval = 6
    with pytest.raises(ValueError, match="num_hashes_eval"):
        lm(x, past_key_values=ReformerCache(lm.config))
    lm, cache = make().eval(), ReformerCache(make().config)
    lm(x[:, :40], past_key_values=cache)
    lm.config.hash_seed = 9
    with pytest.raises(ValueError, match="hash_seed"):
        lm(x[:, 40:], past_key_values=cache)
    lm.resize_token_embeddings(50)
    check(lm, x, None, [50, 30])


def test_a_first_forward_that_was_refused_leaves_the_batch_open(make: Make) -> None:
    lm, x = make().eval(), tokens(1)
    cache = ReformerCache(lm.config)
    with pytest.raises(ValueError, match="vocab_size"):
        lm(x.repeat(3, 1) + 99, past_key_values=cache)
    lm(x, past_key_values=cache)
    assert cache.batch_size == 1
