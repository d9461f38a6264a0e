"""`reformer generate`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from reformer.cli.parse import parse
from reformer.errors import InputError
from reformer.ops.checks import check_integer

if TYPE_CHECKING:
    from reformer.data.tokenizer import Tokenizer
    from reformer.inference.sampling import Sampling


_OF_SAMPLING: dict[str, Any] = {
    "load_cache": None,
    "save_cache": None,
    "stop": (),
    "temperature": 1.0,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "repetition_penalty": None,
    "dry_multiplier": None,
    "dry_base": None,
    "dry_allowed_length": None,
    "dry_penalty_last_n": None,
    "seed": None,
}
"""What beam search has no use for, and the values that say so."""


@dataclass
class Generate:
    """Write text with a model, as it comes.

    A model that translates writes a target for each line of the prompt.

    On a terminal it asks for prompts; Ctrl-C ends a text, Ctrl-D the program.
    """

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    prompt: str | None = None
    """Text to go on from; without any, the start of a text (or, on a terminal, what you type)."""
    prompt_file: Path | None = None
    """File with that text, or - for standard input."""
    load_cache: Path | None = None
    """Go on behind the text of this file, which --save-cache wrote; the prompt follows it."""
    save_cache: Path | None = None
    """Write the whole text and its cache here; with --max-new-tokens 0 the prompt alone."""
    max_new_tokens: int | None = None
    """Tokens to write, 300 unless given, or twice the source: bytes, unless the model has a tokenizer."""
    beams: int | None = None
    """Targets that beam search keeps at a time, 5 unless given (a model that translates)."""
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")] = ()
    """Text behind which to stop; give it several times for several texts."""
    temperature: float = 1.0
    """Sharpness of sampling; 0 takes the likeliest token each time."""
    top_k: int | None = None
    """Sample among the k likeliest tokens."""
    top_p: float | None = None
    """Sample among the likeliest tokens that together have this probability."""
    min_p: float | None = None
    """Sample among the tokens of at least this share of the likeliest one's probability."""
    repetition_penalty: float | None = None
    """Divide the logits of tokens that the text has already; 1 changes nothing."""
    dry_multiplier: float | None = None
    """Lower the logits of tokens that go on with a repeated sequence, against loops; 0.8 to 1 is usual."""
    dry_base: float | None = None
    """How fast that grows with each further token of the repetition, 1.75 unless given."""
    dry_allowed_length: int | None = None
    """Tokens that may be repeated for nothing, 8 unless given."""
    dry_penalty_last_n: int | None = None
    """Tokens in which repetitions are looked for, the last 64 unless given; copies from further back stay free."""
    seed: int | None = None
    """Seed of sampling."""


def run(argv: Sequence[str]) -> None:
    """Parse, load, write."""
    command = parse(Generate, argv, "generate")
    _check(command)
    prompt = _read_prompt(command)

    from reformer.cli.quiet import quiet_libraries
    from reformer.data.tokenizer import tokenizer_of
    from reformer.inference.sampling import Sampling
    from reformer.models import ReformerForConditionalGeneration
    from reformer.training.checkpoint import load_model, need_language_model

    quiet_libraries()
    model, tokenizer = load_model(command.model), tokenizer_of(command.model)
    if isinstance(model, ReformerForConditionalGeneration):
        _translate(command, model, tokenizer, prompt)
        return
    if command.beams is not None:
        raise InputError(f"beams is for models that translate, and {command.model} is a language model; leave it out")
    model = need_language_model(model, command.model)
    stop = [text.encode("utf-8", "surrogateescape") for text in command.stop]
    chosen = {name: getattr(command, name) for name in _OF_SAMPLING if not name.endswith("_cache")}
    sampling = Sampling(**{**chosen, "stop": stop})
    if prompt is not None:
        _write_text(command, model, tokenizer, sampling, prompt)
        return
    print("Type a text to go on from; Ctrl-C ends an answer, Ctrl-D the program.", file=sys.stderr)
    while (line := _ask()) is not None:
        try:
            _write_text(command, model, tokenizer, sampling, line.encode("utf-8", "surrogateescape"))
        except KeyboardInterrupt:
            print(file=sys.stderr)
        except InputError as error:
            print(f"reformer: {error}", file=sys.stderr)


def _translate(command: Generate, model: Any, tokenizer: "Tokenizer", prompt: bytes | None) -> None:
    """A target for each line, in its order."""
    from reformer.tasks.translate import BEAMS, translated

    unused = [name for name, default in _OF_SAMPLING.items() if getattr(command, name) != default]
    if unused:
        raise InputError(
            f"{unused[0].replace('_', '-')} is for language models; {command.model} translates by beam search: "
            "leave it out"
        )

    def write(lines: Sequence[str]) -> None:
        options = {"beams": command.beams or BEAMS, "longest": command.max_new_tokens}
        targets = iter(translated(model, [line for line in lines if line.strip()], tokenizer, **options))
        for line in lines:
            _write(f"{next(targets) if line.strip() else ''}\n")

    if prompt is not None:
        lines = prompt.decode("utf-8", "replace").removesuffix("\n").split("\n")
        if not any(lines):
            raise InputError("there is nothing to translate; give --prompt or --prompt-file")
        write(lines)
        return
    print("Type a line to translate; Ctrl-D ends the program.", file=sys.stderr)
    while (line := _ask()) is not None:
        write([line])


