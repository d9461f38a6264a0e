"""Loading a checkpoint folder, with an error that says what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import reformer.models
from reformer.errors import InputError, ran_out_of_memory
from reformer.models import ReformerConfig, ReformerForCausalLM, ReformerPreTrainedModel
from reformer.settings.json_file import first_name, read_object
from reformer.training.manifest import MANIFEST, damage
from reformer.version import __version__, is_newer

CHECKPOINT, PARTIAL = "checkpoint-", ".partial"
CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"


def load_checkpoint(folder: Path) -> ReformerForCausalLM:
    """The language model in a folder, ready to evaluate. Raises InputError as `load_model` does, and for others."""
    return need_language_model(load_model(folder), folder)


def need_language_model(model: ReformerPreTrainedModel, folder: Path) -> ReformerForCausalLM:
    """The model of a folder, if it is one that predicts the next token; InputError otherwise."""
    if not isinstance(model, ReformerForCausalLM):
        raise InputError(f"{folder} holds a {type(model).__name__}; give a language model (ReformerForCausalLM)")
    return model


def load_model(folder: Path) -> ReformerPreTrainedModel:
    """The model in a folder, of whatever task, ready to evaluate.

    Raises InputError for a folder that holds no checkpoint of ours, half of one, or one whose weights are not as its
    manifest lists them.
    """
    written = read_config(folder)
    if not (folder / WEIGHTS).exists() and not (folder / SHARDS).exists():
        raise InputError(f"{folder} holds half a checkpoint ({WEIGHTS} is missing); train it again")
    if (folder / MANIFEST).exists() and (reason := damage(folder, weights=True)) is not None:
        raise InputError(f"{folder} is damaged ({reason}); give another checkpoint of the run, or the run's folder")
    name = first_name(written, "architectures", ReformerForCausalLM.__name__)
    kind: Any = getattr(reformer.models, name, None)
    if not (isinstance(kind, type) and issubclass(kind, ReformerPreTrainedModel)):
        raise InputError(f"{folder} holds a {name}, which this library does not know{_newer(written)}")
    with reading(folder, _newer(written)):
        config = ReformerConfig.from_pretrained(folder)
        loaded: Any = kind.from_pretrained(folder, config=config, output_loading_info=True)
    model, report = loaded
    wrong = [*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]]
    if wrong:
        raise InputError(
            f"{folder} holds weights of another model: {', '.join(map(str, sorted(wrong)[:3]))} do not fit"
        )
    whole: ReformerPreTrainedModel = model.eval()
    return whole


@contextmanager
def reading(folder: Path, hint: str = "") -> Iterator[None]:
    """Whatever transformers and safetensors raise on a broken folder, as an InputError of one line."""
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{folder} holds no checkpoint that can be read: {reason}{hint}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the model in a folder. Raises InputError for a folder that holds none of ours."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that `reformer train --out` wrote")
    if not (folder / CONFIG).exists():
        raise InputError(f"{folder} holds no checkpoint ({CONFIG} is missing); give one that `reformer train` wrote")
    try:
        written = read_object(folder / CONFIG)
        if (model_type := written.get("model_type")) != ReformerConfig.model_type:
            raise InputError(f"its model_type is {model_type!r}, not {ReformerConfig.model_type!r}")
    except InputError as error:
        raise InputError(f"{folder} holds no checkpoint that can be read: {error}") from None
    return written


def _newer(config: dict[str, Any]) -> str:
    """A hint that a newer version of this library wrote a checkpoint."""
    writer = config.get("reformer_version")
    if not is_newer(writer):
        return ""
    return f"; reformer {writer} wrote it, and this is {__version__}: install the newer one"


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, in the order of their steps."""
    folders = [path for path in out.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdecimal()]
    return sorted(folders, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step behind which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(CHECKPOINT))
