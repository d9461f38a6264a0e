"""`reformer train`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import tyro

from reformer.cli.flags import DataFlags, ModelFlags, TrainingFlags
from reformer.cli.parse import parse
from reformer.errors import InputError
from reformer.front import check_run, layers, tell, train_run
from reformer.ops.cpu.ahead import compile_ahead_unless_kept
from reformer.settings.data import BPE, HUB
from reformer.settings.model import ModelSettings
from reformer.settings.presets import describe_presets
from reformer.settings.run_file import Run, Tables, lay
from reformer.tasks import tasks

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
    if not command.dry_run:
        check_run(run, command.out, resume=command.resume is not None, overwrite=command.overwrite)
        compile_ahead_unless_kept()

    from reformer.cli.quiet import quiet_libraries

    quiet_libraries(offline=not any(given.startswith(HUB) for given in run.data.files))
    if command.dry_run:
        _plan(run)
        return
    assert command.out is not None
    train_run(run, command.out, resume=command.resume, overwrite=command.overwrite, say=tell)


def _plan(run: Run) -> None:
    from reformer.training.plan import plan
    from reformer.training.run import check_fit

    task = cast("Task", run.data)
    if not task.in_windows:
        raise InputError(f"dry-run plans lm and mlm, not task={run.data.task!r}; train a few --steps instead")
    settings = task.settings_for(run.model)
    check_fit(settings, run.training, 0, task)
    print(plan(_with_vocabulary(settings, run.data.tokenizer), run.training))


def _with_vocabulary(settings: ModelSettings, tokenizer: str) -> ModelSettings:
    """Settings with the number of tokens that a tokenizer has, or will have."""
    from reformer.data.tokenizer import load_tokenizer

    bpe = tokenizer.startswith(BPE)
    size = int(tokenizer.removeprefix(BPE)) if bpe else load_tokenizer(tokenizer).vocabulary
    return replace(settings, vocab_size=size) if settings.vocab_size is None else settings


def _lists_presets(argv: Sequence[str]) -> bool:
    """Whether --preset has no name behind it."""
    return any(
        word == "--preset" and (following is None or following.startswith("-"))
        for word, following in zip(argv, [*argv[1:], None], strict=True)
    )


def _tables(argv: Sequence[str]) -> Tables:
    """What stands below the flags; those that choose a rule or a task drop what goes with others."""
    asked = {name: _value(argv, f"--{name}") for name in ("preset", "init", "config")}
    out = _value(argv, "--out")
    tables = layers(Path(out) if out else None, bool(_value(argv, "--resume")), tell, **asked)
    chosen = {"model": ("rule", "local_rule"), "data": ("task",)}
    flags = {
        table: {name: value for name in names if (value := _value(argv, f"--{name.replace('_', '-')}"))}
        for table, names in chosen.items()
    }
    return lay(tables, flags, tell, tasks())


def _value(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag that says where the other flags' defaults come from."""
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None
