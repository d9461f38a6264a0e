"""A cache as a safetensors file: a prompt that is computed once and used many times."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reformer.errors import InputError, not_written
from reformer.models.cache import ReformerCache
from reformer.models.cache_check import fits, tensors_of
from reformer.models.pretrained import ReformerPreTrainedModel

FORMAT, VERSION = "reformer cache", "4"


def save_cache(
    cache: ReformerCache,
    path: str | os.PathLike[str],
    model: ReformerPreTrainedModel,
    input_ids: Int[Tensor, "b l"] | None = None,
) -> None:
    """Write a cache, and the tokens that it belongs to if they are given; whole or not at all.

    Raises InputError for a cache that has seen nothing or is an encoder-decoder's, and for a place that cannot be
    written.
    """
    if cache.cross:
        raise InputError("the cache of an encoder-decoder belongs to its sources; run them again instead of saving it")
    if not cache.seen:
        raise InputError("the cache has seen no token; there is nothing to save")
    tensors = tensors_of(cache)
    tensors["lengths"] = torch.tensor(cache.lengths)
    if cache.padding is not None:
        tensors["padding"] = cache.padding.contiguous()
    if input_ids is not None:
        tensors["input_ids"] = input_ids.contiguous()
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "settings": json.dumps(asdict(cache.settings.worked_out())),
        "weights": fingerprint(model),
        "tensors": _hash(tensors),
        "seen": str(cache.seen),
        "crop_limit": str(cache.crop_limit),
    }
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(tensors, partial, metadata)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if not isinstance(error, OSError | SafetensorError):
            raise
        raise not_written(error, f"the cache cannot be written to {path} ({error}); choose another place") from None


@torch.inference_mode(False)  # what is made in inference mode could not be written to outside of it
def load_cache(
    path: str | os.PathLike[str], model: ReformerPreTrainedModel, *, room: int = 0
) -> tuple[ReformerCache, Int[Tensor, "b l"] | None]:
    """The cache of a file, on the model's device, and the tokens that were saved with it.

    Raises InputError for a file that holds no cache or a damaged one, and for one of another version or another model.
    """
    try:
        with safe_open(path, "pt", device=str(model.device)) as file:
            metadata = file.metadata() or {}
            _check(path, metadata, model)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} holds no cache that can be read ({error})") from None
    if metadata.get("tensors") != _hash(tensors) or not fits(tensors, metadata, model):
        raise InputError(f"{path} is damaged: it does not hold what was written; compute the prompt again")
    cache = ReformerCache(model.config, crop_limit=int(metadata["crop_limit"]), room=room)
    lengths = tensors["lengths"].tolist()
    for i, layer in enumerate(cache.layers):
        start = f"layers.{i}."
        state = {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
        layer.restore(state, lengths)
    cache.lengths, cache.seen, cache.padding = tuple(lengths), int(metadata["seen"]), tensors.get("padding")
    cache.rank = tensors["lengths"][:, None].clone()
    return cache, tensors.get("input_ids")


def _check(path: str | os.PathLike[str], metadata: Mapping[str, str], model: ReformerPreTrainedModel) -> None:
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} holds no cache; give a file that --save-cache or save_cache wrote")
    if (version := metadata.get("version")) != VERSION:
        raise InputError(
            f"{path} holds a cache of version {version}; this library reads version {VERSION}: compute the prompt again"
        )
    now = json.loads(json.dumps(asdict(model.config.settings.worked_out())))
    try:
        then = dict(json.loads(metadata["settings"]))
    except (KeyError, ValueError, TypeError, RecursionError):
        raise InputError(f"{path} is damaged: its settings cannot be read; compute the prompt again") from None
    names = [name for name in now if now[name] != then.get(name)]
    if names:
        raise InputError(f"{path} holds the cache of another model: it differs in {', '.join(names)}")
    if metadata.get("weights") != fingerprint(model):
        raise InputError(f"{path} holds the cache of a model of the same kind with other weights; compute it again")


def fingerprint(model: ReformerPreTrainedModel) -> str:
    """A hash of all weights."""
    return _hash(model.state_dict())


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {list(x.shape)} {x.dtype}".encode())
        digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
