"""`reformer evaluate`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from reformer.cli.parse import parse
from reformer.errors import InputError, RunError, lost_peer
from reformer.ops.checks import check_integer
from reformer.settings.json_file import first_name
from reformer.tasks import task_of, tasks
from reformer.tasks.lm import LanguageModelling
from reformer.training.processes import is_main_process, launched, process_count

if TYPE_CHECKING:
    from reformer.data.corpus import Document
    from reformer.data.task import Task
    from reformer.inference.evaluate import Evaluation
    from reformer.models import SequenceParallel


PICTURES = (".png", ".svg", ".pdf")

_OF_TASKS = ("field", "label_field", "source", "target", "beams")
"""Flags that some tasks have a use for."""


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
    behind: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH")] = ()
    """Text in front of each file: files, folders or patterns, read once, one behind the other (--stream)."""
    save_cache: Path | None = None
    """Write what was read of --behind here."""
    load_cache: Path | None = None
    """In place of --behind: what --save-cache wrote, here or in generate."""
    piece: Annotated[int, tyro.conf.arg(metavar="TOKENS")] = 8192
    """Tokens computed at a time with --stream."""
    sequence_parallel: bool = False
    """Predict each token from all of its file in front of it, in one forward that torchrun's processes share."""
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
    beams: int | None = None
    """Targets that beam search keeps at a time, 5 unless given (translate)."""
    answers: Annotated[Path | None, tyro.conf.arg(metavar="JSONL")] = None
    """Write what the model answers, one JSON value a row (classify, tag, qa, translate)."""


def run(argv: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    command = parse(Evaluate, argv, "evaluate")
    command.stream = command.stream or _has_front(command)
    _check(command)
    if command.sequence_parallel:
        _run_in_parts(command)
        return
    _run(command)


def _run(command: Evaluate, processes: "SequenceParallel | None" = None) -> None:
    from reformer.cli.quiet import quiet_libraries
    from reformer.data.corpus import read_documents, split_held_out, standard_library
    from reformer.report.evaluation import Measured, as_json, as_text

    quiet_libraries()
    folders = [command.model, *command.against]
    runs = [_run_of(folder) for folder in folders]
    task = _task_of(command.model, runs[0])
    if task is not LanguageModelling:
        _run_task(command, task, runs[0])
        return
    data, _ = _asked(command, LanguageModelling, runs[0].get("data", {}))
    documents = read_documents(data.files, data.field, data.raw) if data.files else []
    if not data.files:
        documents = split_held_out(standard_library(), data.held_out)[1]
    lengths = [command.length or int(run.get("training", {}).get("length", 2048)) for run in runs]
    front = read_documents(command.behind, data.field, data.raw) if command.behind else []
    results = [
        _evaluate(command, folder, front, documents, length, processes)
        for folder, length in zip(folders, lengths, strict=True)
    ]
    if not is_main_process():
        return
    measured = [
        Measured(str(folder), _context(command, length, result), result)
        for folder, length, result in zip(folders, lengths, results, strict=True)
    ]
    show = as_json if command.json else as_text
    print(show(measured, documents, command.per_document, command.per_position))
    if command.plot is not None:
        from reformer.report.positions import plot_positions

        plot_positions(dict(zip(map(str, folders), results, strict=True)), command.plot)


def _task_of(folder: Path, run: dict[str, dict[str, Any]]) -> "type[Task]":
    """What a model was trained for, or where nothing says so, the task of its class."""
    from reformer.training.checkpoint import read_config

    architecture = first_name(read_config(folder), "architectures", "")
    trained = tasks().get(run.get("data", {}).get("task", ""))
    if trained is not None and trained.model_name == architecture:
        return trained
    return task_of(architecture) or LanguageModelling


def _run_task(command: Evaluate, kind: "type[Task]", run: dict[str, dict[str, Any]]) -> None:
    """Measure a model of another task than the next token."""
    from reformer.data.tokenizer import tokenizer_of
    from reformer.report.tasks import result_as_json, result_as_text, write_answers
    from reformer.training.checkpoint import load_model

    whole = command.stream or command.sequence_parallel
    if any((command.against, whole, command.plot, command.per_document, command.per_position, command.stride)):
        raise InputError(
            f"{command.model} is a model for task={kind.task!r}; --against, --stream, --behind, --load-cache, --plot, "
            "--stride, --sequence-parallel, --per-document and --per-position are for language models"
        )
    if command.answers is not None and kind.in_windows:
        raise InputError(f"--answers is for tasks on rows, and {command.model} is for task={kind.task!r}; leave it out")
    task, options = _asked(command, kind, run.get("data", {}))
    model, tokenizer = load_model(command.model), tokenizer_of(command.model)
    length = command.length or int(run.get("training", {}).get("length", 2048))
    with _progress(f"evaluating {command.model}", None) as advance:
        result = task.evaluate(model, tokenizer, length, batch_size=command.batch_size, advance=advance, **options)
    print(result_as_json(str(command.model), kind.task, result) if command.json else result_as_text(result))
    if command.answers is not None:
        write_answers(command.answers, result.answers)


def _asked(command: Evaluate, kind: "type[Task]", trained: dict[str, Any]) -> "tuple[Task, dict[str, Any]]":
    """The task as it was trained, but on the text that the flags name, and options beside it."""
    own = {each.name for each in fields(kind)}
    given = {name: getattr(command, name) for name in _OF_TASKS if getattr(command, name) not in (None, ())}
    for name in given:
        if name not in (*own, *kind.options):
            raise InputError(
                f"--{name.replace('_', '-')} is not for {command.model}, a model for task={kind.task!r}; leave it out"
            )
    text = {name: () for name in own if isinstance(trained.get(name), tuple)}  # of training
    values = {**{name: value for name, value in trained.items() if name in own}, **text, "files": command.files}
    options = {name: given.pop(name) for name in kind.options if name in given}
    return kind(**{**values, **given, "task": kind.task}), options


def _run_in_parts(command: Evaluate) -> None:
    """`_run` in each of the processes that torchrun started."""
    from accelerate import PartialState

    from reformer.models import SequenceParallel

    PartialState()
    try:
        _run(command, SequenceParallel())
    except RuntimeError as error:
        if not lost_peer(error):
            raise
        raise RunError(f"another process is gone or cannot be reached ({str(error).splitlines()[0][:120]})") from error
    PartialState().destroy_process_group()


def _context(command: Evaluate, length: int, result: "Evaluation") -> dict[str, int]:
    if command.sequence_parallel:
        return {"processes": process_count()}
    if command.stream:
        behind = {"behind": result.behind} if _has_front(command) else {}
        return {"cache_bytes": result.cache_bytes, **behind}
    return {"length": length, "stride": command.stride or length - 1}


def _check(command: Evaluate) -> None:
    if command.batch_size is not None:
        check_integer("batch-size", command.batch_size, 1)
    if command.beams is not None:
        check_integer("beams", command.beams, 1)
    if command.answers is not None and not command.answers.resolve().parent.is_dir():
        raise InputError(f"answers={command.answers}: its folder does not exist; make it first")
    check_integer("piece", command.piece, 1)
    if command.length is not None:
        check_integer("length", command.length, 2)
    if command.stride is not None:
        check_integer("stride", command.stride, 1)
    if command.behind and command.load_cache is not None:
        raise InputError("--behind reads what --load-cache has read already; give one of them")
    if command.save_cache is not None and not command.behind:
        raise InputError("--save-cache writes what --behind reads; give that too")
    if command.against and (command.save_cache or command.load_cache):
        raise InputError("a cache belongs to one model; leave --against, or --save-cache and --load-cache, out")
    if command.save_cache is not None and not command.save_cache.resolve().parent.is_dir():
        raise InputError(f"save-cache={command.save_cache}: its folder does not exist; make it first")
    whole = command.stream or command.sequence_parallel
    if whole and (command.length is not None or command.batch_size is not None or command.stride is not None):
        raise InputError(
            "stream, sequence-parallel, behind and load-cache take each file whole, one at a time; leave --length, "
            "--stride and --batch-size out"
        )
    if command.sequence_parallel and command.stream:
        raise InputError("--sequence-parallel has no cache; leave it, or --stream, --behind and --load-cache, out")
    if command.sequence_parallel and not launched():
        raise InputError(
            "--sequence-parallel splits each file over the processes of torchrun, and this is one alone; start it as "
            "torchrun --nproc-per-node 2 -m reformer evaluate ..., or give --stream"
        )
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
    return read_run_file(path, tasks()) if path.exists() else {}


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (console.is_terminal and is_main_process())) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n: progress.advance(task, n)


