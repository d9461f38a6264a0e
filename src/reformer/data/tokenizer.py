"""Text to tokens and back: raw bytes, or a tokenizer of transformers."""

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reformer.data.byte_tokens import END, FIRST_BYTE, PAD, UNKNOWN, VOCABULARY, ByteDecoder, encode
from reformer.errors import InputError
from reformer.settings.data import BPE, BYTES
from reformer.settings.json_file import read_object

TokenArray = NDArray[np.unsignedinteger[Any]]

SPECIAL = ("<pad>", "<end>", "<unk>")
_FILES = ("tokenizer.json", "tokenizer_config.json")
OF_BYTES = "byte_offset"
"""In tokenizer_config.json: tokens are bytes, and this is what is added to them."""


class TextDecoder(Protocol):
    """Tokens back to text, one at a time."""

    def feed(self, token: int) -> str:
        """The text that this token completes, perhaps none."""

    def finish(self) -> str:
        """What is left at the end."""


class Tokenizer(Protocol):
    """A vocabulary."""

    vocabulary: int
    """How many tokens there are."""
    end: int
    """The token in front of each document, and so behind the last one."""
    pad: int
    """Padding."""
    mask: int
    """What stands for a token that is hidden."""
    unwanted: list[int]
    """Tokens that no text has."""
    identity: str
    """Changes when any text may get other tokens."""
    per_byte: bool
    """Whether a token is a byte."""

    def encode(self, texts: Sequence[bytes]) -> list[TokenArray]:
        """Tokens of texts, without special ones."""

    def as_bytes(self, tokens: Sequence[int]) -> bytes:
        """The text of tokens."""

    def decoder(self) -> TextDecoder:
        """A fresh decoder."""

    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer` reads."""


class ByteTokenizer:
    """Bytes + 3; nothing is lost, whatever the text is."""

    vocabulary, end, pad, mask, unwanted = VOCABULARY, END, PAD, UNKNOWN, [0, 2]
    identity, per_byte = BYTES, True

    def encode(self, texts: Sequence[bytes]) -> list[TokenArray]:
        """A token a byte."""
        return [encode(text) for text in texts]

    def as_bytes(self, tokens: Sequence[int]) -> bytes:
        """Without special ones."""
        return bytes(token - FIRST_BYTE for token in tokens if token >= FIRST_BYTE)

    def decoder(self) -> TextDecoder:
        """Bytes that are not UTF-8 show as U+FFFD."""
        return ByteDecoder()

    def save(self, folder: Path) -> None:
        """A `tokenizer.json` for other programs: the tokens of any valid text are those of its bytes, and back."""
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        pad, end, unknown = SPECIAL
        tokens = {name: number for number, name in enumerate(SPECIAL)}
        tokens |= {character: byte + FIRST_BYTE for byte, character in enumerate(_byte_characters())}
        backend = Backend(models.BPE(tokens, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token=pad, eos_token=end, unk_token=unknown, split_special_tokens=True,
            clean_up_tokenization_spaces=False,
        ).save_pretrained(folder)  # fmt: skip
        path = folder / _FILES[1]
        path.write_text(json.dumps({**json.loads(path.read_text()), OF_BYTES: FIRST_BYTE}, indent=2) + "\n")


def _byte_characters() -> list[str]:
    """The character that stands for each byte in byte-level tokenizers (Radford et al. 2019): itself if it prints."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]


class FastTokenizer:
    """A fast tokenizer of transformers; bytes that are not UTF-8 become U+FFFD first."""

    per_byte = False

    def __init__(self, tokenizer: Any, name: str) -> None:
        ends = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id)
        end = next((token for token in ends if token is not None), None)
        if end is None:
            raise InputError(f"the tokenizer of {name} has no end token (eos, sep or bos); set its eos_token")
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(f"the tokenizer of {name} is a slow one; convert it to tokenizer.json")
        self.tokenizer, self.backend, self.end = tokenizer, backend, end
        self.vocabulary = len(tokenizer)
        self.pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        hidden = (tokenizer.mask_token_id, tokenizer.unk_token_id)
        self.mask = next((token for token in hidden if token is not None), self.pad)
        self.unwanted = sorted({token for token in tokenizer.all_special_ids if token != end})
        whole = repr((backend.to_str(), self.end, self.pad)).encode()
        self.identity = blake2b(whole, digest_size=16).hexdigest()

    def encode(self, texts: Sequence[bytes]) -> list[TokenArray]:
        """Many texts at a time: the tokenizer has threads of its own."""
        dtype = np.uint16 if self.vocabulary <= 1 << 16 else np.uint32
        decoded = [text.decode("utf-8", "replace") for text in texts]
        self.backend.encode_special_tokens = True  # a text that spells <end> is text; pickling forgets it
        encodings = self.backend.encode_batch_fast(decoded, add_special_tokens=False)
        return [np.array(one.ids, dtype=dtype) for one in encodings]

    def as_bytes(self, tokens: Sequence[int]) -> bytes:
        """In UTF-8."""
        text: str = self.backend.decode(list(tokens))
        return text.encode()

    def decoder(self) -> TextDecoder:
        """Through the tokenizer's own stream."""
        return _StreamDecoder(self.backend)

    def save(self, folder: Path) -> None:
        """`tokenizer.json` and its configuration."""
        self.tokenizer.save_pretrained(folder)


class _StreamDecoder:
    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self._begin()

    def _begin(self) -> None:
        from tokenizers.decoders import DecodeStream

        self.stream = DecodeStream(skip_special_tokens=True)
        self.shown: list[int] = []

    def feed(self, token: int) -> str:
        try:
            text: str = self.stream.step(self.backend, token) or ""
        except Exception:  # bytes that are no text: the stream is of no use any more
            self._begin()
            text = "\ufffd" + (self.stream.step(self.backend, token) or "")
        self.shown = [] if text else [*self.shown, token]
        return text

    def finish(self) -> str:
        rest: str = self.backend.decode(self.shown) if self.shown else ""
        return rest


def as_text(text: str) -> bytes:
    """A text as the bytes that tokens are made of; half characters, which JSON may hold, are kept."""
    return text.encode("utf-8", "surrogatepass")


def load_tokenizer(tokenizer: str) -> Tokenizer:
    """`bytes`, or the tokenizer in a folder. Raises InputError for a folder that holds none."""
    folder = Path(tokenizer)
    if tokenizer == BYTES or _of_bytes(folder):
        return ByteTokenizer()
    if not folder.is_dir():
        raise InputError(f"tokenizer={tokenizer!r} is neither bytes, nor bpe:SIZE, nor a folder")
    if not any((folder / name).exists() for name in (*_FILES, "tokenizer.model", "spiece.model", "vocab.json")):
        raise InputError(f"tokenizer={tokenizer!r} holds no tokenizer ({_FILES[0]} is missing); give a folder with one")
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"tokenizer={tokenizer!r} holds no tokenizer that can be read: {reason}") from None
    return FastTokenizer(fast, tokenizer)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokens that the model in a folder was trained on."""
    return load_tokenizer(name_of(folder))


def name_of(folder: Path) -> str:
    """What `load_tokenizer` takes for the tokens of the model in a folder."""
    return BYTES if _of_bytes(folder) or not (folder / _FILES[0]).exists() else str(folder)


def _of_bytes(folder: Path) -> bool:
    """Whether `ByteTokenizer.save` wrote what a folder holds."""
    try:
        return OF_BYTES in read_object(folder / _FILES[1])
    except InputError:
        return False


def tokenizer_for(tokenizer: str, texts: Iterable[bytes]) -> Tokenizer:
    """`load_tokenizer`, or for bpe:SIZE a BPE that is trained on the texts."""
    if tokenizer.startswith(BPE):
        return train_bpe(texts, int(tokenizer.removeprefix(BPE)))
    return load_tokenizer(tokenizer)


def train_bpe(texts: Iterable[bytes], size: int) -> FastTokenizer:
    """A byte-level BPE of `size` tokens at most, three of them special; any text goes through and back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    pad, end, unknown = SPECIAL
    tokenizer = Tokenizer(models.BPE(unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.decode("utf-8", "replace") for text in texts), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=end,
        unk_token=unknown,
        clean_up_tokenization_spaces=False,
    )
    return FastTokenizer(fast, f"bpe:{size}")
