"""Loading a checkpoint folder, with an error that says what is wrong with it."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from reformer.models import ReformerConfig, ReformerForCausalLM

CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"


def load_checkpoint(folder: Path) -> ReformerForCausalLM:
    """The language model in a folder, ready to evaluate.

    Raises ValueError for a folder that holds no checkpoint of ours, or half of one.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one that `reformer train --out` wrote")
    if not (folder / CONFIG).exists():
        raise ValueError(f"{folder} holds no checkpoint ({CONFIG} is missing); give one that `reformer train` wrote")
    if not (folder / WEIGHTS).exists() and not (folder / SHARDS).exists():
        raise ValueError(f"{folder} holds half a checkpoint ({WEIGHTS} is missing); train it again")
    try:
        written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = written.get("model_type") if isinstance(written, dict) else None
        if found != ReformerConfig.model_type:
            raise ValueError(f"its model_type is {found!r}, not {ReformerConfig.model_type!r}")
        config = ReformerConfig.from_pretrained(folder)
        loaded: Any = ReformerForCausalLM.from_pretrained(folder, config=config, output_loading_info=True)
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder} holds no checkpoint that can be read: {reason}") from None
    model, report = loaded
    wrong = [*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]]
    if wrong:
        raise ValueError(
            f"{folder} holds weights of another model: {', '.join(map(str, sorted(wrong)[:3]))} do not fit"
        )
    return model.eval()