def _has_front(command: Evaluate) -> bool:
    return bool(command.behind) or command.load_cache is not None


def _evaluate(
    command: Evaluate,
    folder: Path,
    front: Sequence["Document"],
    documents: Sequence["Document"],
    length: int,
    processes: "SequenceParallel | None",
) -> "Evaluation":
    from reformer.data.tokenizer import tokenizer_of
    from reformer.inference.evaluate import evaluate, evaluate_parts, evaluate_stream, read_behind, read_on
    from reformer.models.cache_file import load_cache, save_cache
    from reformer.training.checkpoint import load_checkpoint

    model, tokenizer = load_checkpoint(folder), tokenizer_of(folder)
    size = sum(len(document.text) for document in (*front, *documents)) if tokenizer.per_byte else None
    with _progress(f"evaluating {folder}", size) as advance:
        if processes is not None:
            from accelerate import PartialState

            model.to(PartialState().device)
            return evaluate_parts(model, documents, processes, tokenizer=tokenizer, advance=advance)
        if command.stream:
            behind, room = None, 1 + max((len(document.text) for document in documents), default=0)
            if front:
                behind, tokens = read_behind(model, front, command.piece, room, tokenizer=tokenizer, advance=advance)
                if command.save_cache is not None:
                    save_cache(behind, command.save_cache, model, tokens)
            elif command.load_cache is not None:
                behind, text = load_cache(command.load_cache, model, room=room)
                if text is not None:
                    read_on(model, behind, text, command.piece)
            return evaluate_stream(model, documents, command.piece, tokenizer=tokenizer, behind=behind, advance=advance)
        return evaluate(
            model,
            documents,
            length,
            stride=command.stride,
            tokenizer=tokenizer,
            batch_size=command.batch_size or 1,
            advance=advance,
        )
