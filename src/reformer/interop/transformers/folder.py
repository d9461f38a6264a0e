"""Folders of models: `reformer convert`."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from reformer.data.tokenizer import load_tokenizer
from reformer.errors import InputError, not_written
from reformer.interop.transformers.convert import from_transformers, read_type, to_transformers
from reformer.models import ReformerConfig
from reformer.training.checkpoint import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHIFTED_BYTES = 258
"""Vocabulary of `google/reformer-enwik8`, which has no tokenizer: byte + 2, behind padding (0) and an unused 1."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "special_tokens_map.json")


def convert_folder(source: Path, target: Path, length: int | None = None) -> str:
    """Convert the model in a folder, whichever of the two kinds it is, with its tokenizer; returns what was done.

    `length` as for `from_transformers`.
    Raises InputError for a source that holds neither kind, and for a target that is there; for one that cannot be
    written as `not_written` says.
    """
    if target.exists():
        raise InputError(f"{target} is there already; choose another folder")
    kind = read_type(source)
    if kind == ReformerConfig.model_type:
        if length is not None:
            raise InputError("length is for models of transformers; leave it out")
        model = to_transformers(load_model(source))
        said = "transformers' Reformer"
    else:
        model = from_transformers(source, length)
        said = "a model of this library"
    staged = target.with_name(f".{target.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        model.save_pretrained(staged)
        _convert_tokenizer(source, staged, model.config.vocab_size, kind)
        staged.rename(target)
    except (OSError, SafetensorError) as error:
        raise not_written(error, f"{target} cannot be written ({error}); choose another place") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return f"{source} is now {said} in {target}"


def _convert_tokenizer(source: Path, target: Path, vocab_size: int, kind: str) -> None:
    """The tokenizer of a folder, as a `tokenizer.json`; for shifted bytes one is made."""
    if any((source / name).exists() for name in _TOKENIZER_FILES):
        load_tokenizer(str(source)).save(target)
    elif kind == "reformer" and vocab_size == SHIFTED_BYTES:
        shifted_bytes().save_pretrained(target)


def shifted_bytes() -> "PreTrainedTokenizerFast":
    """A tokenizer for which a byte of UTF-8 is byte + 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<end>": 1} | {character: 2 + byte for byte, character in enumerate(_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", clean_up_tokenization_spaces=False
    )


def _characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it can be seen."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    unseen = iter(range(256, 512))
    return [chr(byte) if byte in seen else chr(next(unseen)) for byte in range(256)]
