"""`ReformerLM` as a Keras model, on Keras 3 with the torch backend."""

import os
import sys
from inspect import signature
from typing import Any

if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras reads it once, when it is first imported

import keras
import torch
from torch import Tensor

from reformer.errors import InputError
from reformer.models import ReformerLM as _ReformerLM
from reformer.settings import RULE_VERSION, check_rule_version

__all__ = ["ReformerLM"]


@keras.saving.register_keras_serializable(package="reformer")
class ReformerLM(keras.Model):
    """A causal language model: token ids [b, l] to logits [b, l, num_tokens], for `fit` or a loop of one's own.

    Arguments are those of `reformer.ReformerLM`, and Keras's `name` and `dtype`. Called without `training`, it
    evaluates. Under a mixed policy it computes in autocast, and its outputs are fp32 all the same. Files hold the
    arguments as JSON and the weights, and load in safe mode. The model of transformers inside is `.torch_model`.

    Raises InputError when Keras runs on another backend than torch.
    """

    def __init__(self, *, name: str | None = None, trainable: bool = True, dtype: Any = None, **options: Any) -> None:
        if keras.backend.backend() != "torch":
            raise InputError(
                f"Keras runs on {keras.backend.backend()!r}, and this model needs PyTorch: set KERAS_BACKEND=torch in "
                "the environment, before keras is first imported"
            )
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        bound = signature(_ReformerLM).bind(**options)
        bound.apply_defaults()  # files hold them too
        self._options = bound.arguments
        module = _ReformerLM(**self._options).to(getattr(torch, self.variable_dtype))
        self.reformer = keras.layers.TorchModuleWrapper(module, name="reformer", dtype=self.dtype_policy)
        self.built = True  # all weights are there; a shape would tell nothing

    @property
    def torch_model(self) -> Any:
        """The `ReformerForCausalLM` inside: it generates, saves and loads as transformers models do."""
        return self.reformer.module.model

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Logits, or hidden states with `return_embeddings`."""
        if self.compute_dtype == self.variable_dtype:
            return self.reformer(inputs, training=bool(training))
        with torch.autocast(inputs.device.type, getattr(torch, self.compute_dtype)):
            out: Tensor = self.reformer(inputs, training=bool(training))
        return out.float()

    def build(self, input_shape: Any = None) -> None:
        """Nothing to do."""

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """[b, l] to [b, l, num_tokens], or the width of hidden states."""
        config = self.torch_model.config
        return *input_shape, config.hidden_size if self._options["return_embeddings"] else config.vocab_size

    def get_config(self) -> dict[str, Any]:
        """The arguments, and which meaning the weights were trained with."""
        return {**super().get_config(), **self._options, "rule_version": RULE_VERSION}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ReformerLM":
        """The model of `get_config`; InputError for one that was trained with another meaning."""
        options = dict(config)
        check_rule_version(options.pop("rule_version", 1))  # files of before do not say it
        return cls(**options)
