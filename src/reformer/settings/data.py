"""What text a model is trained on, without torch: for the TOML file and the command line."""

from dataclasses import dataclass
from typing import Literal

from reformer.errors import InputError
from reformer.ops.checks import check_choice, check_probability
from reformer.settings import Settings

BYTES, BPE = "bytes", "bpe:"

TASKS = ("lm", "mlm", "classify", "tag", "qa", "translate")

EXAMPLES = ("classify", "tag", "qa", "translate")
"""Tasks on rows of a file rather than on running text."""


@dataclass(kw_only=True)
class DataSettings(Settings):
    """What is learned, from which text, in which tokens. Values are checked when an instance is made."""

    task: Literal["lm", "mlm", "classify", "tag", "qa", "translate"] = "lm"
    """Next tokens; masked tokens; classes of texts; tags of words; answers in a context; lines of another language."""
    files: tuple[str, ...] = ()
    """Files, folders or patterns of text: plain, .gz, .jsonl, .parquet, a folder of datasets, - for standard input."""
    field: str = "text"
    """Field of the text in .jsonl, .csv, .parquet and datasets folders; for tag, a list of words or a text of them."""
    label_field: str = "label"
    """Field of the class (classify), or of the tags, one a word (tag)."""
    source: tuple[str, ...] = ()
    """Files of sources, one a line (translate)."""
    target: tuple[str, ...] = ()
    """Files of their targets, one a line (translate)."""
    held_out_source: tuple[str, ...] = ()
    """Sources to hold out (translate)."""
    held_out_target: tuple[str, ...] = ()
    """Their targets."""
    mask: float = 0.15
    """Share of the tokens that is to be predicted (mlm)."""
    tokenizer: str = BYTES
    """bytes; a folder that AutoTokenizer loads; or bpe:8000 to train a byte-level BPE of 8,000 tokens on the text."""
    documents: Literal["join", "apart"] = "join"
    """Whether a token sees the documents in front of its own in a window."""
    cut_windows: float = 0.25
    """Share of windows cut into pieces that see nothing of each other, so that starts of texts are learned (lm)."""
    held_out: float = 0.05
    """Share of the text that is held out for evaluation: documents by their hash, or the end of each of a few."""
    held_out_files: tuple[str, ...] = ()
    """Text to hold out instead, as in files."""

    def __post_init__(self) -> None:
        check_choice("task", self.task, TASKS)
        check_choice("documents", self.documents, ("join", "apart"))
        super().__post_init__()
        check_probability("held_out", self.held_out)
        check_probability("mask", self.mask)
        check_probability("cut_windows", self.cut_windows)
        if self.task == "mlm" and not self.mask:
            raise InputError("mask=0 leaves nothing to predict; give a share above 0, as 0.15")
        self._check_pairs()
        if self.tokenizer.startswith(BPE):
            size = self.tokenizer.removeprefix(BPE)
            if not size.isdecimal() or int(size) < 259:
                raise InputError(
                    f"tokenizer={self.tokenizer!r} needs a size of at least 259 (256 bytes, 3 special tokens), "
                    "as in bpe:8000"
                )
        elif not self.tokenizer:
            raise InputError("tokenizer is empty; give bytes, bpe:8000 or the folder of a tokenizer")

    def _check_pairs(self) -> None:
        """Sources and targets go together, and with nothing but translate."""
        for source, target in (("source", "target"), ("held_out_source", "held_out_target")):
            given = [name for name in (source, target) if getattr(self, name)]
            if given and self.task != "translate":
                raise InputError(f"{given[0]} is for task='translate', and task is {self.task!r}; leave it out")
            if len(given) == 1:
                raise InputError(f"{given[0]} is given alone; {source} and {target} go together, line by line")
        if self.task == "translate" and (self.files or self.held_out_files):
            raise InputError("task='translate' reads --source and --target; leave other files out")
