"""Transformers for long sequences on one machine: LSH attention, reversible layers, on PyTorch and transformers.

Names load torch and transformers on first use.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
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


class _Registration(MetaPathFinder):
    """Loads the models behind transformers' Auto classes, which then know them: importing this package stays light."""

    WAITS_FOR = "transformers.models.auto.modeling_auto"

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.WAITS_FOR:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                import_module("reformer.models")

            loader.exec_module = execute_and_register
        return spec


if _Registration.WAITS_FOR in sys.modules:
    import_module("reformer.models")
else:
    sys.meta_path.insert(0, _Registration())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
