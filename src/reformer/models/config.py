"""`ReformerConfig`: the model's settings as a transformers configuration."""

import copy
import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.utils import logging

from reformer.errors import InputError
from reformer.settings.base import hint_at
from reformer.settings.model import RULE_VERSION, ModelSettings, check_rule_version
from reformer.settings.run_file import lay
from reformer.version import __version__, is_newer

logger = logging.get_logger(__name__)

_OWN = tuple(field.name for field in fields(ModelSettings))

_OF_THE_BASE = {
    *(field.name for field in fields(PreTrainedConfig)),
    *("num_labels", "torch_dtype", "name_or_path", "attn_implementation", "experts_implementation", "model_type"),
    *(
        "output_attentions",
        "auto_map",
        "_name_or_path",
        "_commit_hash",
        "gradient_checkpointing",
        "is_decoder",
        "tie_last_hidden_states",
    ),
}

_OF_THE_FILE = {"reformer_version", "left_open"}


AUTO = "reformer_auto"
AUTO_MAP = {
    "AutoConfig": "ReformerConfig",
    "AutoModel": "ReformerModel",
    "AutoModelForCausalLM": "ReformerForCausalLM",
    "AutoModelForMaskedLM": "ReformerForMaskedLM",
    "AutoModelForQuestionAnswering": "ReformerForQuestionAnswering",
    "AutoModelForSeq2SeqLM": "ReformerForConditionalGeneration",
    "AutoModelForSequenceClassification": "ReformerForSequenceClassification",
    "AutoModelForTokenClassification": "ReformerForTokenClassification",
}
"""The classes that transformers' Auto classes take from the installed package, through a file beside the weights."""

AUTO_SOURCE = f'''"""For `trust_remote_code=True`: the models of this folder come from the installed package."""

try:
    from reformer import {", ".join(AUTO_MAP.values())}
except ImportError as error:
    raise ImportError("this folder holds a model of reformer-torch; pip install reformer-torch") from error
'''


class ReformerConfig(ModelSettings, PreTrainedConfig):
    """Configuration of all Reformer models; its fields are those of `reformer.settings.ModelSettings`.

    What is left open is worked out: fields and config.json hold numbers, and `left_open` names those that nobody asked
    for, so that they follow when others are changed (`from_pretrained(folder, hidden_size=512)`).

    Raises InputError for values out of range and for keywords that neither this class nor its base knows.
    """

    use_cache: bool | None = None
    """Whether a forward in evaluation keeps a cache unless told; `generate` has one, unless this is False."""

    model_type: ClassVar[str] = "reformer_torch"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache", "correct", "predicted"]

    def __post_init__(self, **kwargs: Any) -> None:
        asked = {name: getattr(self, name) for name in _OWN}
        check_rule_version(self.rule_version)  # first: other versions have other fields
        for name in kwargs.keys() - _OF_THE_BASE - _OF_THE_FILE:
            raise InputError(f"ReformerConfig has no field {name!r}{hint_at(name, _OWN)}")
        if kwargs.get("output_attentions"):
            raise InputError(
                "output_attentions=True: LSH attention never forms the matrix of probabilities; leave it False"
            )
        self._adopt(ModelSettings(**ModelSettings.as_asked(asked, kwargs.get("left_open", ()))))
        for name in ("model_type", "gradient_checkpointing", *_OF_THE_FILE):  # of a class, nothing to do, of a file
            kwargs.pop(name, None)
        PreTrainedConfig.__post_init__(self, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A configuration of these values, and above them of those fields among `kwargs`; the others as the base's.

        What the values have for another rule than the one that is chosen above them is dropped, with a warning. What is
        nobody's field is kept as an attribute, with a line in the log: other libraries write some. A newer version's
        fields are errors.
        """
        values = dict(config_dict)
        check_rule_version(values.get("rule_version", RULE_VERSION))
        own = {name: values.pop(name) for name in _OWN if name in values}
        asked = ModelSettings.as_asked(own, values.pop("left_open", ()))
        above = {name: kwargs.pop(name) for name in _OWN if name in kwargs}
        laid = lay({"model": asked}, {"model": above}, logger.warning)["model"]
        unknown = values.keys() - _OF_THE_BASE - _OF_THE_FILE - {"use_cache"}
        foreign = {} if is_newer(values.get("reformer_version")) else {name: values.pop(name) for name in unknown}
        made = super().from_dict({**values, **laid}, **kwargs)
        for name, value in foreign.items():
            logger.warning_once(f"{name} in config.json is no field of ReformerConfig{hint_at(name, _OWN)}")
            setattr(made[0] if isinstance(made, tuple) else made, name, value)
        return made

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write config.json and, beside it, what lets programs load the folder that have not imported this package."""
        if not os.path.isfile(save_directory):  # which the base refuses
            os.makedirs(save_directory, exist_ok=True)
            (Path(save_directory) / f"{AUTO}.py").write_text(AUTO_SOURCE)  # first, for what follows may upload
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: `auto_map` names the installed package's classes, and no source is copied beside weights."""

    @property
    def settings(self) -> ModelSettings:
        """The fields as they stand now, checked, with None for what was not asked for."""
        now = {name: getattr(self, name) for name in _OWN}
        asked: dict[str, Any] = {name: None if self._is_open(name, value) else value for name, value in now.items()}
        return ModelSettings(**asked)

    def _is_open(self, name: str, value: Any) -> bool:
        return name in self._left_open and value == self._left_open[name]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of classes or tags, in the order of their numbers."""
        return tuple(str(name) for _, name in sorted((int(i), name) for i, name in (self.id2label or {}).items()))

    def of_encoder(self) -> "ReformerConfig":
        """The configuration of an encoder-decoder's encoder."""
        return self._part(causal=False, shifted_keys=False)

    def of_decoder(self) -> "ReformerConfig":
        """The configuration of the decoder of an encoder-decoder."""
        layers = self.num_decoder_layers or self.num_hidden_layers
        return self._part(causal=True, num_hidden_layers=layers)

    def _part(self, **changes: Any) -> "ReformerConfig":
        part = copy.deepcopy(self)
        part._adopt(replace(self.settings, **changes))
        part.is_encoder_decoder, part.use_cache = False, None
        return part

    def refresh(self) -> None:
        """Work out anew what is left open, behind changes of fields."""
        self._adopt(self.settings)

    def to_dict(self) -> dict[str, Any]:
        """All fields with numbers, which of them nobody asked for, and the version of this library."""
        asked = self.settings
        values = {**super().to_dict(), **_as_json(asdict(asked.worked_out()))}
        del values["_left_open"]
        values["auto_map"] = {auto: f"{AUTO}.{name}" for auto, name in AUTO_MAP.items()}
        return {**values, "left_open": sorted(asked.left_open()), "reformer_version": __version__}

    def _adopt(self, asked: ModelSettings) -> None:
        self._left_open = asked.left_open()
        for name, value in asdict(asked.worked_out()).items():
            setattr(self, name, value)


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
