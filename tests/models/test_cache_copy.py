"""Copies of a cache that share its memory: what one writes, no other one sees."""

import sys
from typing import Any

import pytest
import torch

from reformer.errors import InputError
from reformer.models import ReformerCache, ReformerForCausalLM, cache_copy
from reformer.models.cache_copy import FrozenCache
from tests.models.caching import decoder, padded, tokens  # noqa: F401 - a fixture that all tests take
from tests.models.conftest import Make
from tests.models.test_cache_rows import SETTINGS, read


@pytest.fixture(autouse=True, params=[1, 1 << 30], ids=["shared", "copied"])
def everything(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_copy, "SHARED", request.param)
    monkeypatch.setattr(cache_copy, "ROOM", 8)  # and grow out of it


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_each_goes_on_as_if_it_were_alone(make: Make, settings: dict[str, Any]) -> None:
    lm = make(**settings).eval()
    for length in (3, 64, 77):  # at the end of an octave, and in the middle of one
        x, ends = tokens(1, length), [tokens(1, 80) for _ in range(3)]
        cache = read(lm, x)
        frozen = FrozenCache(cache)
        caches = [cache, frozen.copy(), frozen.copy()]
        at = 0
        for k in (1, 1, 30, 1, 47):  # in turns
            got = [lm(end[:, at : at + k], past_key_values=each).logits for end, each in zip(ends, caches, strict=True)]
            at += k
            for logits, end in zip(got, ends, strict=True):
                full = lm(torch.cat((x, end[:, :at]), 1)).logits[:, -k:]
                assert (logits - full).abs().max() < 1e-9
        late = frozen.copy()  # whatever became of the others
        assert late.seen == frozen.seen == length
        full = lm(torch.cat((x, ends[0][:, :5]), 1)).logits[:, -5:]
        assert (lm(ends[0][:, :5], past_key_values=late).logits - full).abs().max() < 1e-9


@torch.no_grad()
def test_in_place_one_token_would_reach_another(make: Make) -> None:
    """What `FrozenCache` is for: the last row is completed by the token that follows."""
    lm = make().eval()
    cache = read(lm, tokens(1, 30))
    frozen = FrozenCache(cache)
    rows = cache.layers[1].rings.rows[:, :, :30].clone()  # type: ignore[attr-defined]
    one = frozen.copy()
    lm(tokens(1, 1), past_key_values=one)
    changed = (one.layers[1].rings.rows[:, :, :30] != rows).flatten(3).any(3)[0, 0]  # type: ignore[attr-defined]
    assert changed.nonzero().flatten().tolist() == [29]
    assert torch.equal(frozen.copy().layers[1].rings.rows[:, :, :29], rows[:, :, :29])  # type: ignore[attr-defined]
    last = frozen.copy().layers[1].rings.rows[:, :, 29, 0]  # type: ignore[attr-defined]
    assert torch.equal(last, rows[:, :, 29, 0])


@torch.no_grad()
def test_copies_are_cropped_selected_and_saved_as_any(make: Make, tmp_path: Any) -> None:
    from reformer.models import load_cache, save_cache

    lm = make().eval()
    x = tokens(1, 100)
    frozen = FrozenCache(read(lm, x[:, :90]))
    one = frozen.copy()
    one.crop(-40)
    full = lm(x[:, :60]).logits[:, -10:]
    assert (lm(x[:, 50:60], past_key_values=one).logits - full).abs().max() < 1e-9
    two = frozen.copy()
    two.batch_repeat_interleave(2)
    end = tokens(2, 10)
    full = lm(torch.cat((x[:, :90].expand(2, -1), end), 1)).logits[:, -10:]
    assert (lm(end, past_key_values=two).logits - full).abs().max() < 1e-9
    save_cache(frozen.copy(), tmp_path / "a.cache", lm, x[:, :90])
    three, ids = load_cache(tmp_path / "a.cache", lm)
    assert torch.equal(ids, x[:, :90])  # type: ignore[arg-type]
    full = lm(x).logits[:, -10:]
    assert (lm(x[:, 90:], past_key_values=FrozenCache(three).copy()).logits - full).abs().max() < 1e-9


@torch.no_grad()
def test_a_batch_with_padding(make: Make) -> None:
    lm = make().eval()
    x, mask, cache = tokens(3, 40), padded(3, 40), ReformerCache(make().config)
    lm(x, attention_mask=mask, past_key_values=cache)
    end, whole = tokens(3, 6), torch.cat((mask, torch.ones(3, 6, dtype=torch.long)), 1)
    got = lm(end, attention_mask=whole, past_key_values=FrozenCache(cache).copy()).logits
    assert (got - lm(torch.cat((x, end), 1), attention_mask=whole).logits[:, -6:]).abs().max() < 1e-9


@torch.no_grad()
def test_what_it_takes(make: Make) -> None:
    lm = make().eval()
    cache = read(lm, tokens(1, 2000))
    frozen = FrozenCache(cache)
    assert 0 < frozen.bytes <= cache.bytes()
    with pytest.raises(InputError, match="seen nothing"):
        FrozenCache(ReformerCache(lm.config))


def _resident() -> int:
    with open("/proc/self/smaps_rollup") as file:
        line = next(line for line in file if line.startswith("Private_Dirty"))
    return int(line.split()[1]) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@torch.no_grad()
def test_a_copy_takes_the_pages_that_it_writes_to(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    if cache_copy.SHARED > 1:
        pytest.skip("copied")
    monkeypatch.setattr(cache_copy, "SHARED", 1 << 16)
    lm: ReformerForCausalLM = make(torch.float32, hidden_size=64, head_dim=32).eval()
    frozen = FrozenCache(read(lm, tokens(1, 8192)))
    kept, before = [], _resident()
    for _ in range(8):
        kept.append(frozen.copy())
        lm(tokens(1, 1), past_key_values=kept[-1])
    assert _resident() - before < frozen.bytes  # of eight
