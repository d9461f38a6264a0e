"""What transformers does with a configuration: saved with foreign attributes, changed later, loaded by another class.

Kinds of check of its test mixins that stand here: saving and loading (`test_config`), `use_cache`, `return_dict`,
`output_attentions`, Auto classes, `problem_type`, classes found by name.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.models.auto import modeling_auto

from reformer.models import (
    ReformerConfig,
    ReformerForCausalLM,
    ReformerForConditionalGeneration,
    ReformerForSequenceClassification,
    ReformerModel,
)
from tests.ecosystem.models import CLASSES, inputs_of, tiny


@pytest.mark.parametrize("kind", CLASSES)
def test_a_folder_with_foreign_attributes_loads(kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny(kind)
    model.config.pretraining_tp = 1
    model.config.quantisation = {"bits": 4}
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert again.config.pretraining_tp == 1
    assert again.config.quantisation == {"bits": 4}
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["pretraining_tp"] == 1
    for name in ("pretraining_tp", "num_hahses"):
        with pytest.raises(ValueError, match=f"no field '{name}'"):
            ReformerConfig(**{name: 1})


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("attn_layers", "attention_pattern"),
        ("lsh_attn_chunk_length", "chunk_length"),
        ("heads", "num_attention_heads"),
        ("n_hashes", "num_hashes"),
        ("num_hahses", "num_hashes"),
    ],
)
def test_names_of_other_libraries_are_answered_with_ours(name: str, ours: str) -> None:
    with pytest.raises(ValueError, match=f"no field '{name}'.*'{ours}'"):
        ReformerConfig(**{name: 1})


def test_use_cache_of_the_configuration(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    inputs = inputs_of(tiny())
    for value, kept in ((None, False), (False, False), (True, True)):
        model = ReformerForCausalLM.from_pretrained(tmp_path, use_cache=value)
        assert model.config.use_cache is value
        model.save_pretrained(tmp_path / str(value))
        assert ReformerForCausalLM.from_pretrained(tmp_path / str(value)).config.use_cache is value
        with torch.no_grad():
            output = model(**inputs)
            assert (output.past_key_values is not None) == kept
            assert model(**inputs, use_cache=False).past_key_values is None
            assert model(**inputs, use_cache=True).past_key_values is not None
            expected = model(**inputs).logits
            step = model(inputs["input_ids"][:, :5])
            if kept:  # a loop by hand
                rest = model(inputs["input_ids"][:, 5:], past_key_values=step.past_key_values)
                assert (rest.logits - expected[:, 5:]).abs().max() < 1e-5
        assert model.train()(**inputs).past_key_values is None
        written = model.eval().generate(inputs["input_ids"], max_new_tokens=4, do_sample=False)
        assert written.shape == (2, 16)
    assert tiny(ReformerForConditionalGeneration, use_cache=True)(**inputs_of(tiny(ReformerForConditionalGeneration)))


@pytest.mark.parametrize("kind", CLASSES)
def test_fields_changed_later_count(kind: Any) -> None:
    model = tiny(kind)
    inputs = inputs_of(model)
    model.config.return_dict = False
    assert isinstance(model(**inputs), tuple)
    assert not isinstance(model(**inputs, return_dict=True), tuple)
    model.config.return_dict = True
    with pytest.raises(ValueError, match="output_attentions"):  # transformers refuses it, or we do
        model.config.output_attentions = True
    model.config._attn_implementation_internal = "eager"
    model.config.output_attentions = True
    with pytest.raises(ValueError, match="output_attentions=True"):
        model(**inputs)
    model(**inputs, output_attentions=False)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "lm")
    tiny(ReformerForConditionalGeneration).save_pretrained(tmp_path / "pairs")
    for auto in (AutoModelForCausalLM, AutoModel, AutoModelForMaskedLM):
        with pytest.raises(ValueError, match="use ReformerForConditionalGeneration"):
            auto.from_pretrained(tmp_path / "pairs")
    for auto in (AutoModelForSeq2SeqLM, ReformerForConditionalGeneration):
        with pytest.raises(ValueError, match="ReformerForCausalLM, which is no encoder-decoder"):
            auto.from_pretrained(tmp_path / "lm")
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "lm"), ReformerForCausalLM)
    assert isinstance(AutoModel.from_pretrained(tmp_path / "lm"), ReformerModel)
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "pairs"), ReformerForConditionalGeneration)


@pytest.mark.slow
def test_auto_classes_know_the_models_behind_an_import_of_the_package(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    code = (
        "import reformer, sys; assert 'transformers' not in sys.modules; from transformers import AutoModelForCausalLM;"
        f"print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "reformer.models.causal_lm"
    for first, then in (("transformers.models.auto.modeling_auto", "reformer"), ("reformer", "peft")):
        subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {first}, {then}"], check=True)


def test_transformers_finds_the_classes_by_name() -> None:
    names = {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
    }
    assert {kind.__name__ for kind in CLASSES if kind is not ReformerModel} <= names
    assert len(list(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING.items())) > 50  # which goes through all of them


def test_labels_say_what_the_problem_is() -> None:
    for labels, kind in (
        (torch.tensor([1, 2]), "single_label_classification"),
        (torch.rand(2, 3).round(), "multi_label_classification"),
    ):
        model = tiny(ReformerForSequenceClassification, num_labels=3)
        assert model.config.problem_type is None
        model(**inputs_of(model), labels=labels)
        assert model.config.problem_type == kind
