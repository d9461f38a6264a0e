"""`reformer train`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from reformer.cli.parse import parse
from reformer.presets import load_preset
from reformer.settings import ModelSettings
from reformer.training.processes import is_main_process
from reformer.training.run_file import check_tables, read_run_file
from reformer.training.settings import TrainingSettings


@dataclass
class Train:
    """Train a language model on bytes of text.

    Settings come from the preset, then from the run file, then from the flags. Without files, the text is the
    source of the Python standard library.
    """

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files or folders of text."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the model; it must not hold another run."""
    preset: str | None = None
    """Settings that ship with the package: demo."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="TOML")] = None
    """Run file with the tables [model] and [training]."""
    overwrite: bool = False
    """Replace the run that the folder holds."""
    model: ModelSettings = field(default_factory=ModelSettings.unchecked)
    training: TrainingSettings = field(default_factory=TrainingSettings.unchecked)


def run(argv: Sequence[str]) -> None:
    """Parse, train, save."""
    tables = _tables(argv)
    default = Train(
        model=ModelSettings.unchecked(**_tuples(tables.get("model", {}))),
        training=TrainingSettings.unchecked(**tables.get("training", {})),
    )
    command = parse(Train, argv, "train", default)
    if command.out is None:
        raise ValueError("--out is missing; name the folder for the model")
    if not command.out.name:
        raise ValueError(f"--out {command.out} has no name of its own; name a folder for the model")

    from reformer.cli.quiet import quiet_libraries
    from reformer.data.corpus import read_documents, split_held_out, standard_library
    from reformer.training.folder import check_out
    from reformer.training.run import check_fit, train

    quiet_libraries()
    check_out(command.out, command.overwrite)
    check_fit(command.model, command.training)
    documents = read_documents(command.files) if command.files else standard_library()
    kept, held_out = split_held_out(documents, command.training.held_out)
    if not kept:
        raise ValueError(f"held_out={command.training.held_out} leaves no text to train on; hold out less")
    say(f"{sum(len(d.text) for d in kept):,} bytes to train on, {sum(len(d.text) for d in held_out):,} held out")
    train(kept, command.model, command.training, command.out, overwrite=command.overwrite, say=say)


def say(message: str) -> None:
    """Progress of the main process goes to standard error."""
    if is_main_process():
        print(message, file=sys.stderr, flush=True)


def _tables(argv: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the preset and the run file say, the latter above the former."""
    preset, config = _value(argv, "--preset"), _value(argv, "--config")
    tables = load_preset(preset) if preset else {}
    check_tables(tables, f"preset {preset}")
    for table, values in (read_run_file(Path(config)) if config else {}).items():
        tables[table] = {**tables.get(table, {}), **values}
    return tables


def _value(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag that says where the other flags' defaults come from."""
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
