"""Our checkpoints in lm-evaluation-harness: `python -m reformer.interop.lm_eval --model reformer ...`.

Every option of `lm_eval` is as it is there; this only registers the model first.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401 - registers the others, before ours
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows
from torch import Tensor
from tqdm import tqdm

from reformer.data.tokenizer import tokenizer_of
from reformer.errors import InputError
from reformer.inference.generate import generate_text
from reformer.inference.sampling import Sampling
from reformer.models.cache import ReformerCache, why_not_cached
from reformer.ops.checks import check_integer
from reformer.training.checkpoint import load_checkpoint


@register_model("reformer")
class ReformerEval(TemplateLM):
    """A model in a folder, for lm-eval; arguments are those of `--model_args`.

    `pretrained`: the folder. `max_length`: tokens of context; longer documents are scored in windows as lm-eval
    rolls them, in constant memory. 0: no window (but the longest document that the positions allow), each document is
    one context, `piece` tokens computed at a time over the cache. `max_gen_toks`: tokens to write where a task does
    not say.
    Raises InputError for a folder that holds no model, and for `max_length=0` with a model that has no cache.
    """

    def __init__(
        self,
        pretrained: str,
        max_length: int = 8192,
        piece: int = 8192,
        max_gen_toks: int = 256,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_integer("max_length", max_length, 0)
        check_integer("piece", piece, 1)
        check_integer("max_gen_toks", max_gen_toks, 1)
        folder = Path(pretrained)
        self.model, self.tokenizer = load_checkpoint(folder), tokenizer_of(folder)
        if device:
            torch.nn.Module.to(self.model, device)
        limit = self.model.config.settings.length_limit
        self.max_length = min(max_length or limit or 0, limit or max_length)
        self.piece, self.max_gen_toks = piece, max_gen_toks
        self.cached = why_not_cached(self.model.config.settings) is None
        if not self.max_length and not self.cached:
            reason = why_not_cached(self.model.config.settings)
            raise InputError(f"max_length=0 needs a model with a cache, and this one has none ({reason})")

    @property
    def eot_token_id(self) -> int:
        """What stands in front of a document."""
        return self.tokenizer.end

    @property
    def tokenizer_name(self) -> str:
        """Part of lm-eval's names of files."""
        return self.tokenizer.identity

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokens of a text, without special ones."""
        return [int(token) for token in self.tokenizer.encode([string.encode()])[0]]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole documents, nats."""
        sums = []
        for request in tqdm(requests, desc="documents", disable=disable_tqdm):
            tokens = self.tok_encode(request.args[0])
            windows: Iterable[tuple[list[int], list[int]]] = [([self.eot_token_id, *tokens[:-1]], tokens)]
            if self.max_length:
                windows = get_rolling_token_windows(tokens, self.eot_token_id, self.max_length, context_len=1)
            sums.append(sum(self._score([*seen, new[-1]], len(new))[0] for seen, new in windows if new))
        return sums

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return [
            self._score([*context, *continuation], len(continuation))
            for _, context, continuation in tqdm(requests, desc="requests", disable=disable_tqdm)
        ]

    def _score(self, tokens: list[int], count: int) -> tuple[float, bool]:
        """The log-likelihood of the last `count` tokens, and whether each was the likeliest."""
        if not count:
            return 0.0, True
        if self.max_length:
            if count > self.max_length:
                raise InputError(
                    f"a continuation has {count} tokens, over max_length={self.max_length}; give a larger one, or 0"
                )
            tokens = tokens[-self.max_length - 1 :]
        text = torch.tensor([tokens], device=self.model.device)
        nll, correct = (torch.cat(parts)[-count:] for parts in zip(*self._pieces(text), strict=True))
        return -float(nll.double().sum()), bool(correct.all())

    def _pieces(self, text: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Losses of all tokens but the first, `piece` at a time where the model has a cache."""
        length = text.shape[1] - 1
        piece = self.piece if self.cached else length
        cache = ReformerCache(self.model.config, room=length) if length > piece else None
        for start in range(0, length, piece):
            part = text[:, start : start + piece + 1]
            scored = self.model.score(part[:, :-1], part[:, 1:], past_key_values=cache)
            yield scored.nll[0], scored.correct[0]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Text behind each context, up to a stop text."""
        continuations = []
        for request in tqdm(requests, desc="texts", disable=disable_tqdm):
            context, options = request.args
            until = options.get("until") or []
            stop = [text.encode() for text in ([until] if isinstance(until, str) else until)]
            temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
            new = int(options.get("max_gen_toks", self.max_gen_toks))
            parts: list[str] = []
            sampling = Sampling(temperature, top_p=options.get("top_p"), stop=stop)
            prompt = self._room_for(context.encode(), new)
            generate_text(self.model, prompt, new, parts.append, sampling, tokenizer=self.tokenizer)
            text = "".join(parts)
            ends = [at for stopper in stop if (at := text.find(stopper.decode())) >= 0]
            continuations.append(text[: min(ends)] if ends else text)
        return continuations

    def _room_for(self, prompt: bytes, new: int) -> bytes:
        """The end of a prompt that leaves room for so many tokens and the one in front."""
        tokens = self.tokenizer.encode([prompt])[0]
        room = self.max_length - new - 1
        if not self.max_length or len(tokens) <= room:
            return prompt
        if room < 1:
            raise InputError(f"{new} new tokens leave no room in max_length={self.max_length}; give a larger one, or 0")
        return self.tokenizer.as_bytes(tokens[-room:].tolist())


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
