"""What a training step will take: weights, tokens, FLOPs and memory by part, worked out and not measured."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from reformer.ops.feed_forward import rows_in_cache
from reformer.ops.spec import Band, Chunks, Octaves
from reformer.settings import ModelSettings
from reformer.settings.lora import LoraSettings
from reformer.settings.training import TrainingSettings
from reformer.training.processes import process_count

_SIZE = 4  # bytes of a number in fp32
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Plan:
    """One training step of one process, at its longest windows."""

    weights: int
    """How many numbers the model has."""
    trained: int
    """How many of them are trained."""
    tokens: int
    """Tokens of a step, all processes together."""
    flops: float
    """Floating-point operations of a step, all processes together."""
    memory: dict[str, int]
    """Bytes by part."""

    @property
    def bytes(self) -> int:
        """The sum of the parts."""
        return sum(self.memory.values())

    def __str__(self) -> str:
        trained = "" if self.trained == self.weights else f", of which {self.trained:,} are trained"
        lines = [
            f"weights            {self.weights:,}{trained}",
            f"tokens a step      {self.tokens:,}",
            f"FLOPs a step       {self.flops:.3g}",
            "memory of a process, beyond the libraries:",
            *(f"  {name:<15}{in_units(size):>12}" for name, size in self.memory.items()),
            f"  {'sum':<15}{in_units(self.bytes):>12}",
        ]
        return "\n".join(lines)


def plan(settings: ModelSettings, training: TrainingSettings, processes: int | None = None) -> Plan:
    """The plan of a run, of these processes unless told; `benchmarks/plan.py` compares it with what is measured."""
    lora = LoraSettings.parse(training.lora) if training.lora else None
    weights = sum(_matrices(settings)) + sum(_vectors(settings))
    trained = weights if lora is None else sum(_adapters(settings, lora.r))
    length, rows = training.length, training.batch_size
    part = -(-length // training.sequence_parallel)  # inside attention as much: all tokens, of a part of the heads
    tokens = rows * part
    stream = tokens * settings.hidden_size * _SIZE
    processes = max(processes or process_count(), training.sequence_parallel)  # planned where they are not started
    shards = processes if training.fsdp else 1
    memory = {
        "weights": (weights + (trained if lora else 0)) * _SIZE // shards,
        "gradients": trained * _SIZE // shards,
        "optimizer": _optimizer(settings, training, trained) // shards,
        "streams": 6 * stream,
        "orders": _orders(settings, tokens),
        "largest piece": _largest_piece(settings, training, tokens),
    }
    if training.sequence_parallel > 1:  # labels, targets and ranks of whole windows, which each process has
        memory["whole windows"] = 4 * 8 * rows * length
    windows = rows * training.accumulation * (processes // training.sequence_parallel)
    flops = _flops(settings, length, lora is not None) * windows
    return Plan(weights, trained, windows * length, flops, memory)


def _layers(settings: ModelSettings) -> list[str]:
    """The kind of attention of every layer that has weights of its own."""
    kinds, depth = settings.attention_pattern, settings.num_hidden_layers
    return list(kinds)[:depth] if settings.share_layers else [kinds[i % len(kinds)] for i in range(depth)]


def _taps(settings: ModelSettings, kind: str) -> int:
    """Weights of a channel of a layer's convolution."""
    return settings.conv_size if kind == "lsh" or (kind == "full" and settings.shifted_keys) else 0


def _shapes(settings: ModelSettings, kind: str) -> list[tuple[int, int]]:
    """The matrices of one layer."""
    hidden, inner = settings.hidden_size, settings.num_attention_heads * settings.head_width
    wide = settings.feed_forward_width * (2 if settings.hidden_act == "swiglu" else 1)
    projections = 2 if kind == "lsh" else 3
    return [
        *([(hidden, inner)] * projections),
        (inner, hidden),
        (hidden, wide),
        (settings.feed_forward_width, hidden),
    ]


def _matrices(settings: ModelSettings) -> Iterator[int]:
    """Sizes of the weights that are matrices."""
    for kind in _layers(settings):
        yield from (a * b for a, b in _shapes(settings, kind))
    yield from (a * b for a, b in _ends(settings))


def _ends(settings: ModelSettings) -> list[tuple[int, int]]:
    """The matrices in front of the layers and behind them."""
    hidden, merged = settings.hidden_size, settings.merged_width
    width = settings.embedding_size or hidden
    ends = [(settings.vocabulary, width)]
    if width != hidden:
        ends.append((width, hidden))
    if not settings.tie_word_embeddings:
        ends.append((merged, settings.vocabulary))
    elif merged != width:
        ends.append((merged, width))
    if settings.position_embedding == "learned":
        ends.append((settings.max_position_embeddings, hidden))
    if settings.position_embedding == "axial":
        ends += list(zip(settings.axial_shape or (), settings.axial_dims or (), strict=True))
    return ends


def _vectors(settings: ModelSettings) -> Iterator[int]:
    """Sizes of biases, norms and convolutions."""
    norm = 2 if settings.norm == "layernorm" else 1
    for kind in _layers(settings):
        feed_forward = _shapes(settings, kind)[-2:]
        yield from (b for _, b in feed_forward)
        yield (2 * norm + _taps(settings, kind)) * settings.hidden_size
    yield norm * settings.merged_width
    yield settings.vocabulary


