"""One prompt and the answers that are wanted of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from reformer.data.tokenizer import TextDecoder, Tokenizer
from reformer.inference.sampling import Chooser, Sampling
from reformer.inference.serve.answer import Answer, Piece, TokenLogprob, spelled, tell
from reformer.inference.serve.prefixes import Tokens
from reformer.models.cache import ReformerCache


@dataclass(frozen=True)
class Begun:
    """The prompt was read."""

    index: int
    """The first answer's number."""
    known: int
    """Tokens of the prompt that were known before."""
    logprobs: Sequence[TokenLogprob] = ()
    """Those of the prompt, if they were asked for."""


@dataclass(frozen=True)
class Failed:
    """No more is to come."""

    message: str


Event = Begun | Piece | Failed


@dataclass(eq=False)
class Job:
    """A prompt to read; its answers are rows of the engine's batch."""

    prompt: Tokens
    index: int
    """The number of its first answer in the request."""
    n: int
    longest: int
    """Tokens of an answer at most; 0: the prompt alone is wanted."""
    sampling: Sampling
    stop: Sequence[str]
    tell: Callable[[Event], None]
    """Takes what happens, in the engine's thread."""
    logprobs: int | None = None
    of_prompt: bool = False
    """Whether log-probabilities of the prompt are wanted too."""
    offset: int = 0
    """Characters in front of an answer, where the prompt is echoed."""
    hidden_start: bool = True
    """Whether the first token is the start of a text, which is no part of it."""
    cancelled: bool = False
    known: int = 0
    fork: int | None = None
    """Where in the prompt its cache is to be kept."""
    cache: ReformerCache | None = None
    told: list[TokenLogprob] = field(default_factory=list)
    decoder: TextDecoder | None = None
    read: int = 0
    """Characters of the prompt whose log-probabilities are told."""

    @property
    def rows(self) -> int:
        """Rows of the batch that its answers need."""
        return self.n if self.longest else 0

    def answers(self, tokenizer: Tokenizer, unwanted: Sequence[int], device: torch.device) -> list[Answer]:
        """Its answers, none of which has begun; the seed of each is one more than that of the one before."""
        seed = self.sampling.seed
        return [
            Answer(
                index,
                self.prompt.tolist(),
                self.longest,
                Chooser(
                    replace(self.sampling, seed=None if seed is None else (seed + index) % 2**63),
                    unwanted,
                    len(self.prompt),
                    device,
                ),
                self.stop,
                tokenizer,
                logprobs=self.logprobs,
                offset=self.offset,
            )
            for index in range(self.index, self.index + self.n)
        ]

    def note(self, tokenizer: Tokenizer, start: int, logits: torch.Tensor) -> None:
        """Log-probabilities of the tokens behind those from `start` on, whose logits [k, v] these are."""
        assert self.logprobs is not None
        following = self.prompt[start + 1 : start + 1 + len(logits)].tolist()
        decoder = self.decoder = self.decoder or tokenizer.decoder()
        if not start and not self.hidden_start:
            self.told.append(TokenLogprob(spelled(tokenizer, int(self.prompt[0])), None, {}, 0))
            self.read = len(decoder.feed(int(self.prompt[0])))
        for token, scores in zip(following, logits.float().log_softmax(-1), strict=False):
            self.told.append(tell(tokenizer, scores, token, self.logprobs, self.read))
            self.read += len(decoder.feed(token))
