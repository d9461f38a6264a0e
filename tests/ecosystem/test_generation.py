"""What `generate` asks of a model and a cache: lengths, caches of transformers' shape, modes that cannot be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from reformer import InputError
from reformer.models import ReformerCache, ReformerForConditionalGeneration
from tests.ecosystem.models import inputs_of, tiny

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default:UserWarning")


def test_positions_without_a_limit_limit_no_text(caplog: pytest.LogCaptureFixture) -> None:
    """For transformers `max_position_embeddings` is one."""
    ids = torch.randint(2, 40, (1, 40))
    model = tiny(max_position_embeddings=32, eos_token_id=None)
    assert model.generate(ids).shape[1] == 60
    assert "friendly reminder" not in caplog.text
    learned = tiny(max_position_embeddings=32, position_embedding="learned", eos_token_id=None)
    assert learned.generate(ids[:, :20]).shape[1] == 32


def test_what_transformers_asks_of_a_cache() -> None:
    model = tiny()
    cache = ReformerCache(model.config)
    cache.early_initialization(2, 2, 8, torch.float32, torch.device("cpu"))
    assert not cache.is_initialized
    model(**inputs_of(model), past_key_values=cache)
    assert cache.is_initialized
    assert cache.get_mask_sizes(3, 0) == (15, 0)
    assert cache.get_query_offset(0) == cache.get_seq_length() == 12
    for call in (cache.offload, cache.prefetch):
        with pytest.raises(InputError, match=r"cache\.to\(device\)"):
            call(0)


@pytest.mark.parametrize(
    ("options", "reason"), [({"assistant_early_exit": 1}, "assistant_model"), ({"prefill_chunk_size": 4}, "whole")]
)
def test_modes_that_cannot_be(options: dict[str, Any], reason: str) -> None:
    model = tiny(ReformerForConditionalGeneration)
    with pytest.raises(InputError, match=reason):
        model.generate(inputs_of(model)["input_ids"][:1], **options)


def test_prompts_in_pieces() -> None:
    model = tiny()
    ids = inputs_of(model)["input_ids"]
    whole = model.generate(ids, max_new_tokens=6, do_sample=False)
    assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False, prefill_chunk_size=5), whole)


def test_the_configuration_of_an_encoder_decoder_reaches_its_parts() -> None:
    model = tiny(ReformerForConditionalGeneration, num_hashes=1, window=2, local_window=2, attention_pattern=("lsh",))
    inputs = inputs_of(model, 40)
    before = model(**inputs)
    assert before.decoder_hidden_states is None
    assert before.past_key_values is None
    model.config.output_hidden_states = model.config.use_cache = True
    model.config.hash_seed = 5
    after = model(**inputs)
    assert len(after.decoder_hidden_states) == len(after.encoder_hidden_states) == 3
    assert after.past_key_values is not None
    assert not torch.equal(before.logits, after.logits)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["reformer", "transformers"])
def test_the_configuration_is_known_by_its_name(first: str, tmp_path: Path) -> None:
    """Whatever is imported first, and transformers' own Reformer stays what it is."""
    tiny().save_pretrained(tmp_path)
    imports = ["import reformer", "from transformers import AutoConfig, AutoTokenizer, Trainer, pipeline"]
    code = "; ".join(
        [
            *(imports if first == "reformer" else imports[::-1]),
            "import sys, json",
            "kinds = [type(AutoConfig.for_model(name)).__module__ for name in ('reformer_torch', 'reformer')]",
            "print(json.dumps([*kinds, AutoConfig.from_pretrained(sys.argv[1]).num_hashes]))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    own = "reformer.models.config"
    assert json.loads(done.stdout) == [own, "transformers.models.reformer.configuration_reformer", 4]
