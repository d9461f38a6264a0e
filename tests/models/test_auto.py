"""Folders that load in programs that have not imported this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import reformer

LOAD = """
import sys
import transformers
assert "reformer" not in sys.modules
model = transformers.{kind}.from_pretrained("{folder}", trust_remote_code=True)
print(type(model).__module__, type(model).__name__)
model.save_pretrained("{folder}-again")
"""


def loaded(kind: str, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Load in a process of its own, outside of the source."""
    code = before + LOAD.format(kind=kind, folder=folder)
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder.parent / "modules")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=environment, check=False)


@pytest.mark.parametrize(
    ("kind", "model_class", "settings"),
    [
        ("AutoModelForCausalLM", reformer.ReformerForCausalLM, {}),
        pytest.param(
            *("AutoModelForSeq2SeqLM", reformer.ReformerForConditionalGeneration, {"is_encoder_decoder": True}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("AutoModelForMaskedLM", reformer.ReformerForMaskedLM, {"causal": False}), marks=pytest.mark.slow
        ),
    ],
)
def test_a_folder_loads(kind: str, model_class: type, settings: dict[str, object], tmp_path: Path) -> None:
    small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
    model = model_class(reformer.ReformerConfig(**small, **settings))
    model.save_pretrained(tmp_path / "model")
    done = loaded(kind, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    module, name = done.stdout.split()
    assert module.startswith("reformer.")
    assert name == model_class.__name__
    names = {path.name for path in (tmp_path / "model-again").iterdir()}
    assert {name for name in names if name.endswith(".py")} == {"reformer_auto.py"}  # no source is copied
    again = model_class.from_pretrained(tmp_path / "model-again")  # type: ignore[attr-defined]
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in model.state_dict().items())
    assert json.loads((tmp_path / "model" / "config.json").read_text())["auto_map"][kind] == f"reformer_auto.{name}"


def test_without_the_package_a_line_says_so(tmp_path: Path) -> None:
    config = reformer.ReformerConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    reformer.ReformerForCausalLM(config).save_pretrained(tmp_path / "model")
    hide = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "reformer":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Hide())
"""
    done = loaded("AutoModelForCausalLM", tmp_path / "model", hide)
    assert done.returncode == 1
    assert "this folder holds a model of reformer-torch; pip install reformer-torch" in done.stderr


def test_a_program_that_has_it_needs_no_trust(tmp_path: Path) -> None:
    import transformers

    config = reformer.ReformerConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    reformer.ReformerForCausalLM(config).save_pretrained(tmp_path)
    assert isinstance(transformers.AutoModelForCausalLM.from_pretrained(tmp_path), reformer.ReformerForCausalLM)


def test_caches_are_saved_by_their_model(tmp_path: Path) -> None:
    config = reformer.ReformerConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    model, tokens = reformer.ReformerForCausalLM(config).eval(), torch.randint(3, 40, (1, 50))
    cache = reformer.ReformerCache(config)
    model(tokens, past_key_values=cache)
    model.save_cache(cache, tmp_path / "a.cache", tokens)
    again, known = model.load_cache(tmp_path / "a.cache")
    assert known is not None
    assert torch.equal(known, tokens)
    assert again.seen == 50
