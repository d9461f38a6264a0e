"""What lives how long: nothing at module level grows with use, and models leave nothing behind."""

import gc
import sys
import weakref
from collections.abc import Sized
from types import FunctionType
from typing import Any

import torch

from reformer.layers.attention import LSHAttention
from reformer.models import ReformerCache, ReformerConfig, ReformerForCausalLM
from reformer.ops.hashing import MOST_KEPT


def sizes() -> dict[str, int]:
    """Of every container at module level, and of what functions there have cached or keep in closures."""
    found: dict[str, int] = {}
    for module in [name for name in sys.modules if name.split(".")[0] == "reformer"]:
        for name, value in vars(sys.modules[module]).items():
            if isinstance(value, dict | list | set) and not name.startswith("__"):
                found[f"{module}.{name}"] = len(value)
            if hasattr(value, "cache_info"):
                found[f"{module}.{name}()"] = value.cache_info().currsize
            for cell in (getattr(value, "__closure__", None) or ()) if isinstance(value, FunctionType) else ():
                if isinstance(cell.cell_contents, Sized) and not isinstance(cell.cell_contents, str):
                    found[f"{module}.{name}.closure"] = len(cell.cell_contents)
    return found


def use(seed: int) -> weakref.ref[Any]:
    torch.manual_seed(seed)
    config = ReformerConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, window=4, hash_seed=seed)
    model = ReformerForCausalLM(config)
    tokens = torch.randint(3, 259, (2, 20 + seed))
    mask = (torch.arange(20 + seed) >= seed % 3).long().expand(2, -1)
    model(tokens, attention_mask=mask, labels=tokens).loss.backward()
    model(tokens, segment_ids=torch.arange(20 + seed).expand(2, -1) // 7, labels=tokens).loss.backward()
    model.eval()
    with torch.no_grad():
        model(tokens)
        cache = ReformerCache(model.config)
        for piece in tokens.split(9, dim=1):
            model(piece, past_key_values=cache)
    return weakref.ref(model)


def test_forty_forwards_of_models_that_come_and_go_leave_nothing() -> None:
    use(0)
    before = sizes()
    models = [use(seed) for seed in range(1, 41)]
    gc.collect()
    assert not [model for model in models if model() is not None]
    assert {name: size for name, size in sizes().items() if size != before.get(name)} == {}


def test_a_layer_keeps_rotations_of_evaluation_and_no_others() -> None:
    layer, x = LSHAttention(16, 2, window=4), torch.randn(1, 40, 16)
    for _ in range(5):
        layer(x)
    assert not layer.rotations.drawn
    layer.eval()
    first = layer(x)
    (kept,) = layer.rotations.drawn.values()
    assert torch.equal(layer(x[:, :30]), first[:, :30])
    assert next(iter(layer.rotations.drawn.values())) is kept
    layer(torch.randn(1, 200, 16))
    (longer,) = layer.rotations.drawn.values()
    assert longer.shape[3] > kept.shape[3]
    assert torch.equal(layer(x), first)
    for seed in range(3 * MOST_KEPT):
        layer(x, seed=seed)
    assert len(layer.rotations.drawn) <= MOST_KEPT
