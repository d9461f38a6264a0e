"""`reformer.train`: what `reformer train` does, for Python; the command calls the same functions."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from reformer.data.sources import STANDARD_INPUT
from reformer.data.task import Task
from reformer.errors import InputError
from reformer.ops.checks import nearest
from reformer.settings.model import ModelSettings
from reformer.settings.presets import load_preset
from reformer.settings.run_file import RUN_FILE, Run, Tables, lay, read_run_file
from reformer.settings.training import TrainingSettings
from reformer.tasks import tasks
from reformer.training.processes import is_main_process, process_count

Say = Callable[[str], None]


def tell(message: str) -> None:
    """Progress of the main process goes to standard error."""
    if is_main_process():
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


def train(
    *paths: str | os.PathLike[str],
    out: str | os.PathLike[str],
    preset: str | None = None,
    config: str | os.PathLike[str] | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    say: Say = tell,
    **settings: Any,
) -> Any:
    """Train a model on files or folders of text, save it to the folder `out`, and return it.

    Does what `reformer train` does: without paths the text is the standard library's source; `settings` are the flags
    of the command by their names (`length=4096`, tokens; `steps`, `hidden_size`, `task="classify"`), above those of the
    file `config`, above those of the `preset`. `resume` is "auto" or a checkpoint, `say` takes lines of progress.
    Raises InputError for settings that do not fit, RunError for a run that failed; what was saved before stays.
    """
    folder, asked = Path(out), {"init": settings.get("init"), "preset": preset, "config": config}
    below = layers(folder, resume is not None, say, **{name: str(x) for name, x in asked.items() if x is not None})
    above = _placed(settings)
    if paths:
        above.setdefault("data", {})["files"] = tuple(os.fspath(path) for path in paths)
    run = Run.of(lay(below, above, say, tasks()), tasks())
    check_run(run, folder, resume=resume is not None, overwrite=overwrite)
    return train_run(run, folder, resume=resume, overwrite=overwrite, say=say)


def layers(
    out: Path | None, resuming: bool, say: Say, *, preset: str | None = None, init: str | None = None,
    config: str | None = None,
) -> Tables:  # fmt: skip
    """What the resumed run, the preset, the model to go on from and the run file say, each above those before."""
    found: list[Tables] = []
    if resuming and out is not None and (out / RUN_FILE).exists():
        found.append(read_run_file(out / RUN_FILE, tasks()))
    if preset:
        found.append(load_preset(preset))
    if init:
        found.append(_model_of(Path(init)))
    if config:
        found.append(read_run_file(Path(config), tasks()))
    tables: Tables = {}
    for layer in found:
        tables = lay(tables, layer, say, tasks())
    return tables


def _model_of(folder: Path) -> Tables:
    """What a trained model is, and its tokenizer."""
    from reformer.data.tokenizer import name_of
    from reformer.training.checkpoint import read_config

    config = read_config(folder)
    names = {entry.name for entry in fields(ModelSettings)}
    model = {key: tuple(x) if isinstance(x, list) else x for key, x in config.items() if key in names}
    model = ModelSettings.as_asked(model, config.get("left_open", ()))
    return {"model": model, "data": {"tokenizer": name_of(folder)}}


def _placed(settings: Mapping[str, Any]) -> Tables:
    """Settings in the tables that they belong to. Raises InputError for a name that none has."""
    kinds: dict[str, list[Any]] = {
        "model": [ModelSettings],
        "training": [TrainingSettings],
        "data": [*tasks().values()],
    }
    names = {table: {entry.name for kind in of for entry in fields(kind)} for table, of in kinds.items()}
    placed: Tables = {}
    for name, value in settings.items():
        table = next((table for table, own in names.items() if name in own), None)
        if table is None:
            known = sorted({*names["model"], *names["training"], *names["data"]})
            raise InputError(f"{name} is no setting of a training{nearest(name, known)}")
        placed.setdefault(table, {})[name] = tuple(value) if isinstance(value, list) else value
    return placed


def check_run(run: Run, out: Path | None, *, resume: bool, overwrite: bool) -> None:
    """InputError for what cannot be trained, or not there."""
    if resume and overwrite:
        raise InputError("resume goes on with a run and overwrite replaces it; give one of them")
    if overwrite and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        raise InputError("overwrite would replace the run that torchrun starts again; give --resume auto instead")
    if out is None:
        raise InputError("--out is missing; name the folder for the model")
    if not out.name:
        raise InputError(f"--out {out} has no name of its own; name a folder for the model")
    if run.training.lora and run.training.init is None:
        raise InputError("lora trains beside frozen weights; name the model that has them with --init")
    if STANDARD_INPUT in (*run.data.files, *run.data.held_out_files) and process_count() > 1:
        raise InputError("- is standard input, which several processes cannot share; write the text to a file")


def train_run(run: Run, out: Path, *, resume: str | None, overwrite: bool, say: Say) -> Any:
    """Train what was checked, with a page and findings beside the model; returns the model."""
    from reformer.data.tokenizer import tokenizer_of
    from reformer.report.live import Page
    from reformer.training import run as running
    from reformer.training.finetune import check_init
    from reformer.training.folder import check_out

    task = cast("Task", run.data)
    running.check_launched(run.training)
    if is_main_process():
        check_out(out, overwrite, resume is not None)
    checkpoint = running.find_checkpoint(out, resume, say) if resume else None
    if resume and checkpoint is None:
        say(f"{out} has no checkpoint yet: starting afresh")
    init, settings = run.training.init, task.settings_for(run.model)
    running.check_fit(settings, run.training, 0, task)
    if init is not None:
        check_init(init, settings, task.model_class)
    text = task.read(run.training.length, say)
    if init is not None and tokenizer_of(Path(init)).identity != text.tokenizer.identity:
        raise InputError(f"tokenizer={task.tokenizer!r} is not that of {init}; leave it out")
    page = Page(out)
    try:
        trained = running.train(
            text,
            settings,
            run.training,
            out,
            task=task,
            overwrite=overwrite,
            resume=checkpoint,
            say=say,
            watch=page.now_and_then,
        )
    except BaseException:
        page.write()
        raise
    if is_main_process():
        if not run.training.fsdp:
            _measure(task, trained, text, run.training, out, say)
        problem = page.write()
        say(f"report: {page.path}" if problem is None else f"report: not written ({problem})")
    return trained


def _measure(task: Any, model: Any, text: Any, training: TrainingSettings, out: Path, say: Say) -> None:
    """Put what is found of a model beside it; the model is saved, and nothing that fails here is worth more."""
    from reformer.report.findings import write_findings

    try:
        write_findings(out, _find(task, model, text, training, say))
    except Exception as error:
        say(f"not measured for the report ({' '.join(str(error).split())[:200]})")


def _find(task: Any, model: Any, text: Any, training: TrainingSettings, say: Say) -> dict[str, Any]:
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