def _ask() -> str | None:
    """A line from the terminal that is not empty; None at its end."""
    while True:
        try:
            if line := input("> "):
                return line
        except KeyboardInterrupt:
            print(file=sys.stderr)
        except EOFError:
            print(file=sys.stderr)
            return None


def _write_text(command: Generate, model: Any, tokenizer: "Tokenizer", sampling: "Sampling", prompt: bytes) -> None:
    from reformer.inference.generate import check_room, generate_text

    new = 300 if command.max_new_tokens is None else command.max_new_tokens
    check_room(model, len(tokenizer.encode([prompt])[0]) + 1, new)
    speed = generate_text(
        model,
        prompt,
        new,
        _write,
        sampling,
        tokenizer=tokenizer,
        echo=True,
        load=command.load_cache,
        save=command.save_cache,
    )
    _write("\n")
    if speed.new:
        rate = f", then {(speed.new - 1) / speed.rest_s:,.1f} tokens a second" if speed.new > 1 else ""
        print(
            f"{speed.new:,} tokens behind {speed.prompt:,}: the first after {speed.first_s:.2f} s{rate}",
            file=sys.stderr,
        )


def _check(command: Generate) -> None:
    if command.max_new_tokens is not None:
        check_integer("max-new-tokens", command.max_new_tokens, 0)
    if command.beams is not None:
        check_integer("beams", command.beams, 1)
    if command.max_new_tokens == 0 and command.save_cache is None:
        raise InputError("max-new-tokens=0 computes a prompt for --save-cache; give that too, or ask for a token")
    if command.temperature and not 0.01 <= command.temperature <= 100:
        raise InputError(f"temperature={command.temperature} must be 0 (the likeliest token), or from 0.01 to 100")
    if command.seed is not None:
        check_integer("seed", command.seed, 0, 2**63 - 1)
    if command.top_k is not None:
        check_integer("top-k", command.top_k, 1)
    for name, value in (("top-p", command.top_p), ("min-p", command.min_p)):
        if value is not None and not 0 < value <= 1:
            raise InputError(f"{name}={value} must be above 0 and at most 1")
    if command.repetition_penalty is not None and not command.repetition_penalty > 0:
        raise InputError(f"repetition-penalty={command.repetition_penalty} must be above 0")
    _check_dry(command)
    for name in ("top_k", "top_p", "min_p", "seed"):
        if not command.temperature and getattr(command, name) is not None:
            flag = name.replace("_", "-")
            raise InputError(
                f"temperature=0 takes the likeliest token, so --{flag} has no effect; leave one of them out"
            )
    if "" in command.stop:
        raise InputError("stop='' ends every text at once; give a text")
    if command.prompt is not None and command.prompt_file is not None:
        raise InputError("prompt and prompt-file are both given; give one of them")
    if command.save_cache is not None and not command.save_cache.resolve().parent.is_dir():
        raise InputError(f"save-cache={command.save_cache}: its folder does not exist; make it first")


def _check_dry(command: Generate) -> None:
    for name, least in (("multiplier", 0), ("base", 1), ("allowed_length", 1), ("penalty_last_n", 2)):
        value, flag = getattr(command, f"dry_{name}"), f"dry-{name.replace('_', '-')}"
        if value is not None and not value >= least:
            raise InputError(f"{flag}={value} must be at least {least}")
        if value is not None and name != "multiplier" and not command.dry_multiplier:
            raise InputError(f"{flag}={value} has no effect without --dry-multiplier; give 0.8, say")


def _read_prompt(command: Generate) -> bytes | None:
    """The prompt; None where a person is to be asked for it."""
    if command.prompt is None and command.prompt_file is None:
        alone = command.load_cache is None and command.save_cache is None
        return None if alone and sys.stdin.isatty() and sys.stdout.isatty() else b""
    if command.prompt_file is None:
        prompt, name = (command.prompt or "").encode("utf-8", "surrogateescape"), "prompt"
    elif str(command.prompt_file) == "-":
        prompt, name = sys.stdin.buffer.read(), "standard input"
    else:
        try:
            prompt, name = command.prompt_file.read_bytes(), str(command.prompt_file)
        except OSError as error:
            raise InputError(f"{command.prompt_file} cannot be read ({error.strerror})") from None
    if not prompt:
        raise InputError(f"the {name} is empty; give at least one byte, or no prompt at all for the start of a text")
    return prompt


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
