"""What the tests of caches share."""

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

from reformer.layers.caches import lsh, ring_keeper, wider_rows
from reformer.models import ReformerCache, ReformerForCausalLM
from reformer.ops.backends import choose_decoder
from reformer.ops.plain import decode as plain_decoder

LENGTH = 80


def decode_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    for user in (lsh, ring_keeper):
        monkeypatch.setattr(user, "choose_decoder", lambda _: plain_decoder)


@pytest.fixture(autouse=True, params=[pytest.param("plain", marks=pytest.mark.slow), "numba"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ring_keeper, wider_rows):
        monkeypatch.setattr(module, "AT_ONCE", 3)  # short texts look ahead too
    if request.param == "plain":
        decode_plainly(monkeypatch)
    else:
        assert choose_decoder(torch.zeros(1)) is not plain_decoder


def tokens(rows: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(3, 40, (rows, length))


def padded(rows: int, length: int) -> Tensor:
    """Left, inner, scattered padding; a row of nothing else."""
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, : length // 4] = 0
    mask[1, length // 3 : length // 3 + 20] = 0
    mask[2, ::5] = 0
    return mask


@torch.no_grad()
def by_pieces(lm: ReformerForCausalLM, x: Tensor, mask: Tensor | None, cuts: list[int], **options: Any) -> Tensor:
    cache, at, out = ReformerCache(lm.config, **options), 0, []
    for k in cuts:
        seen = None if mask is None else mask[:, : at + k]
        out.append(lm(x[:, at : at + k], attention_mask=seen, past_key_values=cache).logits)
        at += k
    assert at == x.shape[1] == cache.get_seq_length()
    return torch.cat(out, 1)


def check(lm: ReformerForCausalLM, x: Tensor, mask: Tensor | None, cuts: list[int], **options: Any) -> None:
    with torch.no_grad():
        full = lm(x, attention_mask=mask).logits
    worst = (by_pieces(lm, x, mask, cuts, **options) - full).abs()
    if mask is not None:
        worst = worst[mask.bool()]
    assert worst.max() < 1e-9
