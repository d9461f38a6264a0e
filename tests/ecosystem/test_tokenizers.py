"""Byte models bring a tokenizer that other programs load."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, pipeline

from reformer.data.byte_tokens import FIRST_BYTE
from reformer.data.tokenizer import ByteTokenizer, load_tokenizer, tokenizer_of
from tests.ecosystem.models import tiny

TEXTS = ["plain", "ü☃\n\t \0\x7f", "<end><pad> <unk>", "  two  spaces ", "\U0001d50a\u200b", " ", "\u00ad¡"]


def test_any_text_is_its_bytes(tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path)
    random = np.random.default_rng(0)
    points = random.integers(0, 0x110000, 3000)
    texts = [*TEXTS, "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)]
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.encode_special_tokens = True
    for text in texts:
        expected = [byte + FIRST_BYTE for byte in text.encode()]
        assert loaded(text, add_special_tokens=False)["input_ids"] == expected
        assert backend.encode(text).ids == expected
        assert loaded.decode(expected) == text
        assert ByteTokenizer().encode([text.encode()])[0].tolist() == expected
    assert len(loaded) == 259
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 1)


def test_it_stays_raw_bytes_for_us(tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path)
    for tokenizer in (load_tokenizer(str(tmp_path)), tokenizer_of(tmp_path)):
        assert tokenizer.per_byte
        assert tokenizer.identity == "bytes"
        assert tokenizer.as_bytes(tokenizer.encode([b"\xff\xfe"])[0].tolist()) == b"\xff\xfe"


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_over_a_byte_model(tmp_path: Path) -> None:
    tiny(vocab_size=259).save_pretrained(tmp_path)
    ByteTokenizer().save(tmp_path)
    writer = pipeline("text-generation", str(tmp_path))
    (written,) = writer("a text", max_new_tokens=5, do_sample=False)
    assert written["generated_text"].startswith("a text")
