"""`reformer evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reformer.cli.parse import parse
from reformer.ops.checks import check_integer


@dataclass
class Evaluate:
    """Measure a model on whole files: loss, bits per byte, perplexity, accuracy.

    Each byte is predicted once, from the bytes in front of it in its window. Without files, the text is the part
    of the Python standard library's source that `reformer train` holds out.
    """

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files or folders of text."""
    length: Annotated[int | None, tyro.conf.arg(metavar="TOKENS")] = None
    """Window; the length of training unless given."""
    batch_size: int = 1
    """Windows at a time."""
    stream: bool = False
    """Predict each byte from all of its file in front of it, a piece at a time: any size, constant activations."""
    piece: Annotated[int, tyro.conf.arg(metavar="TOKENS")] = 8192
    """Tokens computed at a time with --stream."""
    json: bool = False
    """Print JSON."""


def run(argv: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    command = parse(Evaluate, argv, "evaluate")
    check_integer("batch-size", command.batch_size, 1)
    check_integer("piece", command.piece, 1)
    if command.length is not None:
        check_integer("length", command.length, 2)
    if command.stream and (command.length is not None or command.batch_size != 1):
        raise ValueError("stream takes each file whole, one at a time; leave --length and --batch-size out")

    from rich.console import Console
    from rich.progress import Progress

    from reformer.cli.quiet import quiet_libraries
    from reformer.data.corpus import read_documents, split_held_out, standard_library
    from reformer.training.checkpoint import load_checkpoint
    from reformer.training.evaluate import evaluate, evaluate_stream
    from reformer.training.folder import RUN_FILE
    from reformer.training.run_file import read_run_file
    from reformer.training.settings import TrainingSettings

    quiet_libraries()
    model = load_checkpoint(command.model)
    run_file = command.model / RUN_FILE
    tables = read_run_file(run_file) if run_file.exists() else {}
    training = TrainingSettings(**tables.get("training", {}))
    documents = read_documents(command.files)
    if not command.files:
        documents = split_held_out(standard_library(), training.held_out)[1]
    length = command.length or training.length
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=sum(len(document.text) for document in documents))

        def advance(n: int) -> None:
            progress.advance(task, n)

        more: dict[str, int] = {"length": length}
        context = f"windows of {length:,} tokens"
        if command.stream:
            result, cache = evaluate_stream(model, documents, command.piece, advance=advance)
            more, context = {"cache_bytes": cache}, f"each in one context; a cache of up to {cache / 2**20:,.1f} MiB"
        else:
            result = evaluate(model, documents, length, batch_size=command.batch_size, advance=advance)
    if command.json:
        print(json.dumps({**asdict(result), **more, "files": [document.name for document in documents]}))
        return
    print(
        f"bytes          {result.bytes:,} in {len(documents):,} files, {context}\n"
        f"loss           {result.loss:.4f} nats a byte\n"
        f"bits per byte  {result.bits_per_byte:.4f}\n"
        f"perplexity     {result.perplexity:.3f}\n"
        f"accuracy       {result.accuracy:.4f}"
    )
