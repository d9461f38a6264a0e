"""What the attention of a model does with a text: buckets, matches with their weights, and how much they hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor, nn

from reformer.errors import InputError
from reformer.inference.evaluate import evaluating
from reformer.layers.attention import LocalAttention, LSHAttention, Weighed
from reformer.layers.batch import Batch
from reformer.models import ReformerPreTrainedModel
from reformer.ops.plain.core import Pairs
from reformer.ops.spec import LSH, Octaves

MASSES = 1024
"""Queries, evenly spread, whose exact attention is computed beside what is weighed."""

Numbers = NDArray[Any]


@dataclass
class Head:
    """One head of a layer."""

    keys: Numbers
    """[l, matches]: the keys with the largest weights, the heaviest first; -1 where there are fewer."""
    weights: Numbers
    """[l, matches]: shares of the softmax, of all rounds together."""
    buckets: Numbers
    """[r, l]: the bucket of each token among those of its octave; of a chunk rule its chunk; none of local layers."""
    mass: float
    """The share of exact attention's softmax over all earlier tokens that the candidates hold, in the mean."""
    distances: Numbers
    """[octaves]: the share of weight that lies 2**k to 2**(k+1) - 1 tokens back."""
    occupancy: Numbers
    """[octaves]: how many buckets of the last octave hold 2**k to 2**(k+1) - 1 tokens; the first are empty ones."""


@dataclass
class Layer:
    """One layer of a model."""

    number: int
    kind: str
    successors: bool
    """A match delivers the value of the token behind it."""
    causal: bool
    keeps_own: bool = False
    """A token that is offered nothing takes its own value."""
    heads: list[Head] = field(default_factory=list)


def look(
    model: ReformerPreTrainedModel, tokens: Int[Tensor, "1 l"], *, matches: int = 8, layer: int | None = None
) -> list[Layer]:
    """Look into the LSH layers (or the local ones, where there are no others), or into one layer.

    Raises InputError for a layer that there is not, or of another kind, and for an encoder-decoder.
    """
    if model.config.is_encoder_decoder:
        raise InputError("an encoder-decoder has two texts; looking into it is not supported")
    settings = model.config.settings
    kinds = [settings.attention_pattern[i % len(settings.attention_pattern)] for i in range(settings.num_hidden_layers)]
    if layer is not None and not 0 <= layer < len(kinds):
        raise InputError(f"layer={layer}: the model has layers 0 to {len(kinds) - 1}")
    wanted = [layer] if layer is not None else [i for i, kind in enumerate(kinds) if kind == "lsh"]
    wanted = wanted or [i for i, kind in enumerate(kinds) if kind == "local"]
    if not wanted or kinds[wanted[0]] == "full":
        raise InputError("an exact layer weighs all pairs: there is nothing to look up; choose an LSH or a local layer")
    calls: dict[int, tuple[LSHAttention | LocalAttention, Tensor, Batch]] = {}
    body = getattr(model, "model", model)
    with torch.no_grad(), evaluating(model), _listening(body, calls):
        body(tokens.to(model.device), use_cache=False)
    return [_layer(number, kinds[number], *calls[number], matches) for number in wanted]


