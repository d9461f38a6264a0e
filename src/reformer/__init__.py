"""Transformers for long sequences on one machine: LSH attention, reversible layers, on PyTorch and transformers.

Names load torch and transformers on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reformer.errors import InputError as InputError
from reformer.version import __version__ as __version__

if TYPE_CHECKING:
    from reformer.layers.attention import FullAttention, LocalAttention, LSHAttention
    from reformer.layers.reversible import ReversibleSequence
    from reformer.models import (
        ReformerCache,
        ReformerConfig,
        ReformerForCausalLM,
        ReformerForConditionalGeneration,
        ReformerForMaskedLM,
        ReformerForQuestionAnswering,
        ReformerForSequenceClassification,
        ReformerForTokenClassification,
        ReformerLM,
        ReformerModel,
    )
    from reformer.ops.attention import lsh_attention

__all__ = [
    "FullAttention",
    "InputError",
    "LSHAttention",
    "LocalAttention",
    "ReformerCache",
    "ReformerConfig",
    "ReformerForCausalLM",
    "ReformerForConditionalGeneration",
    "ReformerForMaskedLM",
    "ReformerForQuestionAnswering",
    "ReformerForSequenceClassification",
    "ReformerForTokenClassification",
    "ReformerLM",
    "ReformerModel",
    "ReversibleSequence",
    "lsh_attention",
]

_HOMES = {
    "lsh_attention": "reformer.ops.attention",
    "LSHAttention": "reformer.layers.attention",
    "LocalAttention": "reformer.layers.attention",
    "FullAttention": "reformer.layers.attention",
    "ReversibleSequence": "reformer.layers.reversible",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "reformer.models")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
