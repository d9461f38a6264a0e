"""Text from a byte-level model, piece by piece, through transformers' `generate`."""

from collections.abc import Callable
from dataclasses import dataclass
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


class _Writer(BaseStreamer):
    """Decodes each new token and hands on the text; the prompt is left out."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write, self.decoder, self.prompt_seen = write, ByteDecoder(), False

    def put(self, value: Tensor) -> None:
        if self.prompt_seen and (text := self.decoder.feed(int(value))):
            self.write(text)
        self.prompt_seen = True

    def end(self) -> None:
        if rest := self.decoder.finish():
            self.write(rest)


def generate_text(
    model: ReformerForCausalLM,
    prompt: bytes,
    max_new_tokens: int,
    write: Callable[[str], object],
    sampling: Sampling | None = None,
) -> None:
    """Write the text behind a prompt as it comes; it ends at the end token or after `max_new_tokens` bytes.

    Raises ValueError for a prompt that leaves no room under a hard limit of positions.
    """
    sampling = sampling or Sampling()
    check_room(model, prompt, max_new_tokens)
    tokens = torch.tensor([[END, *encode(prompt).tolist()]], device=model.device)
    options: dict[str, Any] = {"do_sample": sampling.temperature > 0, "suppress_tokens": [PAD, UNKNOWN]}
    if sampling.temperature > 0:
        options |= {"temperature": sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p or 1.0}
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    model.generate(  # type: ignore[misc]
        tokens, max_new_tokens=max_new_tokens, streamer=_Writer(write), pad_token_id=PAD, **options
    )


def check_room(model: ReformerForCausalLM, prompt: bytes, max_new_tokens: int) -> None:
    """ValueError when prompt and new bytes are over a hard limit of positions."""
    limit, size = model.config.settings.length_limit, len(prompt) + 1  # the end token stands in front
    if limit is not None and size + max_new_tokens > limit:
        raise ValueError(
            f"the prompt's {size} tokens and {max_new_tokens} new ones are over {limit}, the longest document of this "
            "model; shorten one of them"
        )
