"""What a server is given, and its limits."""

import math
from dataclasses import dataclass
from pathlib import Path

from reformer.errors import InputError
from reformer.ops.checks import check_integer

GIB = 1 << 30


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and its limits."""

    host: str = "127.0.0.1"
    """Address to listen at; 127.0.0.1 is this machine alone, 0.0.0.0 any that reaches it."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    prompt_file: Path | None = None
    """Text that is read once, at the start; a request whose prompt begins with it goes on behind it."""
    prefixes: Path | None = None
    """Folder where the caches of prompts are kept from one run to the next."""
    prefix_gib: float = 4.0
    """Memory for the caches of prompts, GiB; the one that was used longest ago goes first."""
    rows: int = 8
    """Answers that are written at a time, so the most to one prompt too; they share each step."""
    queue: int = 64
    """Answers that may wait for their turn; who asks for more is told to come again (429)."""
    max_prompt: int = 1 << 20
    """Longest prompt, tokens."""
    max_tokens: int = 4096
    """Longest answer, tokens."""
    max_prompts: int = 64
    """Most prompts of one request."""
    max_body: int = 1 << 24
    """Largest request, bytes."""
    timeout: float = 600.0
    """Seconds that a request may take, waiting included."""
    drain: float = 30.0
    """Seconds that answers have to come to their end once the server is told to stop (SIGTERM, Ctrl-C)."""
    token_file: Path | None = None
    """File with the token that requests must show (Authorization: Bearer); without one everybody may ask."""
    log_prompts: bool = False
    """Write prompts and answers to the log too."""

    def __post_init__(self) -> None:
        check_integer("port", self.port, 0, 65535)
        for name in ("rows", "max_prompt", "max_tokens", "max_prompts"):
            check_integer(name.replace("_", "-"), getattr(self, name), 1)
        check_integer("queue", self.queue, 0)
        check_integer("max-body", self.max_body, 1024)
        for name, least in (("prefix_gib", 0.0), ("timeout", 0.01), ("drain", 0.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise InputError(f"{name.replace('_', '-')}={value} must be a number of at least {least}")

    @property
    def prefix_bytes(self) -> int:
        """`prefix_gib` in bytes."""
        return int(self.prefix_gib * GIB)
