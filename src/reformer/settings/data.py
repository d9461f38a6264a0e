"""What text a model is trained on, without torch: for the TOML file and the command line."""

from dataclasses import dataclass

from reformer.errors import InputError
from reformer.ops.checks import check_probability
from reformer.settings import Settings

BYTES, BPE = "bytes", "bpe:"

HUB = "hf:"
"""What stands in front of a streamed dataset's name, as in hf:NAME, hf:NAME:SPLIT and hf:NAME,CONFIG:SPLIT."""

IGNORED = -100
"""The label of a token that nothing is to be learned from, as PyTorch has it."""


@dataclass(kw_only=True)
class DataSettings(Settings):
    """Which text, in which tokens; each task adds its own fields. Values are checked when an instance is made."""

    task: str = "lm"
    """What is learned: next tokens, masked tokens, classes of texts, tags of words, answers in a context, pairs."""
    files: tuple[str, ...] = ()
    """Files, folders or patterns: text, .gz, .jsonl, .json, .csv, .tsv, .parquet, a folder of datasets, - for stdin."""
    raw: bool = False
    """Take every file as the bytes that it is, whatever its suffix says."""
    field: str = "text"
    """Field of the text in rows (.jsonl, .csv, …); for tag, a list of words or a text of them."""
    tokenizer: str = BYTES
    """bytes; a folder that AutoTokenizer loads; or bpe:8000 to train a byte-level BPE of 8,000 tokens on the text."""
    held_out: float = 0.05
    """Share of the text that is held out for evaluation: documents by their hash, or the end of each of a few."""
    held_out_files: tuple[str, ...] = ()
    """Text to hold out instead, as in files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("held_out", self.held_out)
        if self.tokenizer.startswith(BPE):
            size = self.tokenizer.removeprefix(BPE)
            if not size.isdecimal() or int(size) < 259:
                raise InputError(
                    f"tokenizer={self.tokenizer!r} needs a size of at least 259 (256 bytes, 3 special tokens), "
                    "as in bpe:8000"
                )
        elif not self.tokenizer:
            raise InputError("tokenizer is empty; give bytes, bpe:8000 or the folder of a tokenizer")
