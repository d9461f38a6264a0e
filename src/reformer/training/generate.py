"""Text from a byte-level model, piece by piece, through transformers' `generate`."""

from collections.abc import Iterator
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from reformer.data.byte_tokens import END, PAD, UNKNOWN, ByteDecoder, encode
from reformer.models import ReformerForCausalLM


@dataclass(frozen=True)
class Sampling:
    """How the next byte is chosen."""

    temperature: float = 1.0
    """0 takes the likeliest."""
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None


class _Tokens(BaseStreamer):
    """Hands tokens from the thread that generates to the one that prints; the prompt is left out."""

    def __init__(self) -> None:
        self.queue: Queue[int | BaseException | None] = Queue()
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self.prompt_seen:
            self.queue.put(int(value))
        self.prompt_seen = True

    def end(self) -> None:
        self.queue.put(None)


def generate_text(
    model: ReformerForCausalLM, prompt: bytes, max_new_tokens: int, sampling: Sampling | None = None
) -> Iterator[str]:
    """Yield the text behind a prompt as it comes; it ends at the end token or after `max_new_tokens` bytes.

    Raises ValueError for a prompt that leaves no room under a hard limit of positions.
    """
    sampling = sampling or Sampling()
    tokens = torch.tensor([[END, *encode(prompt).tolist()]], device=model.device)
    limit = model.config.settings.length_limit
    if limit is not None and tokens.shape[1] + max_new_tokens > limit:
        raise ValueError(
            f"the prompt's {tokens.shape[1]} tokens and {max_new_tokens} new ones are over {limit}, the longest "
            "document of this model; shorten one of them"
        )
    options: dict[str, Any] = {"do_sample": sampling.temperature > 0, "suppress_tokens": [PAD, UNKNOWN]}
    if sampling.temperature > 0:
        options |= {"temperature": sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p or 1.0}
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    streamer = _Tokens()

    def work() -> None:
        try:
            model.generate(  # type: ignore[misc]
                tokens, max_new_tokens=max_new_tokens, streamer=streamer, pad_token_id=PAD, **options
            )
        except BaseException as error:
            streamer.queue.put(error)

    Thread(target=work, daemon=True).start()
    decoder = ByteDecoder()
    while (item := streamer.queue.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        if text := decoder.feed(item):
            yield text
    if rest := decoder.finish():
        yield rest