def _adapters(settings: ModelSettings, rank: int) -> Iterator[int]:
    for kind in _layers(settings):
        yield from (rank * (a + b) for a, b in _shapes(settings, kind))


def _optimizer(settings: ModelSettings, training: TrainingSettings, trained: int) -> int:
    if training.optimizer == "adamw" or training.lora:
        return 2 * trained * _SIZE
    sides = sum(a + b for kind in _layers(settings) for a, b in _shapes(settings, kind))
    sides += sum(a + b for a, b in _ends(settings))
    return (sides + sum(_vectors(settings))) * _SIZE


def _orders(settings: ModelSettings, tokens: int) -> int:
    """Buckets that LSH layers keep for their second run: 16 bits a token, head and round."""
    kinds, depth = settings.attention_pattern, settings.num_hidden_layers
    hashed = sum(kinds[i % len(kinds)] == "lsh" for i in range(depth))
    return 2 * hashed * tokens * settings.num_attention_heads * settings.num_hashes


def _largest_piece(settings: ModelSettings, training: TrainingSettings, tokens: int) -> int:
    """The most that one layer, the loss or the optimizer holds for a moment, beyond the streams."""
    blocks = [_block(settings, training, tokens, kind) for kind in set(settings.attention_pattern)]
    if not settings.reversible:
        kinds, depth = settings.attention_pattern, settings.num_hidden_layers
        saved = [_block(settings, training, tokens, kinds[i % len(kinds)], working=False) for i in range(depth)]
        blocks = [max(blocks) + sum(saved[:-1])]
    return max(*blocks, _loss(settings, tokens), 2 * max(_matrices(settings)) * _SIZE)


def _block(settings: ModelSettings, training: TrainingSettings, tokens: int, kind: str, working: bool = True) -> int:
    """What a block has saved when it is recovered, and what the backward of one of its branches works with.

    The feed-forward branch goes first: while what both have saved is there, or, where its second run gives gradients,
    before attention has saved anything.
    """
    size = 2 if training.bf16 else _SIZE
    hidden, inner = settings.hidden_size, settings.num_attention_heads * settings.head_width
    wide = settings.feed_forward_width * (3 if settings.hidden_act == "swiglu" else 1)
    early = settings.reversible and not training.lora and not _drops_behind_feed_forward(settings)
    into = settings.feed_forward_width * (2 if settings.hidden_act == "swiglu" else 1)
    whole = rows_in_cache(into) if early and not torch.accelerator.is_available() else tokens
    piece = min(settings.chunk_size_feed_forward or whole, tokens)
    rounds = settings.num_hashes if kind == "lsh" else 1
    # queries, keys, values, output; turned and shifted ones
    copies = {"lsh": 4, "local": 6, "full": 7 if settings.shifted_keys else 6}[kind]
    context = tokens * hidden * size if _taps(settings, kind) else 0  # behind the convolution
    norm = tokens * hidden * (2 * _SIZE - size)  # stays in fp32, beside a bf16 copy
    of_attention = norm + context + tokens * copies * inner * size
    inside = 2 * wide * piece * size
    attending = tokens * inner * _SIZE * 4 + tokens * settings.num_attention_heads * rounds * 16
    if early:
        grad = tokens * hidden * size
        return max(norm + grad + wide * piece * size + inside, of_attention + max(norm + grad, attending))
    of_feed_forward = norm + (inside if piece == tokens else 0)
    if not working:
        return of_attention + of_feed_forward
    feeding = wide * piece * size + (inside if piece != tokens else 0) + 2 * piece * hidden * size
    return of_attention + max(of_feed_forward + feeding, attending)


def _drops_behind_feed_forward(settings: ModelSettings) -> bool:
    p = settings.feed_forward_dropout
    return bool(settings.hidden_dropout if p is None else p)


def _loss(settings: ModelSettings, tokens: int) -> int:
    """Merged streams, their norm, gradients of both, and the logits of a piece three times."""
    piece = min(settings.loss_chunk or tokens, tokens)
    return 2 * tokens * settings.merged_width * _SIZE + 3 * piece * settings.vocabulary * _SIZE


def _flops(settings: ModelSettings, length: int, frozen: bool) -> float:
    """The operations of one window: forward, backward, and the second forward of a reversible model."""
    inner = settings.num_attention_heads * settings.head_width
    kinds, depth = settings.attention_pattern, settings.num_hidden_layers
    keys = {
        "local": min(_neighbours(settings.local.rule), length),
        "full": length / (2 if settings.causal else 1),
        "lsh": min(settings.num_hashes * _neighbours(settings.lsh.rule), length),
    }
    layers = 0.0
    for i in range(depth):
        kind = kinds[i % len(kinds)]
        matrices = sum(a * b for a, b in _shapes(settings, kind)) + settings.hidden_size * _taps(settings, kind)
        layers += 2 * matrices + 4 * keys[kind] * inner
    head = 2 * settings.merged_width * settings.vocabulary
    backward = 1 if frozen else 2
    runs = (2 if settings.reversible else 1) + backward
    return length * (layers * runs + head * (2 + backward if settings.loss_chunk else 1 + backward))


def _neighbours(rule: Octaves | Chunks | Band) -> int:
    """Keys that a query sees at most, of one round."""
    return rule.length * (rule.before + 1 + rule.after) if isinstance(rule, Chunks) else rule.window


def in_units(size: int) -> str:
    """Bytes for people."""
    value = float(size)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:,.1f} {unit}"
