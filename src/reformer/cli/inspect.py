"""`reformer inspect`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reformer.cli.parse import parse
from reformer.errors import InputError
from reformer.ops.checks import check_integer


@dataclass
class Inspect:
    """Write a page that shows what a model's attention does with a text.

    The text coloured by bucket; a click on a token shows what it attends to, with weights, and what is delivered.
    Prints the page's path.
    """

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    text: tyro.conf.Positional[str]
    """A file; - is standard input."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="HTML")] = None
    """Where the page goes; unless given, inspect.html in the model's folder."""
    length: Annotated[int, tyro.conf.arg(metavar="TOKENS")] = 16_384
    """The first tokens of the text."""
    layer: int | None = None
    """One layer alone, from 0; all LSH layers unless given."""


def run(argv: Sequence[str]) -> None:
    """Parse, look, write, print the path."""
    command = parse(Inspect, argv, "inspect")
    check_integer("length", command.length, 2)

    from reformer.cli.quiet import quiet_libraries
    from reformer.data.sources import STANDARD_INPUT
    from reformer.data.tokenizer import tokenizer_of
    from reformer.report.inspect import about_text, inspect_page, room_for
    from reformer.report.labels import read_tokens
    from reformer.report.live import write_page
    from reformer.report.look import look
    from reformer.training.checkpoint import load_model

    quiet_libraries()
    model, tokenizer = load_model(command.model), tokenizer_of(command.model)
    limit = model.config.settings.length_limit
    most = command.length if limit is None else min(command.length, limit)
    tokens, labels, more = read_tokens(command.text, tokenizer, most)
    if len(labels) < 2:
        raise InputError(f"{command.text} has {len(labels)} tokens; give a text of two or more")
    settings = model.config.settings
    heads = settings.num_attention_heads * (1 if command.layer is not None else settings.num_hidden_layers)
    matches, rounds = room_for(len(labels), heads, settings.lsh.in_evaluation().rounds)
    layers = look(model, tokens, matches=matches, layer=command.layer)
    name = "standard input" if command.text == STANDARD_INPUT else Path(command.text).name
    title = f"{name}, read by {command.model.resolve().name}"
    path = command.out or command.model / "inspect.html"
    write_page(path, inspect_page(title, about_text(len(labels), more, layers), labels, layers, rounds))
    print(path)
