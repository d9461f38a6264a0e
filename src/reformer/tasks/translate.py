"""Lines of one language into those of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from reformer.data.examples import Example
from reformer.data.reading import opened
from reformer.data.sources import find_sources
from reformer.data.task import Result
from reformer.data.tokenizer import Tokenizer, as_text
from reformer.errors import InputError
from reformer.inference.metrics import translation_scores
from reformer.tasks.rows import RowTask

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[str, str]
"""A source and its target."""

BEAMS = 5
"""Targets that beam search keeps at a time, unless given."""


@dataclass(kw_only=True)
class Translate(RowTask):
    """Write the target of each source; files hold a line each, sources and targets side by side."""

    task: str = "translate"
    source: tuple[str, ...] = ()
    """Files of sources, one a line (translate)."""
    target: tuple[str, ...] = ()
    """Files of their targets, one a line (translate)."""
    held_out_source: tuple[str, ...] = ()
    """Sources to hold out (translate)."""
    held_out_target: tuple[str, ...] = ()
    """Their targets, line by line (translate)."""

    model_name = "ReformerForConditionalGeneration"
    causal = None
    unit_is_token = True
    scored_when_trained = False
    evaluating: ClassVar[dict[str, Any]] = {"logits_to_keep": 1}
    options = ("beams",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for sides in (("source", "target"), ("held_out_source", "held_out_target")):
            given = [name for name in sides if getattr(self, name)]
            if len(given) == 1:
                raise InputError(f"{given[0]} is given alone; {sides[0]} and {sides[1]} go together, line by line")
        if self.files or self.held_out_files:
            raise InputError("task='translate' reads --source and --target; leave other files out")

    def given(self, held_out: bool) -> bool:
        """Whether there are sources."""
        return bool(self.held_out_source if held_out else self.source)

    def fits(self, example: Example, length: int) -> bool:
        """Whether both sides have at most `length` tokens: a cut one is no translation."""
        return max(len(np.atleast_1d(side)) for side in example.features.values()) <= length

    def needed(self) -> str:
        """What files it reads."""
        return "--source and --target, files with a sentence a line"

    def rows(self, held_out: bool = False) -> list[Pair]:
        """Lines that stand side by side, neither of them empty. Raises InputError for files of other lengths."""
        paths = (self.held_out_source, self.held_out_target) if held_out else (self.source, self.target)
        sources, targets = map(read_lines, paths)
        if len(sources) != len(targets):
            raise InputError(
                f"{', '.join(paths[0])} has {len(sources):,} lines and {', '.join(paths[1])} {len(targets):,}; each "
                "source has its target on the same line"
            )
        pairs = [pair for pair in zip(sources, targets, strict=True) if pair[0].strip() and pair[1].strip()]
        if not pairs:
            raise InputError("the files hold no pair of lines; give others")
        return pairs

    def key(self, row: Pair) -> str:
        """The source."""
        return row[0]

    def texts(self, row: Pair) -> Iterable[str]:
        """Both sides."""
        return row

    def encode(self, rows: Sequence[Pair], tokenizer: Tokenizer, classes: Sequence[str], length: int) -> list[Example]:
        """Each side with the end token behind it."""
        sides = [tokenizer.encode([as_text(pair[side]) for pair in rows]) for side in (0, 1)]
        examples = []
        for (_, target), source_ids, target_ids in zip(rows, *sides, strict=True):
            features: dict[str, Any] = {
                "input_ids": np.append(source_ids, source_ids.dtype.type(tokenizer.end)),
                "labels": np.append(target_ids, target_ids.dtype.type(tokenizer.end)),
            }
            examples.append(Example(features, target, len(source_ids) + len(target_ids) + 2))
        return examples

    def answers(
        self,
        model: Any,
        tokenizer: Tokenizer,
        examples: Sequence[Example],
        inputs: dict[str, Tensor],
        beams: int = BEAMS,
        longest: int | None = None,
        **options: Any,
    ) -> list[str]:
        """The targets that beam search finds: at most twice as many tokens and ten more, or `longest`.

        Sources of like length are translated together; with `rule="bucket"` it does not matter which.
        """
        limit = model.config.settings.length_limit
        room = longest or 2 * inputs["input_ids"].shape[1] + 10
        room = room if limit is None else min(room, limit - 1)
        targets = model.generate(**inputs, max_new_tokens=room, num_beams=beams, do_sample=False, early_stopping=True)
        return [_until_end(row[1:], tokenizer) for row in targets.tolist()]

    def score(self, answers: list[str], examples: Sequence[Example], beams: int = BEAMS, **options: Any) -> Result:
        """BLEU and chrF."""
        scores = translation_scores(answers, [example.truth for example in examples])
        notes = {"BLEU": scores.bleu_signature, "chrF": scores.chrf_signature, "beam search": f"{beams} beams"}
        return Result({"BLEU": scores.bleu, "chrF": scores.chrf}, answers, notes)


def read_lines(paths: Sequence[str | Path]) -> list[str]:
    """The lines of text files, plain or .gz, without their ends. Raises InputError for what is no text."""
    lines: list[str] = []
    for source in find_sources(paths):
        try:
            with opened(source) as file:
                text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{source.name} is not UTF-8; save the file as UTF-8") from None
        lines += [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    return lines


def translated(model: Any, lines: Sequence[str], tokenizer: Tokenizer, **options: Any) -> list[str]:
    """The targets of sources, none of which is empty; options are those of `Translate.answers`."""
    from functools import partial

    from reformer.inference.predict import predict

    sources = [
        Example({"input_ids": np.append(ids.astype(np.int64), tokenizer.end)}, None, len(ids) + 1)
        for ids in tokenizer.encode([as_text(line) for line in lines])
    ]
    answer = partial(Translate().answers, model, tokenizer, **options)
    return predict(answer, model, sources, tokenizer.pad)


def _until_end(row: Sequence[int], tokenizer: Tokenizer) -> str:
    kept = list(row[: row.index(tokenizer.end)] if tokenizer.end in row else row)
    return " ".join(tokenizer.as_bytes(kept).decode("utf-8", "replace").strip().splitlines())
