"""What the processes that share a sequence agree on before a forward of a model."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from reformer.errors import InputError
from reformer.models.sequence_parallel import Joined, Own, SequenceParallel, join
from reformer.ops.hashing import draw_seed


def join_forward(
    model: Any,
    processes: SequenceParallel,
    own: Callable[[], tuple[Tensor, Tensor | None, Any]],
    given: Mapping[str, Tensor | None],
    seed: int | None,
    apart: tuple[str, ...],
) -> tuple[Joined, Tensor]:
    """What the processes know together, and the inputs of this one, which `own` checks and gives with their mask.

    Raises InputError in all processes for what is wrong in one of them.
    """
    problem, inputs, mask = None, None, None
    try:
        inputs, mask, _ = own()
        shape = list(inputs.shape[:2])
        for name, x in {"attention_mask": mask, **given}.items():
            alike = x is None or list(x.shape) == shape or (list(x.shape) == [1, shape[1]] and name == "position_ids")
            if not alike:
                assert x is not None
                raise InputError(f"{name} has shape {list(x.shape)}; it must be that of this part, {shape}")
    except InputError as error:
        problem = error
    known = Own(
        model.embeddings.token.weight.device,
        model.built_from.num_attention_heads,
        model.training,
        seed,
        _drawn(model, seed),
        problem,
        inputs,
        {"attention_mask": mask, **given},
        apart,
    )
    joined = join(processes, known)
    assert inputs is not None
    return joined, inputs


def _drawn(model: Any, seed: int | None) -> list[int]:
    """What a forward draws: the seed of the hashes unless it is given, then that of each layer's dropout."""
    if not model.training:
        return [model.config.hash_seed, *[0] * model.layers.depth]
    settings, pattern = model.built_from, model.built_from.attention_pattern
    drops = {"lsh": settings.lsh.dropout, "local": settings.attention_dropout, "full": 0.0}
    kinds = [pattern[i % len(pattern)] for i in range(model.layers.depth)]
    first = draw_seed() if seed is None else seed
    return [first, *(draw_seed() if drops[kind] else 0 for kind in kinds)]
