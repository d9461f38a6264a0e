"""One answer as it is written: tokens, text but for what may be the beginning of a stop, log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reformer.data.tokenizer import Tokenizer
from reformer.inference.sampling import Chooser


@dataclass(frozen=True)
class TokenLogprob:
    """What the model thought of a token, and of those that it thought likeliest."""

    token: str
    logprob: float | None
    """None: nothing stood in front of it."""
    top: dict[str, float]
    offset: int
    """Characters of the text in front of it."""


@dataclass(frozen=True)
class Piece:
    """What came to an answer since its last piece."""

    index: int
    """The answer's number in its request."""
    text: str = ""
    logprobs: Sequence[TokenLogprob] = ()
    finish: str | None = None
    """At the end: "stop" or "length"."""
    tokens: int = 0
    """At the end: how many were written."""


class Answer:
    """An answer to a prompt; `take` chooses its next token.

    `logprobs`: how many of the likeliest tokens are told beside the chosen one; None: nothing is.
    """

    def __init__(
        self,
        index: int,
        prompt: Sequence[int],
        longest: int,
        chooser: Chooser,
        stop: Sequence[str],
        tokenizer: Tokenizer,
        *,
        logprobs: int | None = None,
        offset: int = 0,
    ) -> None:
        self.index, self.longest, self.chooser, self.stop = index, longest, chooser, [one for one in stop if one]
        self.tokenizer, self.decoder, self.logprobs = tokenizer, tokenizer.decoder(), logprobs
        self.text = torch.empty(1, len(prompt) + longest, dtype=torch.long, device=chooser.generator.device)
        self.text[0, : len(prompt)] = torch.as_tensor(prompt)
        self.prompt, self.length = len(prompt), len(prompt)
        self.offset = offset  # of what is withheld
        self.withheld, self.told = "", list[TokenLogprob]()

    @property
    def written(self) -> int:
        """Tokens of the answer."""
        return self.length - self.prompt

    @property
    def last(self) -> int:
        """The token that the model has yet to see."""
        return int(self.text[0, self.length - 1])

    def take(self, logits: Float[Tensor, "v"]) -> Piece:
        """Choose the next token by the logits behind the last one."""
        token = self.chooser.choose(self.text[:, : self.length], logits)
        self.text[0, self.length] = token
        self.length += 1
        if self.logprobs is not None:
            place = self.offset + len(self.withheld)
            self.told.append(tell(self.tokenizer, logits.float().log_softmax(-1), token, self.logprobs, place))
        if token == self.tokenizer.end:
            return self._finish("stop")
        self.withheld += self.decoder.feed(token)
        if (cut := self._stopped()) is not None:
            self.told = [one for one in self.told if one.offset < self.offset + cut]
            self.withheld = self.withheld[:cut]
            return self._give(len(self.withheld), "stop")
        if self.written == self.longest:
            return self._finish("length")
        return self._give(len(self.withheld) - self._beginning())

    def _finish(self, reason: str) -> Piece:
        """All that is left, unless it ends in a stop."""
        self.withheld += self.decoder.finish()
        if (cut := self._stopped()) is not None:
            self.withheld, reason = self.withheld[:cut], "stop"
        return self._give(len(self.withheld), reason)

    def _give(self, characters: int, finish: str | None = None) -> Piece:
        text, self.withheld = self.withheld[:characters], self.withheld[characters:]
        self.offset += characters
        whole = finish is not None or not self.withheld
        told = [one for one in self.told if whole or one.offset < self.offset]
        self.told = self.told[len(told) :]
        return Piece(self.index, text, told, finish, 0 if finish is None else self.written)

    def _stopped(self) -> int | None:
        """Where the first stop begins."""
        found = [at for at in map(self.withheld.find, self.stop) if at >= 0]
        return min(found, default=None)

    def _beginning(self) -> int:
        """Characters at the end that a stop begins with."""
        longest = 0
        for stop in self.stop:
            for size in range(min(len(stop) - 1, len(self.withheld)), longest, -1):
                if self.withheld.endswith(stop[:size]):
                    longest = size
                    break
        return longest


def tell(tokenizer: Tokenizer, logprobs: Float[Tensor, "v"], token: int, top: int, offset: int) -> TokenLogprob:
    """A token's log-probability and the `top` likeliest ones'."""
    values, tokens = logprobs.topk(min(top, len(logprobs)))
    own = float(logprobs[token])
    told = {spelled(tokenizer, token): own}
    for one, value in zip(tokens.tolist(), values.tolist(), strict=True):
        if one != token:
            name = spelled(tokenizer, one)
            told[f"token_id:{one}" if name in told else name] = value  # parts of characters may be spelled alike
    return TokenLogprob(spelled(tokenizer, token), own, told, offset)


def spelled(tokenizer: Tokenizer, token: int) -> str:
    """A token as a string: its text, or its bytes where they are none."""
    known = tokenizer.as_bytes([token])
    if not known:
        return f"token_id:{token}"
    try:
        return known.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in known)
