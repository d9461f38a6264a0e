"""`reformer serve`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from reformer.cli.parse import parse
from reformer.errors import InputError
from reformer.settings.serving import ServerSettings

if TYPE_CHECKING:
    from reformer.data.tokenizer import Tokenizer
    from reformer.inference.serve.engine import Engine
    from reformer.models import ReformerForCausalLM

NEEDED = ("uvicorn", "starlette", "prometheus_client")


@dataclass
class Serve:
    """Answer requests over HTTP with a model, as OpenAI's completions; a prompt is read once, answered many times.

    Ctrl-C or SIGTERM lets the answers that are being written come to their end.
    """

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    settings: tyro.conf.OmitArgPrefixes[ServerSettings]


def run(argv: Sequence[str]) -> None:
    """Load, read what is to be known at the start, serve."""
    command = parse(Serve, argv, "serve")
    settings = command.settings
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(f"serve needs {', '.join(missing)}; pip install 'reformer-torch[serve]'")
    token = _token(settings.token_file)
    text = None if settings.prompt_file is None else _text(settings.prompt_file)
    if settings.prefixes is not None and not settings.prefixes.is_dir():
        raise InputError(f"prefixes={settings.prefixes} is no folder; make it first")

    from reformer.cli.quiet import quiet_libraries
    from reformer.data.tokenizer import tokenizer_of
    from reformer.inference.serve.app import Server
    from reformer.inference.serve.engine import Engine
    from reformer.inference.serve.prefixes import Prefixes
    from reformer.inference.serve.run import serve
    from reformer.training.checkpoint import load_model, need_language_model

    quiet_libraries()
    model = need_language_model(load_model(command.model), command.model)
    tokenizer, prefixes = tokenizer_of(command.model), Prefixes(settings.prefix_bytes)
    engine = Engine(model, tokenizer, prefixes, rows=settings.rows, queue=settings.queue)
    _fill(engine, model, tokenizer, settings, text)
    name = command.model.resolve().name
    try:
        serve(Server(engine, tokenizer, name, settings, token), _say)
    finally:
        if settings.prefixes is not None:
            for line in prefixes.save(settings.prefixes, model):
                _say(line)


def _fill(
    engine: "Engine",
    model: "ReformerForCausalLM",
    tokenizer: "Tokenizer",
    settings: ServerSettings,
    text: bytes | None,
) -> None:
    """Prompts that are known from the start."""
    from reformer.inference.serve.exchange import tokens_of

    if settings.prefixes is not None:
        for line in engine.prefixes.load(settings.prefixes, model):
            _say(line)
    if text is not None:
        tokens = tokens_of(text, tokenizer)
        if len(tokens) > settings.max_prompt:
            raise InputError(f"prompt-file has {len(tokens):,} tokens, over max-prompt={settings.max_prompt:,}")
        _say(f"reading {settings.prompt_file} ({len(tokens):,} tokens)")
        engine.preload(tokens)


def _text(path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"prompt-file={path} cannot be read ({error.strerror})") from None
    if not text:
        raise InputError(f"prompt-file={path} is empty")
    return text


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text("ascii").strip()
    except OSError as error:
        raise InputError(f"token-file={path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise InputError(f"token-file={path} must hold one word of ASCII characters")
    return token


def _say(line: str) -> None:
    print(f"reformer: {line}", file=sys.stderr, flush=True)
