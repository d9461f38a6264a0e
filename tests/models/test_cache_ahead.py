"""No step of decoding is long: rings of the next octave, and wider memory, come a few tokens at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reformer.layers.caches import ring_keeper
from reformer.models import ReformerCache
from tests.models.caching import (
    decoder,  # noqa: F401 - a fixture that all tests take
    padded,
    tokens,
)
from tests.models.conftest import Make


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that entered rings in one go, for each time that some did."""
    counts: list[int] = []
    chosen = ring_keeper.choose_decoder

    def watched(rows: Tensor) -> Any:
        backend = chosen(rows)

        class Watched:
            @staticmethod
            def fill(rings: Any, batch: Any, octave: int, start: int, end: int) -> None:
                counts.append(end - start)
                backend.fill(rings, batch, octave, start, end)

        return Watched

    monkeypatch.setattr(ring_keeper, "choose_decoder", watched)
    return counts


@torch.no_grad()
def test_a_step_puts_few_tokens_into_rings(make: Make, filled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reformer.layers.caches.layer.BLOCK", 8)
    moved: list[int] = []
    move = ring_keeper_move()
    monkeypatch.setattr(move[0], move[1], counting(getattr(*move), moved))
    lm, x = make(attention_pattern=("lsh",)).eval(), tokens(2, 300)
    mask = torch.ones_like(x)
    mask[1, 20:41] = 0  # rows come to starts of octaves at different steps
    full = lm(x, attention_mask=mask).logits
    cache = ReformerCache(lm.config)
    lm(x[:, :60], attention_mask=mask[:, :60], past_key_values=cache)
    filled.clear(), moved.clear()
    for at in range(60, 300):
        out = lm(x[:, at : at + 1], attention_mask=mask[:, : at + 1], past_key_values=cache).logits
        assert (out - full[:, at : at + 1]).abs().max() < 1e-9
    assert len(filled) > 60
    assert max(filled) <= 12
    assert len(moved) > 20
    assert max(moved) <= 40


def ring_keeper_move() -> tuple[Any, str]:
    from reformer.layers.caches.wider_rows import WiderRows

    return WiderRows, "_move"


def counting(move: Any, moved: list[int]) -> Any:
    def count(self: Any, rows: Tensor, end: int) -> None:
        moved.append(end - self.moved)
        move(self, rows, end)

    return count


@torch.no_grad()
@pytest.mark.parametrize("edge", [64, 128])
def test_a_crop_back_across_a_start_finds_its_rings(make: Make, filled: list[int], edge: int) -> None:
    lm, x = make(attention_pattern=("lsh",)).eval(), tokens(2, 200)
    full = lm(x).logits
    cache = ReformerCache(lm.config, crop_limit=20)
    lm(x[:, : edge - 9], past_key_values=cache)
    for at in range(edge - 9, edge + 8):
        lm(x[:, at : at + 1], past_key_values=cache)
    filled.clear()
    cache.crop(-16)
    for at in range(edge - 8, edge + 20):
        out = lm(x[:, at : at + 1], past_key_values=cache).logits
        assert (out - full[:, at : at + 1]).abs().max() < 1e-9
    assert max(filled, default=0) <= 20


@torch.no_grad()
def test_pieces_crops_and_beams_between_octaves(make: Make) -> None:
    lm, x, mask = make(attention_pattern=("lsh",)).eval(), tokens(3, 300), padded(3, 300)
    full = lm(x, attention_mask=mask).logits
    generator = torch.Generator().manual_seed(5)
    cache, at, highest, order = ReformerCache(lm.config, crop_limit=12), 0, 0, torch.arange(3)
    while at < 300:
        k = min(int(torch.randint(1, 40, (), generator=generator)) if at % 4 == 0 else 1, 300 - at)
        seen, real = mask[order, : at + k], mask[order, at : at + k].bool()
        out = lm(x[order, at : at + k], attention_mask=seen, past_key_values=cache).logits
        assert not ((out - full[order, at : at + k]).abs() > 1e-9)[real].any()
        at += k
        highest = max(highest, at)
        if at % 5 == 0 and at == highest < 290:
            back = int(torch.randint(1, 12, (), generator=generator))
            cache.crop(-back)
            at -= back
        if at % 7 == 0:
            beams = torch.randint(0, 3, (3,), generator=generator)
            cache.reorder_cache(beams)
            order = order[beams]


@torch.no_grad()
def test_room_that_was_foreseen_is_not_widened(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reformer.layers.caches.layer.BLOCK", 8)
    lm, x = make(attention_pattern=("lsh",)).eval(), tokens(1, 128)
    cache = ReformerCache(lm.config, room=128)
    lm(x[:, :60], past_key_values=cache)
    for at in range(60, 128):
        lm(x[:, at : at + 1], past_key_values=cache)
        assert cache.layers[0].wider.rows is None


@torch.no_grad()
def test_a_step_draws_few_columns(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotations of the octave to come are drawn over several steps, and are those of one forward."""
    drawn: list[int] = []
    draw = ring_keeper.draw_columns

    def watched(rings: Any, octave: int, most: int | None = None) -> None:
        before = rings.columns
        draw(rings, octave, most)
        drawn.append(rings.columns - before)

    monkeypatch.setattr(ring_keeper, "draw_columns", watched)
    monkeypatch.setattr(ring_keeper, "COLUMNS_AT_ONCE", 2)
    monkeypatch.setattr(ring_keeper, "LAYERS_APART", 1)
    lm, x = make(attention_pattern=("lsh",)).eval(), tokens(2, 300)
    full, cache = lm(x).logits, ReformerCache(lm.config)
    lm(x[:, :60], past_key_values=cache)
    drawn.clear()
    for at in range(60, 300):
        out = lm(x[:, at : at + 1], past_key_values=cache).logits
        assert (out - full[:, at : at + 1]).abs().max() < 1e-9
    assert sum(drawn) > 2
    assert max(drawn) == 2
