"""Whether the tensors of a file are a cache: kernels trust their shapes and lengths, and a hash can be forged."""

from collections.abc import Mapping

import torch
from torch import Tensor

from reformer.models.cache import ReformerCache
from reformer.models.pretrained import ReformerPreTrainedModel

MOST_CROPPED = 1 << 16
"""Largest limit of cropping of a cache that keeps no last tokens, whose size would tell."""

ROWS, DROPPED = "rows", "dropped"
BY_LENGTH = (ROWS, "keys", "values")
"""Tensors whose third axis is tokens; all others have the same shape at any length."""


def tensors_of(cache: ReformerCache) -> dict[str, Tensor]:
    """What the layers keep."""
    return {
        f"layers.{i}.{name}": x
        for i, layer in enumerate(cache.layers)
        for name, x in layer.state(cache.lengths).items()
    }


def fits(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], model: ReformerPreTrainedModel) -> bool:
    """Whether these are what a cache of this model has, behind as many tokens as they say."""
    numbers = [metadata.get(name, "") for name in ("seen", "crop_limit")]
    if not all(number.isdecimal() and len(number) < 16 for number in numbers):
        return False
    seen, crop_limit = map(int, numbers)
    lengths = tensors.get("lengths", torch.zeros(0))
    if lengths.dim() != 1 or lengths.dtype != torch.int64 or not len(lengths):
        return False
    if not 0 < int(lengths.min()) <= int(lengths.max()) <= seen:
        return False
    kept = [x.shape[2] for name, x in tensors.items() if name.endswith(".data") and x.dim() == 4]
    if crop_limit > max(kept, default=MOST_CROPPED):  # before memory is taken for it
        return False
    expected = _behind_one_token(model, crop_limit)
    if not expected.keys() <= tensors.keys() <= {*expected, "lengths", "padding", "input_ids"}:
        return False
    padding = tensors.get("padding")
    if padding is not None and (padding.dtype != torch.bool or list(padding.shape) != [len(lengths), seen]):
        return False
    alike = all(_alike(tensors[name], like, name, tensors) for name, like in expected.items())
    return alike and _are_tokens(tensors.get("input_ids"), len(lengths), seen, model)


def _behind_one_token(model: ReformerPreTrainedModel, crop_limit: int) -> dict[str, Tensor]:
    cache, modes = ReformerCache(model.config, crop_limit=crop_limit), [m.training for m in model.modules()]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return tensors_of(cache)


def _alike(x: Tensor, like: Tensor, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor has the type and the shape of one of a single row, and as many rows and tokens as there are."""
    shape, (*_, last) = [len(tensors["lengths"]), *like.shape[1:]], name.split(".")
    if last in BY_LENGTH:
        filled = tensors["lengths"]
        if last == ROWS:
            dropped = tensors[name.removesuffix(ROWS) + DROPPED]
            if (
                dropped.dtype != torch.int64
                or dropped.shape != filled.shape
                or not bool(((dropped >= 0) & (dropped < filled)).all())
            ):
                return False
            filled = filled - dropped
        shape[2] = int(filled.max())
    return x.dtype == like.dtype and list(x.shape) == shape


def _are_tokens(ids: Tensor | None, rows: int, seen: int, model: ReformerPreTrainedModel) -> bool:
    """Whether these are tokens of the model, those of the cache at least."""
    if ids is None:
        return True
    known = (ids >= 0) & (ids < model.config.settings.vocabulary)
    return (
        ids.dtype == torch.int64 and ids.dim() == 2 and len(ids) == rows and ids.shape[1] >= seen and bool(known.all())
    )
