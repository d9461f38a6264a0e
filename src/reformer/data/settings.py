"""What text a model is trained on, without torch: for the TOML file and the command line."""

from dataclasses import dataclass
from typing import Literal

from reformer.ops.checks import check_choice, check_integer, check_probability
from reformer.settings import Settings

BYTES, BPE = "bytes", "bpe:"


@dataclass(kw_only=True)
class DataSettings(Settings):
    """A corpus and its tokens. Values are checked when an instance is made."""

    files: tuple[str, ...] = ()
    """Files, folders or patterns of text: plain, .gz, .jsonl, .parquet, a folder of datasets, - for standard input."""
    field: str = "text"
    """Field of the text in .jsonl, .parquet and datasets folders."""
    tokenizer: str = BYTES
    """bytes; a folder that AutoTokenizer loads; or bpe:8000 to train a byte-level BPE of 8,000 tokens on the text."""
    documents: Literal["join", "apart"] = "join"
    """Whether a token sees the documents in front of its own in a window."""
    held_out: float = 0.05
    """Share of the text that is held out for evaluation: documents by their hash, or the end of each of a few."""
    held_out_files: tuple[str, ...] = ()
    """Text to hold out instead, as in files."""
    processes: int | None = None
    """Processes that tokenize several files; None: one a processor."""

    def __post_init__(self) -> None:
        check_choice("documents", self.documents, ("join", "apart"))
        super().__post_init__()
        check_probability("held_out", self.held_out)
        if self.processes is not None:
            check_integer("processes", self.processes, 1)
        if self.tokenizer.startswith(BPE):
            size = self.tokenizer.removeprefix(BPE)
            if not size.isdecimal() or int(size) < 259:
                raise ValueError(
                    f"tokenizer={self.tokenizer!r} needs a size of at least 259 (256 bytes, 3 special tokens), "
                    "as in bpe:8000"
                )
        elif not self.tokenizer:
            raise ValueError("tokenizer is empty; give bytes, bpe:8000 or the folder of a tokenizer")
