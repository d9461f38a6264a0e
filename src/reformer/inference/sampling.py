"""How the next token is chosen: what `generate` and the server have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from reformer.models.dry import DryLogitsProcessor


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 1.0
    """0 takes the likeliest."""
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    """What the logit of a token loses that was written already."""
    frequency_penalty: float = 0.0
    """What it loses for each time that it was written."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """What is added to logits of tokens."""
    dry_multiplier: float | None = None
    """Strength of the penalty on going on with a repeated sequence (`DryLogitsProcessor`)."""
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    seed: int | None = None
    stop: Sequence[bytes] = ()
    """Texts behind which to stop."""

    def processors(self, unwanted: Sequence[int], prompt: int) -> LogitsProcessorList:
        """What happens to logits behind a prompt of so many tokens, in transformers' order, ours in front of warpers.

        `unwanted`: tokens that are never chosen.
        """
        steps: list[LogitsProcessor] = []
        if self.repetition_penalty is not None and self.repetition_penalty != 1:
            steps.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if unwanted:
            steps.append(SuppressTokensLogitsProcessor(unwanted))
        if self.presence_penalty or self.frequency_penalty or self.logit_bias:
            steps.append(_Penalties(self, prompt))
        if self.dry_multiplier:
            names = ("multiplier", "base", "allowed_length", "penalty_last_n")
            options = {name: getattr(self, f"dry_{name}") for name in names}
            steps.append(DryLogitsProcessor(**{name: value for name, value in options.items() if value is not None}))
        if self.temperature > 0:
            steps += self._warpers()
        return LogitsProcessorList(steps)

    def _warpers(self) -> list[LogitsProcessor]:
        steps: list[LogitsProcessor] = []
        if self.temperature != 1:
            steps.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            steps.append(TopKLogitsWarper(self.top_k))
        if self.top_p is not None and self.top_p < 1:
            steps.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            steps.append(MinPLogitsWarper(self.min_p))
        return steps


class _Penalties(LogitsProcessor):
    """Those of OpenAI's interface, on what was written behind the prompt, and what is added to logits."""

    def __init__(self, sampling: Sampling, prompt: int) -> None:
        self.prompt, self.sampling = prompt, sampling
        self.tokens = torch.tensor(list(sampling.logit_bias), dtype=torch.long)
        self.bias = torch.tensor(list(sampling.logit_bias.values()))

    def __call__(self, input_ids: Int[Tensor, "b l"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        times = torch.zeros_like(scores)
        new = input_ids[:, self.prompt :]
        times.scatter_add_(1, new, torch.ones_like(new, dtype=scores.dtype))
        penalty = self.sampling.frequency_penalty * times + self.sampling.presence_penalty * (times > 0)
        biased = scores - penalty
        if len(self.tokens):
            biased[:, self.tokens.to(scores.device)] += self.bias.to(scores)
        return biased


class Chooser:
    """Chooses one answer's tokens, with randomness of its own: `generate`'s with the same seed."""

    def __init__(self, sampling: Sampling, unwanted: Sequence[int], prompt: int, device: torch.device) -> None:
        self.processors = sampling.processors(unwanted, prompt)
        self.greedy = not sampling.temperature > 0
        self.generator = torch.Generator(device)
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed)

    def choose(self, text: Int[Tensor, "1 l"], logits: Float[Tensor, "v"]) -> int:
        """The next token behind a text."""
        scores = self.processors(text, logits[None].float())  # type: ignore[arg-type]
        if self.greedy:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))
