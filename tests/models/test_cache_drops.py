"""Tokens that no window comes back to are dropped, and nothing changes."""

from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

from reformer.layers.caches import lsh
from reformer.models import ReformerCache, ReformerForCausalLM, load_cache, save_cache
from tests.models.caching import (
    decoder,  # noqa: F401 - a fixture that all tests take
    padded,
    tokens,
)
from tests.models.conftest import Make


def test_a_limit_of_buckets_bounds_the_cache_exactly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reformer.layers.caches.layer.BLOCK", 16)
    lm = make(num_buckets=4, attention_pattern=("local", "lsh")).eval()
    x, mask = tokens(3, 600), padded(3, 600)
    full = lm(x, attention_mask=mask).logits.detach()
    cache = ReformerCache(lm.config, crop_limit=8)
    sizes, at = [], 0
    while at < 600:
        k = min(13 if at % 3 else 1, 600 - at)
        out = lm(x[:, at : at + k], attention_mask=mask[:, : at + k], past_key_values=cache).logits
        real = mask[:, at : at + k].bool()
        assert (out - full[:, at : at + k])[real].abs().max() < 1e-9
        at += k
        sizes.append(cache.bytes())
        if at % 7 == 0:
            cache.crop(-3)
            at -= 3
    assert max(cache.layers[1].dropped) > 300
    assert sizes[-1] == sizes[len(sizes) // 3]
    with pytest.raises(ValueError, match="crop_limit=8"):
        cache.crop(-9)


def test_tokens_are_dropped_right_behind_a_crop(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reformer.layers.caches.layer.BLOCK", 4)
    lm, x = make(num_buckets=2, attention_pattern=("lsh",)).eval(), tokens(1, 300)
    full, at = lm(x).logits.detach(), 0
    cache = ReformerCache(lm.config, crop_limit=4)
    while at + 5 <= 300:
        out = lm(x[:, at : at + 5], past_key_values=cache).logits
        assert (out - full[:, at : at + 5]).abs().max() < 1e-9
        cache.crop(-3)
        at += 2
    assert cache.layers[0].dropped[0] > 100


def until_dropped(lm: ReformerForCausalLM, x: Tensor, cache: ReformerCache) -> int:
    for at in range(x.shape[1]):
        lm(x[:, at : at + 1], past_key_values=cache)
        if cache.layers[0].dropped[0]:
            return at + 1
    raise AssertionError("nothing was dropped")


def test_what_was_dropped_stays_known_in_a_file(make: Make, tmp_path: Path) -> None:
    lm = make(num_buckets=1, attention_pattern=("lsh",)).eval()
    cache = ReformerCache(lm.config)
    until_dropped(lm, tokens(1, 800), cache)
    cache.crop(-60)
    save_cache(cache, str(tmp_path / "cache"), lm)
    for one in (cache, load_cache(str(tmp_path / "cache"), lm)[0]):
        with pytest.raises(ValueError, match="crop_limit=64"):
            one.crop(-60)


def test_what_was_dropped_stays_known_when_rings_fill_again(make: Make) -> None:
    lm = make(num_buckets=1, attention_pattern=("lsh",)).eval()
    x, mask = tokens(2, 366), torch.ones(2, 366, dtype=torch.long)
    mask[0, 256:286], mask[1, :30] = 0, 0
    cache = ReformerCache(lm.config, crop_limit=30)
    for at in range(286):
        lm(x[:, at : at + 1], attention_mask=mask[:, : at + 1], past_key_values=cache)
    cache.crop(-30)
    mask[0, 256:] = 1
    lm(x[:, 256:257], attention_mask=mask[:, :257], past_key_values=cache)
    assert all(cache.layers[0].dropped)
    with pytest.raises(ValueError, match="crop_limit=30"):
        cache.crop(-30)


def test_rows_are_not_dropped_at_each_step(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make(num_buckets=1, window=191, attention_pattern=("lsh",), num_hashes=1).eval()
    x, drops = tokens(1, 600), []
    real = lsh.LSHCache._drop
    monkeypatch.setattr(lsh.LSHCache, "_drop", lambda *a: (drops.append(1), real(*a)))
    cache = ReformerCache(lm.config)
    for at in range(600):
        lm(x[:, at : at + 1], past_key_values=cache)
    assert 0 < len(drops) < 5 * lm.config.num_hidden_layers
