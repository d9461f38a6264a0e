"""`reformer generate`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from reformer.cli.parse import parse
from reformer.ops.checks import check_integer


@dataclass
class Generate:
    """Write text with a model, as it comes."""

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    prompt: str = ""
    """Text to go on from."""
    max_new_tokens: int = 300
    """Bytes to write."""
    temperature: float = 1.0
    """Sharpness of sampling; 0 takes the likeliest byte each time."""
    top_k: int | None = None
    """Sample among the k likeliest bytes."""
    top_p: float | None = None
    """Sample among the likeliest bytes that together have this probability."""
    seed: int | None = None
    """Seed of sampling."""


def run(argv: Sequence[str]) -> None:
    """Parse, load, write."""
    command = parse(Generate, argv, "generate")
    check_integer("max-new-tokens", command.max_new_tokens, 1)
    if command.temperature and not 0.01 <= command.temperature <= 100:
        raise ValueError(f"temperature={command.temperature} must be 0 (the likeliest byte), or from 0.01 to 100")
    if command.seed is not None:
        check_integer("seed", command.seed, 0, 2**63 - 1)
    if command.top_k is not None:
        check_integer("top-k", command.top_k, 1)
    if command.top_p is not None and not 0 < command.top_p <= 1:
        raise ValueError(f"top-p={command.top_p} must be above 0 and at most 1")

    from reformer.cli.quiet import quiet_libraries
    from reformer.training.checkpoint import load_checkpoint
    from reformer.training.generate import Sampling, check_room, generate_text

    quiet_libraries()
    model = load_checkpoint(command.model)
    sampling = Sampling(command.temperature, command.top_k, command.top_p, command.seed)
    prompt = command.prompt.encode("utf-8", "surrogateescape")
    check_room(model, prompt, command.max_new_tokens)
    _write(prompt.decode("utf-8", "replace"))
    generate_text(model, prompt, command.max_new_tokens, _write, sampling)
    _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
