"""`reformer evaluate`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from reformer.cli.parse import parse
from reformer.errors import InputError
from reformer.ops.checks import check_integer

if TYPE_CHECKING:
    from reformer.data.corpus import Document
    from reformer.training.evaluate import Evaluation


PICTURES = (".png", ".svg", ".pdf")


@dataclass
class Evaluate:
    """Measure models on whole files: loss, bits per byte, perplexity, accuracy.

    Each token is predicted once, from those in front of it in its window.

    A model of another task is measured on rows, by accuracy, F1, exact match, BLEU.

    Without files, the text is what train holds out of the standard library.
    """

    model: tyro.conf.Positional[Path]
    """Folder of the model."""
    files: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, folders or patterns of text, as for train."""
    against: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="DIR")] = ()
    """Another model, side by side; give it several times for several."""
    field: str | None = None
    """Field of the text in .jsonl, .csv, .parquet and datasets folders; that of training unless given."""
    length: Annotated[int | None, tyro.conf.arg(metavar="TOKENS")] = None
    """Window; the length of training unless given."""
    stride: Annotated[int | None, tyro.conf.arg(metavar="TOKENS")] = None
    """Tokens from one window to the next: all but the first tokens see at least length - stride others."""
    batch_size: int | None = None
    """Windows at a time, 1 unless given; or rows of a task, 32."""
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
    label_field: str | None = None
    """Field of the class or of the tags; that of training unless given (classify, tag)."""
    source: tuple[str, ...] = ()
    """Files of sources, one a line (translate)."""
    target: tuple[str, ...] = ()
    """Files of their targets (translate)."""
    beams: int = 5
    """Targets that beam search keeps at a time (translate)."""
    answers: Annotated[Path | None, tyro.conf.arg(metavar="JSONL")] = None
    """Write what the model answers, one JSON value a row (classify, tag, qa, translate)."""


