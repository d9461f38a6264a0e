"""What the tasks on rows of files share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from reformer.data.examples import Example, Examples, hold_out
from reformer.data.reading import take
from reformer.data.rows import read_rows
from reformer.data.task import Advance, Result, Say, Task, nothing
from reformer.data.tokenizer import Tokenizer, as_text, tokenizer_for
from reformer.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class RowTask(Task):
    """A task on rows: a model gets each encoded, and answers."""

    scored_when_trained = True

    @abstractmethod
    def rows(self, held_out: bool = False) -> list[Any]:
        """The rows of its files, or of those to hold out. Raises InputError, with the line, for what is none."""

    @abstractmethod
    def key(self, row: Any) -> str:
        """The text by whose hash a row is held out."""

    @abstractmethod
    def texts(self, row: Any) -> Iterable[str]:
        """The texts of a row, from which a BPE is trained."""

    def classes(self, rows: Sequence[Any]) -> tuple[str, ...]:
        """The classes of the rows, in the order of their numbers."""
        return ()

    @abstractmethod
    def encode(self, rows: Sequence[Any], tokenizer: Tokenizer, classes: Sequence[str], length: int) -> list[Example]:
        """Examples of at most `length` tokens (a side). Raises InputError for a class that is none of `classes`."""

    @abstractmethod
    def answers(
        self, model: Any, tokenizer: Tokenizer, examples: Sequence[Example], inputs: dict[str, Tensor], **options: Any
    ) -> list[Any]:
        """What a model answers to some examples, whose arguments are `inputs`."""

    @abstractmethod
    def score(self, answers: list[Any], examples: Sequence[Example], **options: Any) -> Result:
        """Answers against what is right."""

    def read(self, length: int, say: Say) -> Examples:
        """The examples of its files."""
        if not self.given(held_out=False):
            raise InputError(f"task={self.task!r} needs {self.needed()}")
        held = self.rows(held_out=True) if self.given(held_out=True) else []
        rows, held = hold_out(self.rows(), held, self.held_out, key=self.key)
        tokenizer = tokenizer_for(self.tokenizer, (as_text(text) for row in rows for text in self.texts(row)))
        classes = self.classes([*rows, *held])
        train, held_out = (
            [example for example in self.encode(part, tokenizer, classes, length) if self.fits(example, length)]
            for part in (rows, held)
        )
        if rows and not train:
            raise InputError(f"no example has at most length={length} tokens; raise --length")
        if not train:
            raise InputError(f"held_out={self.held_out} leaves nothing to train on; lower it, or give more rows")
        say(f"{len(train):,} examples to train on, {len(held_out):,} held out")
        return Examples(train, held_out, tokenizer, classes)

    def given(self, held_out: bool) -> bool:
        """Whether there are files to read, or to hold out."""
        return bool(self.held_out_files if held_out else self.files)

    def fits(self, example: Example, length: int) -> bool:
        """Whether to train on an example, which encoding may have cut."""
        return True

    def needed(self) -> str:
        """What files it reads."""
        return "files with rows: .jsonl, .csv, .tsv, .parquet"

    def measure(
        self,
        model: Any,
        tokenizer: Tokenizer,
        examples: Sequence[Example],
        *,
        batch_size: int | None = None,
        advance: Advance = nothing,
        **options: Any,
    ) -> Result:
        """The scores on examples."""
        from reformer.inference.predict import predict

        answer = partial(self.answers, model, tokenizer, **options)
        answers = predict(answer, model, examples, tokenizer.pad, batch_size=batch_size, advance=advance)
        return self.score(answers, examples, **options)

    def evaluate(
        self,
        model: Any,
        tokenizer: Tokenizer,
        length: int,
        *,
        batch_size: int | None = None,
        advance: Advance = nothing,
        **options: Any,
    ) -> Result:
        """The scores on all rows of its files."""
        if not self.given(held_out=False):
            raise InputError(f"a model for task={self.task!r} is measured on {self.needed()}; give some")
        examples = self.encode(self.rows(), tokenizer, model.config.class_names, length)
        return self.measure(model, tokenizer, examples, batch_size=batch_size, advance=advance, **options)


@dataclass(kw_only=True)
class LabelledTask(RowTask):
    """A task on rows with a text, or words, and what they are called."""

    label_field: str = "label"
    """Field of the class (classify), or of the tags, one a word (tag)."""

    def fields(self, held_out: bool) -> Iterator[tuple[str, Any, Any]]:
        """Where each row stands, its text and its label. Raises InputError, with the line, for rows without them."""
        for where, row in read_rows(self.held_out_files if held_out else self.files):
            yield where, take(row, self.field, where), take(row, self.label_field, where, "--label-field")


def number_of(name: str, numbers: dict[str, int], what: str) -> int:
    """The number of a class. Raises InputError for one that the model has not."""
    if name not in numbers:
        raise InputError(
            f"{what} {name!r} is none of the {len(numbers)} that the model has, {', '.join(list(numbers)[:5])}…; "
            "leave such rows out"
        )
    return numbers[name]


def mean(values: Sequence[float]) -> float:
    """0 without any."""
    return sum(values) / max(len(values), 1)
