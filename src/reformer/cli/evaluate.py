"""`reformer evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from reformer.cli.parse import parse
from reformer.ops.checks import check_integer

if TYPE_CHECKING:
    from reformer.data.corpus import Document
    from reformer.training.evaluate import Evaluation


PICTURES = (".png", ".svg", ".pdf")


@dataclass
class Evaluate:
    """Measure models on whole files: loss, bits per byte, perplexity, accuracy.

    Each token is predicted once, from those in front of it in its window.

    Without files, the text is what train holds out of the standard library.
    """

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    files: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, folders or patterns of text, as for train."""
    against: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="DIR")] = ()
    """Another model, side by side; give it several times for several."""
    field: str = "text"
    """Field of the text in .jsonl, .parquet and datasets folders."""
    length: Annotated[int | None, tyro.conf.arg(metavar="TOKENS")] = None
    """Window; the length of training unless given."""
    stride: Annotated[int | None, tyro.conf.arg(metavar="TOKENS")] = None
    """Tokens from one window to the next: all but the first tokens see at least length - stride others."""
    batch_size: int = 1
    """Windows at a time."""
    stream: bool = False
    """Predict each token from all of its file in front of it, a piece at a time: any size, constant activations."""
    piece: Annotated[int, tyro.conf.arg(metavar="TOKENS")] = 8192
    """Tokens computed at a time with --stream."""
    per_document: bool = False
    """A line for each document too."""
    per_position: bool = False
    """The loss against the tokens of context: whether a longer context helps."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None
    """Draw the loss against the tokens of context."""
    json: bool = False
    """Print JSON."""


def run(argv: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    command = parse(Evaluate, argv, "evaluate")
    _check(command)

    from reformer.cli.quiet import quiet_libraries
    from reformer.data.corpus import read_documents, split_held_out, standard_library
    from reformer.data.settings import DataSettings
    from reformer.report.evaluation import Measured, as_json, as_text

    quiet_libraries()
    folders = [command.model, *command.against]
    runs = [_run_of(folder) for folder in folders]
    documents = read_documents(command.files, command.field) if command.files else []
    if not command.files:
        documents = split_held_out(standard_library(), DataSettings(**runs[0].get("data", {})).held_out)[1]
    lengths = [command.length or int(run.get("training", {}).get("length", 2048)) for run in runs]
    found = [_evaluate(command, folder, documents, length) for folder, length in zip(folders, lengths, strict=True)]
    measured = [
        Measured(str(folder), _context(command, length, result), result)
        for folder, length, result in zip(folders, lengths, found, strict=True)
    ]
    show = as_json if command.json else as_text
    print(show(measured, documents, command.per_document, command.per_position))
    if command.plot is not None:
        from reformer.report.positions import plot_positions

        plot_positions(dict(zip(map(str, folders), found, strict=True)), command.plot)


def _context(command: Evaluate, length: int, result: "Evaluation") -> dict[str, int]:
    if command.stream:
        return {"cache_bytes": result.cache_bytes}
    return {"length": length, "stride": command.stride or length - 1}


def _check(command: Evaluate) -> None:
    check_integer("batch-size", command.batch_size, 1)
    check_integer("piece", command.piece, 1)
    if command.length is not None:
        check_integer("length", command.length, 2)
    if command.stride is not None:
        check_integer("stride", command.stride, 1)
    if command.stream and (command.length is not None or command.batch_size != 1 or command.stride is not None):
        raise ValueError("stream takes each file whole, one at a time; leave --length, --stride and --batch-size out")
    if command.plot is not None and command.plot.suffix not in PICTURES:
        kinds = ", ".join(PICTURES)
        raise ValueError(
            f"plot={command.plot}: {command.plot.suffix or 'no suffix'} is no kind of picture; give {kinds}"
        )
    if command.plot is not None and not command.plot.resolve().parent.is_dir():
        raise ValueError(f"plot={command.plot}: its folder does not exist; make it first")


def _run_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The run file of a model, if it has one; lists as tuples."""
    from reformer.training.checkpoint import read_config
    from reformer.training.run_file import read_run_file

    read_config(folder)
    path = folder / "run.toml"
    tables = read_run_file(path) if path.exists() else {}
    return {
        table: {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        for table, values in tables.items()
    }


def _evaluate(command: Evaluate, folder: Path, documents: Sequence["Document"], length: int) -> "Evaluation":
    from rich.console import Console
    from rich.progress import Progress

    from reformer.data.tokens import tokens_of
    from reformer.training.checkpoint import load_checkpoint
    from reformer.training.evaluate import evaluate, evaluate_stream

    model, tokens = load_checkpoint(folder), tokens_of(folder)
    console = Console(stderr=True)
    size = sum(len(document.text) for document in documents) if tokens.per_byte else None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"evaluating {folder}", total=size)

        def advance(n: int) -> None:
            progress.advance(task, n)

        if command.stream:
            return evaluate_stream(model, documents, command.piece, tokens=tokens, advance=advance)
        return evaluate(
            model,
            documents,
            length,
            stride=command.stride,
            tokens=tokens,
            batch_size=command.batch_size,
            advance=advance,
        )
