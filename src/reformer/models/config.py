"""`ReformerConfig`: the model's settings as a transformers configuration."""

import copy
from dataclasses import asdict, fields, replace
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from reformer import __version__
from reformer.settings import RULE_VERSION, ModelSettings, check_rule_version, hint_at

_OWN = tuple(field.name for field in fields(ModelSettings))

_OF_THE_BASE = {
    *(field.name for field in fields(PreTrainedConfig)),
    *("num_labels", "torch_dtype", "name_or_path", "attn_implementation", "experts_implementation", "model_type"),
    *(
        "output_attentions",
        "auto_map",
        "use_cache",
        "_name_or_path",
        "_commit_hash",
        "gradient_checkpointing",
        "is_decoder",
        "tie_last_hidden_states",
    ),
}


class ReformerConfig(PreTrainedConfig):
    """Configuration of all Reformer models; its fields are those of `reformer.settings.ModelSettings`.

    Values are checked and normalised when a configuration is made or loaded.

    Raises ValueError for values out of range and for keywords that neither this class nor its base knows.
    """

    model_type: ClassVar[str] = "reformer_torch"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "correct", "predicted"]

    def __init__(self, **kwargs: Any) -> None:
        kwargs.pop("reformer_version", None)  # who wrote it; `rule_version` says what it means
        check_rule_version(kwargs.get("rule_version", RULE_VERSION))  # first: other versions have other fields
        own = {name: kwargs.pop(name) for name in _OWN if name in kwargs}
        for name in kwargs:
            if name not in _OF_THE_BASE:
                raise ValueError(f"ReformerConfig has no field {name!r}{hint_at(name, _OWN)}")
        if kwargs.get("output_attentions"):
            raise ValueError(
                "output_attentions=True: LSH attention never forms the matrix of probabilities; leave it False"
            )
        self._adopt(ModelSettings(**own))
        for name in ("model_type", "gradient_checkpointing"):  # the one is a class's, the other has nothing to do
            kwargs.pop(name, None)
        super().__init__(**kwargs, **self._base_fields())

    @property
    def settings(self) -> ModelSettings:
        """The fields, checked as they stand now."""
        return ModelSettings(**{name: getattr(self, name) for name in _OWN})

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of classes or tags, in the order of their numbers."""
        return tuple(str(name) for _, name in sorted((int(i), name) for i, name in (self.id2label or {}).items()))

    def of_encoder(self) -> "ReformerConfig":
        """The configuration of an encoder-decoder's encoder."""
        return self._part(causal=False, shifted_keys=False)

    def of_decoder(self) -> "ReformerConfig":
        """And that of its decoder."""
        layers = self.num_decoder_layers or self.num_hidden_layers
        return self._part(causal=True, num_hidden_layers=layers)

    def _part(self, **changes: Any) -> "ReformerConfig":
        part = copy.deepcopy(self)
        part._adopt(replace(self.settings, **changes))
        part.is_encoder_decoder = False
        return part

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the version of this library."""
        return {**super().to_dict(), "reformer_version": __version__}

    def _adopt(self, settings: ModelSettings) -> None:
        for name, value in asdict(settings).items():
            setattr(self, name, value)

    def _base_fields(self) -> dict[str, Any]:
        """Fields that the base class has too, so that its own defaults do not replace them."""
        base = {field.name for field in fields(PreTrainedConfig)}
        return {name: getattr(self, name) for name in _OWN if name in base}
