"""What the tasks on running text share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from reformer.data.task import Say, Task
from reformer.ops.checks import check_choice, check_integer

if TYPE_CHECKING:
    from torch import Tensor

    from reformer.data.examples import Examples
    from reformer.data.prepare import Corpus
    from reformer.data.streaming import StreamedCorpus


@dataclass(kw_only=True)
class WindowTask(Task):
    """A task on windows of running text; without files, of the source of the Python standard library."""

    documents: Literal["join", "apart"] = "join"
    """Whether a token sees the documents in front of its own in a window."""
    stream_data: bool = False
    """Read the text as it comes and prepare nothing; files may be hf:NAME,CONFIG:SPLIT too, a dataset of the Hub."""
    shuffle_tokens: int = 1 << 24
    """Tokens of a streamed text that are shuffled at a time; it is this much memory, twice or four times in bytes."""

    in_windows = True
    unit_is_token = True
    evaluating: ClassVar[dict[str, Any]] = {"logits_to_keep": 1}

    def __post_init__(self) -> None:
        check_choice("documents", self.documents, ("join", "apart"))
        check_integer("shuffle_tokens", self.shuffle_tokens, 1)
        super().__post_init__()

    def read(self, length: int, say: Say) -> Corpus | StreamedCorpus:
        """The corpus, prepared for every length, or to be read as it comes."""
        from reformer.data.corpus import standard_library_sources
        from reformer.data.open_stream import open_stream
        from reformer.data.prepare import Corpus, prepare

        sources = None if self.files else standard_library_sources()
        if self.stream_data:
            corpus = open_stream(self, self.shuffle_tokens, say, sources)
        else:
            corpus = prepare(self, sources=sources, say=say)
        if isinstance(corpus, Corpus):
            say(f"{len(corpus.train):,} tokens to train on, {len(corpus.held_out):,} held out")
        return corpus

    def collate(self, text: Corpus | StreamedCorpus | Examples) -> Callable[[Any], dict[str, Tensor]]:
        """Windows to a batch, documents apart if asked for."""
        from reformer.data.windows import Collate

        return Collate(text.tokenizer, apart=self.documents == "apart", shifted=bool(self.causal))
