"""What the tasks on running text share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from reformer.data.task import Say, Task
from reformer.ops.checks import check_choice

if TYPE_CHECKING:
    from torch import Tensor

    from reformer.data.examples import Examples
    from reformer.data.prepare import Corpus


@dataclass(kw_only=True)
class WindowTask(Task):
    """A task on windows of running text; without files, of the source of the Python standard library."""

    documents: Literal["join", "apart"] = "join"
    """Whether a token sees the documents in front of its own in a window."""

    in_windows = True
    unit_is_token = True
    evaluating: ClassVar[dict[str, Any]] = {"logits_to_keep": 1}

    def __post_init__(self) -> None:
        check_choice("documents", self.documents, ("join", "apart"))
        super().__post_init__()

    def read(self, length: int, say: Say) -> Corpus:
        """The corpus, prepared for every length."""
        from reformer.data.corpus import standard_library_sources
        from reformer.data.prepare import prepare

        corpus = prepare(self, sources=None if self.files else standard_library_sources(), say=say)
        say(f"{len(corpus.train):,} tokens to train on, {len(corpus.held_out):,} held out")
        return corpus

    def collate(self, text: Corpus | Examples) -> Callable[[Any], dict[str, Tensor]]:
        """Windows to a batch, documents apart if asked for."""
        from reformer.data.windows import Collate

        return Collate(text.tokenizer, apart=self.documents == "apart", shifted=bool(self.causal))
