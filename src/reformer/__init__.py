"""Transformers for long sequences on one machine: LSH attention, reversible layers, on PyTorch and transformers.

Names load torch and transformers on first use.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from reformer.errors import InputError as InputError
from reformer.version import __version__ as __version__

if TYPE_CHECKING:
    from reformer.front import train
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
        SequenceParallel,
    )
    from reformer.ops.attention import local_attention, lsh_attention

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
    "SequenceParallel",
    "local_attention",
    "lsh_attention",
    "train",
]

_HOMES = {
    "train": "reformer.front",
    "local_attention": "reformer.ops.attention",
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
    """Makes transformers' Auto classes know the models once they are imported: importing this package stays light.

    `AutoConfig` gets a name, as it has one for each kind of its own, and the module behind it when it is asked for.
    """

    CONFIGURATIONS, MODELS = "transformers.models.auto.configuration_auto", "transformers.models.auto.modeling_auto"
    KIND = "transformers.models.reformer_torch"
    CONFIG = "ReformerTorchConfig"  # its own name is that of transformers' Reformer

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == self.KIND:
            return ModuleSpec(name, _Kind())
        after = {self.CONFIGURATIONS: _name_config, self.MODELS: lambda _: import_module("reformer.models")}.get(name)
        if after is None:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                after(module)

            loader.exec_module = execute_and_register
        return spec


class _Kind(Loader):
    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        models = import_module("reformer.models")
        vars(module).update({name: getattr(models, name) for name in models.__all__})
        setattr(module, _Registration.CONFIG, models.ReformerConfig)


def _name_config(module: Any) -> None:
    module.CONFIG_MAPPING_NAMES[_Registration.KIND.rpartition(".")[2]] = _Registration.CONFIG


sys.meta_path.insert(0, _Registration())
if _Registration.MODELS in sys.modules:
    import_module("reformer.models")
elif _Registration.CONFIGURATIONS in sys.modules:
    _name_config(sys.modules[_Registration.CONFIGURATIONS])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