@contextmanager
def _listening(model: nn.Module, calls: dict[int, tuple[Any, Tensor, Batch]]) -> Iterator[None]:
    """What attention layers are called with, by their numbers; one module may stand in several places."""

    def take(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x, batch, number = arguments
        calls[number] = (module, x, batch)

    hooks = [
        module.register_forward_pre_hook(take)
        for module in model.modules()
        if isinstance(module, LSHAttention | LocalAttention)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _layer(
    number: int, kind: str, module: LSHAttention | LocalAttention, x: Tensor, batch: Batch, matches: int
) -> Layer:
    spec = module.spec_in_evaluation
    found = Layer(number, kind, bool(spec.successor_values), spec.causal, spec.keeps_own)
    for weighed in module.weighed(x, batch, number):
        found.heads.append(_head(weighed, matches))
    return found


def _head(weighed: Weighed, matches: int) -> Head:
    shift, pairs = weighed.pairs
    length = len(shift)
    query, key, weight, offers = _distinct(pairs, length)
    total = np.bincount(query, weight, length)
    share = weight / np.maximum(total[query], 1e-300)
    keys, weights = _heaviest(query, key, share, length, matches)
    once = isinstance(weighed.spec, LSH) and weighed.spec.once
    mass = _mass(weighed, shift, query, weight if once else weight / offers)
    back = np.maximum(np.abs(query - key), 1)
    distances = np.bincount(np.log2(back).astype(int), share, int(np.log2(max(length, 2))) + 1)
    buckets = _buckets(weighed, length)
    return Head(keys, weights, buckets, mass, distances / max(distances.sum(), 1e-300), _occupancy(weighed))


def _distinct(pairs: Pairs, length: int) -> tuple[Numbers, ...]:
    """Each pair once: queries in order, keys in order, the sum of its weights, and how often it was offered."""
    codes: list[Numbers] = [np.zeros(0, np.int64)]
    weights: list[Numbers] = [np.zeros(0)]
    for query, key, found in pairs:
        codes.append((query.long() * length + key.long()).cpu().numpy())
        weights.append(found.double().cpu().numpy())
    code = np.concatenate(codes)
    order = np.argsort(code, kind="stable")
    code, weight = code[order], np.concatenate(weights)[order]
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    offers = np.diff(starts, append=len(code))
    summed = np.add.reduceat(weight, starts) if len(starts) else weight
    return code[starts] // length, code[starts] % length, summed, offers


def _heaviest(query: Numbers, key: Numbers, share: Numbers, length: int, matches: int) -> tuple[Numbers, Numbers]:
    order = np.lexsort((-share, query))
    query, key, share = query[order], key[order], share[order]
    first = np.searchsorted(query, np.arange(length))
    rank = np.arange(len(query)) - first[query]
    kept = rank < matches
    keys, weights = np.full((length, matches), -1, np.int64), np.zeros((length, matches))
    keys[query[kept], rank[kept]], weights[query[kept], rank[kept]] = key[kept], share[kept]
    return keys, weights


def _mass(weighed: Weighed, shift: Tensor, query: Numbers, weight: Numbers) -> float:
    """The candidates' share of exact attention, computed for evenly spread queries, piece by piece."""
    length, spec = len(shift), weighed.spec
    chosen = torch.linspace(0, length - 1, min(length, MASSES)).round().long().unique()
    q, k = weighed.queries[0, 0], weighed.keys[0, 0]
    held, shares = np.bincount(query, weight, length), []
    slots = torch.arange(length)
    for some in chosen.split(256):
        logits = spec.scale_at(q.shape[1]) * q[some].to(k) @ k.T - shift[some, None].to(k)
        others = slots[None] < some[:, None] if spec.causal else slots[None] != some[:, None]
        if not isinstance(spec, LSH):  # a local layer sees itself
            others = others | (slots[None] == some[:, None])
        total = logits.exp().masked_fill(~others.to(logits.device), 0.0).double().sum(1).cpu().numpy()
        there = total > 0
        shares.append(held[some.numpy()][there] / total[there])
    found = np.concatenate(shares)
    return float(found.mean()) if len(found) else 1.0


def _buckets(weighed: Weighed, length: int) -> Numbers:
    """A number for each token and round."""
    rows, spec = weighed.rows, weighed.spec
    if not isinstance(spec, LSH):
        return np.zeros((0, length), np.int64)
    token, group, query = (x[0, 0].cpu().numpy() for x in (rows.token, rows.group, rows.query))
    place = np.arange(len(token)).reshape(rows.rounds, -1)
    found = np.zeros((rows.rounds, length), np.int64)
    for i, mine in enumerate(place):
        mine = mine[query[mine]]
        found[i, token[mine]] = (
            _within_octave(group[mine]) if isinstance(spec.rule, Octaves) else (mine - place[i, 0]) // spec.rule.length
        )
    return found


def _within_octave(group: Numbers) -> Numbers:
    """Groups of a document are those of one bucket, of two, of four, one behind the other."""
    return group + 1 - (1 << np.log2(group + 1).astype(np.int64))


def _occupancy(weighed: Weighed) -> Numbers:
    rows, spec = weighed.rows, weighed.spec
    if not isinstance(spec, LSH) or not isinstance(spec.rule, Octaves):
        return np.zeros(0, np.int64)
    group = rows.group[0, 0].cpu().numpy().reshape(rows.rounds, -1)
    octave = int(np.log2(max(int(group.max()) + 1, 1)))
    first = (1 << octave) - 1
    sizes = np.concatenate([np.bincount(one[one >= first] - first, minlength=1 << octave) for one in group])
    classes = np.where(sizes > 0, np.log2(np.maximum(sizes, 1)).astype(int) + 1, 0)
    return np.bincount(classes)
