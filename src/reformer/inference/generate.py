"""Text from a model, piece by piece, through transformers' `generate`."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from reformer.data.tokenizer import ByteTokenizer, Tokenizer
from reformer.errors import InputError
from reformer.inference.evaluate import evaluating
from reformer.inference.sampling import Sampling
from reformer.models import ReformerForCausalLM
from reformer.models.cache import ReformerCache, why_not_cached
from reformer.models.cache_file import load_cache, save_cache

FEW = 8_000_000
"""Weights up to which a second thread brings a step less than it loses when something else wants its core."""

PIECE = 8192
"""Tokens of a prompt that are computed at a time: what a long one needs besides its cache."""


@dataclass(frozen=True)
class Speed:
    """What a generation took."""

    prompt: int
    """Tokens in front of the first new one."""
    new: int
    """New tokens."""
    first_s: float
    """Seconds to the first new token."""
    rest_s: float
    """Seconds for those behind it."""


class _Writer(BaseStreamer):
    """Decodes each new token and hands on the text; the prompt is left out."""

    def __init__(self, write: Callable[[str], object], tokenizer: Tokenizer) -> None:
        self.write, self.decoder, self.end_token, self.prompt_seen = write, tokenizer.decoder(), tokenizer.end, False
        self.started, self.first, self.last, self.new = time.perf_counter(), 0.0, 0.0, 0

    def put(self, value: Tensor) -> None:
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        self.last = time.perf_counter()
        self.first = self.first or self.last
        for token in value.flatten().tolist():
            self.new += 1
            if token != self.end_token:
                self._show(self.decoder.feed(token))

    def end(self) -> None:
        self._show(self.decoder.finish())

    def _show(self, text: str) -> None:
        if text:
            self.write(text)


class _Stop(StoppingCriteria):
    """Stops behind certain texts, if they are new."""

    def __init__(self, stop: Sequence[bytes], tokenizer: Tokenizer, prompt: int) -> None:
        self.stop, self.tokenizer, self.prompt = stop, tokenizer, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        longest = max(map(len, self.stop))  # no token is shorter than a byte
        new = input_ids[0, max(self.prompt, input_ids.shape[1] - longest) :].tolist()
        text = self.tokenizer.as_bytes([token for token in new if token != self.tokenizer.end])
        return torch.tensor([any(stop in text for stop in self.stop)], device=input_ids.device)


def generate_text(
    model: ReformerForCausalLM,
    prompt: bytes,
    max_new_tokens: int,
    write: Callable[[str], object],
    sampling: Sampling | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    echo: bool = False,
    load: Path | None = None,
    save: Path | None = None,
) -> Speed:
    """Write the text behind a prompt as it comes; it ends at the end token or after `max_new_tokens` tokens.

    `echo`: write the prompt first. `load`: a file of the text in front of the prompt; `save`: where the cache of the
    whole text goes.
    Raises InputError for a prompt that leaves no room under a hard limit of positions, and for files as `load_cache`.
    """
    reason = why_not_cached(model.config.settings)
    if reason and (load or save):
        raise InputError(f"this model has no cache to load or save ({reason})")
    if not max_new_tokens and not save:
        raise InputError("max-new-tokens=0 makes sense with --save-cache only; ask for at least 1")
    tokenizer = tokenizer or ByteTokenizer()
    writer = _Writer(write, tokenizer)
    text, cache = _start(model, tokenizer, prompt, max_new_tokens, load, reason is None)
    prompt_tokens = text.shape[1]
    options = _options(sampling or Sampling(), tokenizer, unwanted_tokens(model, tokenizer), prompt_tokens)
    if echo:
        write(prompt.decode("utf-8", "replace"))
    seeded = _seeded(sampling.seed if sampling else None, model.device)
    with torch.no_grad(), evaluating(model), seeded, ExitStack() as threads:
        if cache is not None:
            for piece in text[:, cache.seen : -1].split(PIECE, dim=1):
                if piece.shape[1]:
                    model.model(piece, past_key_values=cache)
        if max_new_tokens:
            threads.enter_context(few_threads(model, cache))
            text = model.generate(
                text,
                max_new_tokens=max_new_tokens,
                streamer=writer,
                pad_token_id=tokenizer.pad,
                eos_token_id=tokenizer.end,
                past_key_values=cache,
                use_cache=cache is not None,
                **options,
            )
    if save and cache is not None:
        save_cache(cache, save, model, text)
    return Speed(prompt_tokens, writer.new, writer.first - writer.started, writer.last - writer.first)


def _start(
    model: ReformerForCausalLM, tokenizer: Tokenizer, prompt: bytes, new: int, load: Path | None, cached: bool
) -> tuple[Int[Tensor, "1 l"], ReformerCache | None]:
    """The whole text so far, and the cache of what was computed of it."""
    cache, text = None, torch.tensor([[tokenizer.end]], device=model.device)
    if load is not None:
        cache, prompt_ids = load_cache(load, model)
        if prompt_ids is None or prompt_ids.shape[0] != 1:
            raise InputError(f"{load} has no text of its own beside the cache; give one that --save-cache wrote")
        text = prompt_ids
    added = torch.tensor([tokenizer.encode([prompt])[0].tolist()], dtype=torch.long, device=model.device)
    text = torch.cat((text, added), dim=1)
    check_room(model, text.shape[1], new)
    if cache is None and cached:
        cache = ReformerCache(model.config, room=text.shape[1] + new)
    return text, cache


def _options(sampling: Sampling, tokenizer: Tokenizer, unwanted: Sequence[int], prompt: int) -> dict[str, Any]:
    """Arguments of `generate`: all that changes logits is ours to list."""
    options: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    options["logits_processor"] = sampling.processors(unwanted, prompt)
    if sampling.stop:
        options["stopping_criteria"] = StoppingCriteriaList([_Stop(sampling.stop, tokenizer, prompt)])
    return options


@contextmanager
def few_threads(model: ReformerForCausalLM, cache: ReformerCache | None) -> Iterator[None]:
    """One thread for the steps of a small model over a cache: two wait for each other at every layer."""
    threads = torch.get_num_threads()
    if cache is not None and model.device.type == "cpu" and model.num_parameters() <= FEW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Randomness from a seed; the caller's generators stay as they were."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def unwanted_tokens(model: ReformerForCausalLM, tokenizer: Tokenizer) -> list[int]:
    """Tokens that no text has, and numbers that are no token."""
    return [*tokenizer.unwanted, *range(tokenizer.vocabulary, model.config.vocabulary)]


def check_room(model: ReformerForCausalLM, tokens: int, max_new_tokens: int) -> None:
    """InputError when a text and its new bytes are over a hard limit of positions."""
    limit = model.config.settings.length_limit
    if limit is not None and tokens + max_new_tokens > limit:
        raise InputError(
            f"the prompt's {tokens} tokens and {max_new_tokens} new ones are over {limit}, the longest document of "
            "this model; shorten one of them"
        )
