"""Caches that take steps together, each in its own memory."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer.errors import InputError
from reformer.models import ReformerCache, ReformerForCausalLM
from reformer.models.cache_rows import CacheRows
from tests.models.caching import decoder, padded, tokens  # noqa: F401 - a fixture that all tests take
from tests.models.conftest import Make

SETTINGS: list[dict[str, Any]] = [
    {},
    {"attention_pattern": ("local", "lsh", "full"), "duplicates": "once", "shifted_keys": True},
    {"window": 7, "bucket_size": 2, "num_buckets": 8},
    {"attention_pattern": ("lsh",), "successor_values": False, "conv_size": 0, "position_embedding": "learned"},
    {"attention_pattern": ("full",)},
    {"share_layers": True, "num_hidden_layers": 4},
]


def read(lm: ReformerForCausalLM, x: Tensor) -> ReformerCache:
    cache = ReformerCache(lm.config)
    lm(x, past_key_values=cache)
    return cache


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_rows_join_and_leave_and_each_has_what_it_has_alone(make: Make, settings: dict[str, Any]) -> None:
    lm = make(**settings).eval()
    texts, rows = [tokens(1, 110) for _ in range(5)], CacheRows(lm.config)
    seen, held = [1, 29, 64, 30, 7], list[int]()
    joining = {0: [0], 1: [1, 2], 5: [3], 20: [4]}
    leaving = {18: [1], 20: [0], 34: [3, 2, 4]}

    for step in range(40):
        for i in leaving.get(step, []):
            rows.leave(held.index(i))
            held.remove(i)
        for i in joining.get(step, []):
            rows.join(read(lm, texts[i][:, : seen[i]]))
            held.append(i)
        if not held:
            assert not rows.is_initialized
            break
        new = torch.cat([texts[i][:, seen[i] : seen[i] + 1] for i in held])
        together = lm(new, past_key_values=rows).logits[:, -1]
        for i in held:
            seen[i] += 1
        if step % 8 == 1:
            alone = torch.cat([lm(texts[i][:, : seen[i]]).logits[:, -1] for i in held])
            assert (together - alone).abs().max() < 1e-9
    else:
        pytest.fail("rows were left over")
    rows.join(read(lm, texts[0][:, :12]))  # as good as new
    assert torch.allclose(
        lm(texts[0][:, 12:13], past_key_values=rows).logits, lm(texts[0][:, :13]).logits[:, -1:], atol=1e-9
    )


@torch.no_grad()
def test_rows_keep_their_memory(make: Make) -> None:
    lm = make().eval()
    rows, one = CacheRows(lm.config), read(lm, tokens(1, 70))
    place, size = one.layers[1].rings.rows.data_ptr(), one.bytes()  # type: ignore[attr-defined]
    rows.join(one)
    rows.join(read(lm, tokens(1, 9)))
    assert rows.layers[1].parts[0].rings.rows.data_ptr() == place  # type: ignore[attr-defined]
    assert rows.bytes() > size
    assert rows.batch_size == 2
    assert rows.get_seq_length() == 70


@torch.no_grad()
def test_what_cannot_join(make: Make) -> None:
    lm = make().eval()
    rows = CacheRows(lm.config)
    for cache in (read(lm, tokens(2, 9)), ReformerCache(lm.config)):
        with pytest.raises(InputError, match="one row without padding"):
            rows.join(cache)
    other = ReformerCache(lm.config, crop_limit=3)
    lm(tokens(1, 9), past_key_values=other)
    with pytest.raises(InputError, match="crop_limit"):
        rows.join(other)
    with pytest.raises(InputError, match="other settings"):
        rows.join(read(make(num_hashes=3).eval(), tokens(1, 9)))
    x, mask = tokens(3, 20), padded(3, 20)
    cache = ReformerCache(lm.config)
    lm(x, attention_mask=mask, past_key_values=cache)
    cache.batch_select_indices(torch.tensor([0]))
    with pytest.raises(InputError, match="padding"):
        rows.join(cache)