def run(argv: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    command = parse(Evaluate, argv, "evaluate")
    _check(command)

    from reformer.cli.quiet import quiet_libraries
    from reformer.data.corpus import read_documents, split_held_out, standard_library
    from reformer.report.evaluation import Measured, as_json, as_text
    from reformer.settings.data import DataSettings

    quiet_libraries()
    folders = [command.model, *command.against]
    runs = [_run_of(folder) for folder in folders]
    task = _task_of(command.model)
    if task != "lm":
        _run_task(command, task, runs[0])
        return
    field = command.field or runs[0].get("data", {}).get("field", "text")
    documents = read_documents(command.files, field) if command.files else []
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


def _task_of(folder: Path) -> str:
    """The task of a model, by its class."""
    from reformer.training.checkpoint import read_config
    from reformer.training.job import MODELS

    names = {model.__name__: task for task, model in MODELS.items()}
    return names.get((read_config(folder).get("architectures") or [""])[0], "lm")


def _run_task(command: Evaluate, task: str, run: dict[str, dict[str, Any]]) -> None:
    """Measure a model of another task than the next token."""
    from reformer.data.tasks import read_to_evaluate
    from reformer.data.tokens import tokens_of
    from reformer.report.tasks import task_as_json, task_as_text, write_answers
    from reformer.settings.data import DataSettings
    from reformer.training.checkpoint import load_model
    from reformer.training.task_evaluation import evaluate_task

    if any((command.against, command.stream, command.plot, command.per_document, command.per_position, command.stride)):
        raise InputError(
            f"{command.model} is a model for task={task!r}; --against, --stream, --plot, --stride, --per-document and "
            "--per-position are for language models"
        )
    model, tokens = load_model(command.model), tokens_of(command.model)
    length = command.length or int(run.get("training", {}).get("length", 2048))
    if task == "mlm":
        _run_masked(command, model, tokens, length, run.get("data", {}).get("mask", 0.15))
        return
    data = {**run.get("data", {}), "task": task, "files": command.files, "held_out_files": ()}
    data |= {"source": command.source, "target": command.target, "held_out_source": (), "held_out_target": ()}
    data |= {} if command.field is None else {"field": command.field}
    data |= {} if command.label_field is None else {"label_field": command.label_field}
    examples = read_to_evaluate(DataSettings(**data), tokens, model.config.class_names, length)
    with _progress(f"evaluating {command.model}", len(examples)) as advance:
        result = evaluate_task(
            task, model, examples, tokens, batch_size=command.batch_size, beams=command.beams, advance=advance
        )
    print(task_as_json(str(command.model), task, result) if command.json else task_as_text(result))
    if command.answers is not None:
        write_answers(command.answers, result.answers)


def _context(command: Evaluate, length: int, result: "Evaluation") -> dict[str, int]:
    if command.stream:
        return {"cache_bytes": result.cache_bytes}
    return {"length": length, "stride": command.stride or length - 1}


def _check(command: Evaluate) -> None:
    if command.batch_size is not None:
        check_integer("batch-size", command.batch_size, 1)
    check_integer("beams", command.beams, 1)
    if command.answers is not None and not command.answers.resolve().parent.is_dir():
        raise InputError(f"answers={command.answers}: its folder does not exist; make it first")
    check_integer("piece", command.piece, 1)
    if command.length is not None:
        check_integer("length", command.length, 2)
    if command.stride is not None:
        check_integer("stride", command.stride, 1)
    if command.stream and (command.length is not None or command.batch_size is not None or command.stride is not None):
        raise InputError("stream takes each file whole, one at a time; leave --length, --stride and --batch-size out")
    if command.plot is not None and command.plot.suffix not in PICTURES:
        kinds = ", ".join(PICTURES)
        raise InputError(
            f"plot={command.plot}: {command.plot.suffix or 'no suffix'} is no kind of picture; give {kinds}"
        )
    if command.plot is not None and not command.plot.resolve().parent.is_dir():
        raise InputError(f"plot={command.plot}: its folder does not exist; make it first")


def _run_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The run file of a model, if it has one."""
    from reformer.settings.run_file import read_run_file
    from reformer.training.checkpoint import read_config

    read_config(folder)
    path = folder / "run.toml"
    return read_run_file(path) if path.exists() else {}


def _run_masked(command: Evaluate, model: Any, tokens: Any, length: int, share: float) -> None:
    from reformer.data.corpus import read_documents
    from reformer.report.tasks import task_as_json, task_as_text
    from reformer.training.evaluate import evaluate_masked
    from reformer.training.task_evaluation import TaskResult

    if command.answers is not None or not command.files:
        raise InputError(f"{command.model} finds masked tokens in files; give some, and no --answers")
    documents = read_documents(command.files, command.field or "text")
    with _progress(f"evaluating {command.model}", None) as advance:
        score = evaluate_masked(model, documents, length, share, tokens=tokens, advance=advance)
    scores = {"loss": score.loss, "perplexity": score.perplexity, "accuracy": score.accuracy}
    result = TaskResult(scores, [], {"masked tokens": f"{score.tokens:,}"})
    print(task_as_json(str(command.model), "mlm", result) if command.json else task_as_text(result))


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n: progress.advance(task, n)


def _evaluate(command: Evaluate, folder: Path, documents: Sequence["Document"], length: int) -> "Evaluation":
    from reformer.data.tokens import tokens_of
    from reformer.training.checkpoint import load_checkpoint
    from reformer.training.evaluate import evaluate, evaluate_stream

    model, tokens = load_checkpoint(folder), tokens_of(folder)
    size = sum(len(document.text) for document in documents) if tokens.per_byte else None
    with _progress(f"evaluating {folder}", size) as advance:
        if command.stream:
            return evaluate_stream(model, documents, command.piece, tokens=tokens, advance=advance)
        return evaluate(
            model,
            documents,
            length,
            stride=command.stride,
            tokens=tokens,
            batch_size=command.batch_size or 1,
            advance=advance,
        )
