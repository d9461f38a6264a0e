"""`reformer train`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import tyro

from reformer.cli.flags import DataFlags, ModelFlags, TrainingFlags
from reformer.cli.parse import parse
from reformer.data.sources import STANDARD_INPUT
from reformer.errors import InputError, RunError
from reformer.ops.cpu.ahead import compile_ahead_unless_kept
from reformer.settings.data import BPE, HUB
from reformer.settings.model import ModelSettings
from reformer.settings.presets import describe_presets, load_preset
from reformer.settings.run_file import RUN_FILE, Run, Tables, lay, read_run_file
from reformer.settings.training import TrainingSettings
from reformer.tasks import tasks
from reformer.training.processes import is_main_process, process_count

if TYPE_CHECKING:
    from reformer.data.task import Task


@dataclass
class Train:
    """Train a model on bytes or tokens of text; --task says what it is to learn.

    Settings are the preset's, above them the run file's, above them the flags'.

    Without files, the text is the source of the Python standard library.
    """

    paths: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, folders or patterns of text: plain, .gz, .jsonl, .parquet, a folder of datasets, - for standard input."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the model and its checkpoints; it must not hold another run."""
    preset: str | None = None
    """Settings that ship with the package; without a name, lists them."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="TOML")] = None
    """Run file with the tables [model], [data] and [training]."""
    resume: Annotated[str | None, tyro.conf.arg(metavar="auto|DIR")] = None
    """Go on with the run in --out: from its last checkpoint (auto; a fresh run if there is none), or from one."""
    overwrite: bool = False
    """Replace the run that the folder holds."""
    dry_run: bool = False
    """Print the plan, in memory and FLOPs, and train nothing."""
    training: TrainingFlags = field(default_factory=TrainingFlags)
    data: DataFlags = field(default_factory=DataFlags)
    model: ModelFlags = field(default_factory=ModelFlags)


def run(argv: Sequence[str]) -> None:
    """Parse, train, save."""
    if _lists_presets(argv):
        print(describe_presets())
        return
    tables = _tables(argv)
    flags = {"model": ModelFlags, "data": DataFlags, "training": TrainingFlags}
    default = Train(**{table: kind(**tables.get(table, {})) for table, kind in flags.items()})
    command = parse(Train, argv, "train", default)
    given = {table: vars(getattr(command, table)) for table in flags}
    if command.paths:
        given["data"] = {**given["data"], "files": command.paths}
    run = Run.of(given, tasks())
    _check(command, run)
    if not command.dry_run:
        compile_ahead_unless_kept()

    from reformer.cli.quiet import quiet_libraries
    from reformer.training.run import check_fit

    quiet_libraries(offline=not any(given.startswith(HUB) for given in run.data.files))
    task = cast("Task", run.data)
    if command.dry_run:
        from reformer.training.plan import plan

        settings = task.settings_for(run.model)
        check_fit(settings, run.training, 0, task)
        print(plan(_with_vocabulary(settings, run.data.tokenizer), run.training))
        return
    _train(command, run, task)


def _train(command: Train, run: Run, task: "Task") -> None:
    from reformer.cli.report import Page
    from reformer.data.tokenizer import tokenizer_of
    from reformer.training.finetune import check_init
    from reformer.training.folder import check_out
    from reformer.training.run import check_fit, check_launched, find_checkpoint, train

    assert command.out is not None
    check_launched(run.training)
    if is_main_process():
        check_out(command.out, command.overwrite, command.resume is not None)
    resume = find_checkpoint(command.out, command.resume, say) if command.resume else None
    if command.resume and resume is None:
        say(f"{command.out} has no checkpoint yet: starting afresh")
    init = run.training.init
    settings = task.settings_for(run.model)
    check_fit(settings, run.training, 0, task)
    if init is not None:
        check_init(init, settings, task.model_class)
    text = task.read(run.training.length, say)
    if init is not None and tokenizer_of(Path(init)).identity != text.tokenizer.identity:
        raise InputError(f"tokenizer={task.tokenizer!r} is not that of {init}; leave it out")
    page = Page(command.out)
    try:
        trained = train(
            text,
            settings,
            run.training,
            command.out,
            task=task,
            overwrite=command.overwrite,
            resume=resume,
            say=say,
            watch=page.now_and_then,
        )
    except BaseException:
        page.write()
        raise
    if is_main_process():
        if not run.training.fsdp:
            _measure(task, trained, text, run.training, command.out)
        problem = page.write()
        say(f"report: {page.path}" if problem is None else f"report: not written ({problem})")


def _measure(task: Any, model: Any, text: Any, training: TrainingSettings, out: Path) -> None:
    """Put what is found of a model beside it; the model is saved, and nothing that fails here is worth more."""
    from reformer.report.findings import write_findings

    try:
        write_findings(out, _find(task, model, text, training))
    except (InputError, RunError, OSError, RuntimeError) as error:
        say(f"not measured for the report ({' '.join(str(error).split())[:200]})")


def _find(task: Any, model: Any, text: Any, training: TrainingSettings) -> dict[str, Any]:
    """What is measured behind a training: of a task on rows its scores; of text losses by position, and samples."""
    if not text.held_out:
        return {}
    if task.scored_when_trained:
        scores = task.measure(model, text.tokenizer, text.held_out, batch_size=training.batch_size).scores
        say("held out: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        return {"scores": scores}
    if task.task != "lm" or process_count() > 1:  # windows that processes share may be too long for one
        return {}
    from reformer.report.findings import measure

    return measure(model, text.tokenizer, text.held_out, training.length, training.eval_tokens)


def _check(command: Train, run: Run) -> None:
    if command.resume is not None and command.overwrite:
        raise InputError("resume goes on with a run and overwrite replaces it; give one of them")
    if command.overwrite and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        raise InputError("overwrite would replace the run that torchrun starts again; give --resume auto instead")
    if command.dry_run and not cast("Task", run.data).in_windows:
        raise InputError(f"dry-run plans lm and mlm, not task={run.data.task!r}; train a few --steps instead")
    if command.dry_run:
        return
    if command.out is None:
        raise InputError("--out is missing; name the folder for the model")
    if not command.out.name:
        raise InputError(f"--out {command.out} has no name of its own; name a folder for the model")
    if run.training.lora and run.training.init is None:
        raise InputError("lora trains beside frozen weights; name the model that has them with --init")
    if STANDARD_INPUT in (*run.data.files, *run.data.held_out_files) and process_count() > 1:
        raise InputError("- is standard input, which several processes cannot share; write the text to a file")


def _with_vocabulary(settings: ModelSettings, tokenizer: str) -> ModelSettings:
    """Settings with the number of tokens that a tokenizer has, or will have."""
    from reformer.data.tokenizer import load_tokenizer

    bpe = tokenizer.startswith(BPE)
    size = int(tokenizer.removeprefix(BPE)) if bpe else load_tokenizer(tokenizer).vocabulary
    return replace(settings, vocab_size=size) if settings.vocab_size is None else settings


def say(message: str) -> None:
    """Progress of the main process goes to standard error."""
    if is_main_process():
        print(message, file=sys.stderr, flush=True)


def _lists_presets(argv: Sequence[str]) -> bool:
    """Whether --preset has no name behind it."""
    return any(
        word == "--preset" and (following is None or following.startswith("-"))
        for word, following in zip(argv, [*argv[1:], None], strict=True)
    )


def _tables(argv: Sequence[str]) -> Tables:
    """What the resumed run, the preset, the model to go on from and the run file say, each above those before."""
    out, init = _value(argv, "--out"), _value(argv, "--init")
    preset, config = _value(argv, "--preset"), _value(argv, "--config")
    layers: list[Tables] = []
    if _value(argv, "--resume") and out and (Path(out) / RUN_FILE).exists():
        layers.append(read_run_file(Path(out) / RUN_FILE, tasks()))
    if preset:
        layers.append(load_preset(preset))
    if init:
        layers.append(_model_of(Path(init)))
    if config:
        layers.append(read_run_file(Path(config), tasks()))
    tables: Tables = {}
    for layer in layers:
        tables = lay(tables, layer, say, tasks())
    chosen = {"model": ("rule", "local_rule"), "data": ("task",)}
    flags = {
        table: {name: value for name in names if (value := _value(argv, f"--{name.replace('_', '-')}"))}
        for table, names in chosen.items()
    }
    return lay(tables, flags, say, tasks())


def _model_of(folder: Path) -> Tables:
    """What a trained model is, and its tokenizer."""
    from reformer.data.tokenizer import name_of
    from reformer.training.checkpoint import read_config

    config = read_config(folder)
    names = {entry.name for entry in fields(ModelSettings)}
    model = {key: tuple(x) if isinstance(x, list) else x for key, x in config.items() if key in names}
    model = ModelSettings.as_asked(model, config.get("left_open", ()))
    return {"model": model, "data": {"tokenizer": name_of(folder)}}


def _value(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag that says where the other flags' defaults come from."""
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None
