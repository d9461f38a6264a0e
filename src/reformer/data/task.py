"""What a task is to the rest of the library: fields, a model, text, a measure; `reformer.tasks` has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from reformer.ops.checks import check_choice
from reformer.settings.data import DataSettings

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

    from reformer.data.examples import Examples
    from reformer.data.prepare import Corpus
    from reformer.data.streaming import StreamedCorpus
    from reformer.data.tokenizer import Tokenizer
    from reformer.models import ReformerPreTrainedModel
    from reformer.settings import ModelSettings

Advance = Callable[[int], None]
Say = Callable[[str], None]


def nothing(count: int) -> None:
    """Who is told of progress and does not care."""


@dataclass(frozen=True)
class Result:
    """Scores of a task, and the answers that they are of."""

    scores: dict[str, float]
    answers: list[Any]
    """One for each row, in its order; none where there are no rows."""
    notes: dict[str, str] = field(default_factory=dict)
    """What the scores were computed with."""


@dataclass(kw_only=True)
class Task(DataSettings, ABC):
    """A task and its fields, which are those of its text; a subclass gives `task`, its name, a default."""

    model_name: ClassVar[str]
    """The class of its model in `reformer.models`."""
    causal: ClassVar[bool | None] = False
    """Whether its model reads forwards only; None for an encoder-decoder, of which one part does."""
    in_windows: ClassVar[bool] = False
    """Whether it is learned from windows of running text, rather than from rows."""
    unit_is_token: ClassVar[bool] = False
    """Whether the loss is of tokens (of bytes, where a token is one), rather than of rows."""
    adapters: ClassVar[bool] = False
    """Whether low-rank adapters can be trained for it."""
    scored_when_trained: ClassVar[bool] = False
    """Whether its score on the held-out rows is cheap enough to end each training with."""
    evaluating: ClassVar[dict[str, Any]] = {}
    """Arguments of the model while a training measures it."""
    options: ClassVar[tuple[str, ...]] = ()
    """Flags of `reformer evaluate` that it has a use for, beside those named as its fields."""

    def __post_init__(self) -> None:
        check_choice("task", self.task, (type(self).task,))
        super().__post_init__()

    @property
    def model_class(self) -> type[ReformerPreTrainedModel]:
        """The class of its model."""
        from reformer import models

        kind: type[ReformerPreTrainedModel] = getattr(models, self.model_name)
        return kind

    def settings_for(self, settings: ModelSettings) -> ModelSettings:
        """Settings of a model for it: what reads both ways is not causal."""
        return replace(settings, causal=False) if self.causal is False else settings

    @abstractmethod
    def read(self, length: int, say: Say) -> Corpus | StreamedCorpus | Examples:
        """What to train on and what is held out, where the windows or examples have at most `length` tokens.

        Raises InputError for text that does not fit, and where there is none to train on.
        """

    def windows(self, windows: Dataset[Any], tokenizer: Tokenizer, seed: int, held_out: bool) -> Dataset[Any]:
        """What the model gets for windows of text."""
        return windows

    @abstractmethod
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
        """The scores that its users read, of all its text; `advance` is told what is done.

        Raises InputError for text that does not fit the task or the model, and where there is none.
        """

    def collate(self, text: Corpus | StreamedCorpus | Examples) -> Callable[[Any], dict[str, Tensor]]:
        """Windows or examples to a batch."""
        from reformer.data.batches import ExampleCollate

        return ExampleCollate(text.tokenizer.pad)
