"""The page of one or more training runs: curves, held-out loss by position, settings, plan, samples."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from reformer.data.tokenizer import ByteTokenizer
from reformer.errors import InputError
from reformer.report.chart import COLOURS, Line, line_chart, number
from reformer.report.page import page, table
from reformer.settings import ModelSettings
from reformer.settings.presets import load_preset, preset_names
from reformer.settings.run_file import RUN_FILE, read_run_file
from reformer.settings.training import TrainingSettings
from reformer.tasks import tasks
from reformer.training.checkpoint import CONFIG, checkpoints, step_of
from reformer.training.folder import is_going_on
from reformer.training.log import LOG, read_log
from reformer.training.plan import plan

REPORT = "report.html"
"""The page in a run's own folder."""

FINDINGS = "findings.json"
"""What was measured at the end of a run, beside its log: losses by position, samples, scores."""

REFRESH = 30
"""Seconds between two looks at a run that goes on."""

CURVES = (
    ("loss", "loss, nats"),
    ("bits_per_token", "bits a {unit}"),
    ("accuracy", "accuracy"),
    ("grad_norm", "gradient norm"),
    ("tokens_per_second", "tokens per second"),
    ("learning_rate", "learning rate"),
)


@dataclass
class RunReport:
    """What there is to say of a run."""

    folder: Path
    tables: Mapping[str, Mapping[str, Any]]
    rows: list[dict[str, Any]]
    state: str
    findings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.folder)

    @property
    def going_on(self) -> bool:
        """Whether steps are still to come from the process that has the folder."""
        return self.state.startswith("going on")


def read_run(folder: Path) -> RunReport:
    """A run's folder, whether it goes on, ended or failed. Raises InputError for a folder that is none of a run."""
    if not (folder / RUN_FILE).is_file():
        raise InputError(f"{folder} is not the folder of a run ({RUN_FILE} is missing)")
    tables = read_run_file(folder / RUN_FILE, tasks())
    rows = read_log(folder / LOG) or _of_checkpoint(folder)
    findings = _findings(folder)
    return RunReport(folder, tables, rows, _state(folder, rows, tables), findings)


def _findings(folder: Path) -> dict[str, Any]:
    """What is well-formed of a file that anyone may have written."""
    try:
        found = json.loads((folder / FINDINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = found if isinstance(found, dict) else {}
    lists = {name: found.get(name) for name in ("positions", "samples")}
    kept: dict[str, Any] = {
        name: [one for one in rows if isinstance(one, dict)] for name, rows in lists.items() if isinstance(rows, list)
    }
    scores = found.get("scores")
    return {**kept, "scores": scores if isinstance(scores, dict) else {}}


def _of_checkpoint(folder: Path) -> list[dict[str, Any]]:
    """The log of a run from before there was one in its folder."""
    found = checkpoints(folder)
    try:
        state = json.loads((found[-1] / "trainer_state.json").read_text(encoding="utf-8")) if found else {}
        return [row for row in state.get("log_history", []) if isinstance(row, dict) and "step" in row]
    except (OSError, ValueError):
        return []


def _state(folder: Path, rows: Sequence[Mapping[str, Any]], tables: Mapping[str, Mapping[str, Any]]) -> str:
    of = int(tables.get("training", {}).get("steps", TrainingSettings().steps))
    step = max((int(row["step"]) for row in rows), default=0)
    if is_going_on(folder):
        return f"going on: step {step:,} of {of:,}"
    if (folder / CONFIG).exists() and step >= of:
        return f"ended after {of:,} steps"
    if (folder / CONFIG).exists():
        return f"ended early, after {step:,} of {of:,} steps; its model is saved"
    saved = checkpoints(folder)
    kept = f"the last checkpoint is that of step {step_of(saved[-1]):,}" if saved else "no checkpoint is kept"
    return f"stopped at step {step:,} of {of:,}; {kept}"


def report(folders: Sequence[Path]) -> str:
    """The page, as HTML. Raises InputError for a folder that is none of a run."""
    runs = [read_run(folder) for folder in folders]
    title = " and ".join(run.folder.resolve().name for run in runs)
    keys = [f'<span class="key" style="background:var(--c{i % COLOURS})"></span>' for i in range(len(runs))]
    about = "<br>".join(
        f"{key if len(runs) > 1 else ''}{escape(run.name)}: {escape(run.state)}"
        for key, run in zip(keys, runs, strict=True)
    )
    parts = [
        f"<h1>{escape(title)}</h1><p class=about>{about}</p>",
        "<h2>Learning</h2>",
        f"<div class=charts>{_curves(runs)}</div>",
        "<p class=about>Solid: the text that is trained on. Dashed: held out.</p>",
        _positions(runs),
        _scores(runs),
        _samples(runs),
        "<h2>Settings</h2>",
        _settings(runs),
        "<h2>What a step takes, worked out</h2>",
        _plans(runs),
    ]
    refresh = REFRESH if any(run.going_on for run in runs) else 0
    return page(f"{title}: a run of reformer", "".join(parts), refresh=refresh)


def _unit(run: RunReport) -> str:
    return "byte" if run.tables.get("data", {}).get("tokenizer", "bytes") == "bytes" else "token"


def _curves(runs: Sequence[RunReport]) -> str:
    unit = _unit(runs[0]) if len({_unit(run) for run in runs}) == 1 else "token"
    charts = []
    for key, label in CURVES:
        lines = []
        for i, run in enumerate(runs):
            for prefix, dashed, name in (("", False, "trained on"), ("eval_", True, "held out")):
                found = [(row["step"], row[prefix + key]) for row in run.rows if _is_number(row.get(prefix + key))]
                if found:
                    xs, ys = zip(*found, strict=True)
                    lines.append(Line(f"{run.name}, {name}", xs, ys, i, dashed))
        charts.append(line_chart(label.format(unit=unit), lines, "steps"))
    return "".join(charts)


def _positions(runs: Sequence[RunReport]) -> str:
    lines = []
    for i, run in enumerate(runs):
        found = [
            one
            for one in run.findings.get("positions", [])
            if _is_number(one.get("loss")) and _is_number(one.get("from"))
        ]
        if found:
            xs, ys = zip(*((one["from"], one["loss"]) for one in found), strict=True)
            lines.append(Line(run.name, xs, ys, i))
    if not lines:
        return ""
    chart = line_chart("held-out loss by tokens of context, nats", lines, "tokens in front", log_x=True)
    return f"<h2>Does a longer context pay?</h2><div class=charts>{chart}</div>"


def _scores(runs: Sequence[RunReport]) -> str:
    scored = [run for run in runs if run.findings.get("scores")]
    if not scored:
        return ""
    names = sorted({name for run in scored for name, value in run.findings["scores"].items() if _is_number(value)})
    rows = [[name, *(number(run.findings["scores"].get(name, float("nan"))) for run in scored)] for name in names]
    return f"<h2>Held out, at the end</h2>{table(rows, ['', *(run.name for run in scored)])}"


def _samples(runs: Sequence[RunReport]) -> str:
    parts = []
    for run in runs:
        for sample in run.findings.get("samples", []):
            head = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
            prompt, text = escape(str(sample.get("prompt", ""))), escape(str(sample.get("text", "")))
            parts.append(f"{head}<pre><b>{prompt}</b>{text}</pre>")
    return (
        f"<h2>Samples</h2><p class=about>Grey: held-out text that is gone on from.</p>{''.join(parts)}" if parts else ""
    )


def _settings(runs: Sequence[RunReport]) -> str:
    """What differs between runs, or from the preset that they are nearest to; the rest folded away."""
    preset, usual = _nearest(runs)
    names = sorted({(part, name) for run in runs for part, values in run.tables.items() for name in values})
    odd: list[list[str]] = []
    same: list[list[str]] = []
    for part, name in names:
        values = [run.tables.get(part, {}).get(name, usual.get(part, {}).get(name)) for run in runs]
        row = [f"{part}.{name}", *map(_shown, values)]
        default = usual.get(part, {}).get(name)
        differs = len({_shown(value) for value in values}) > 1 or (
            name in usual.get(part, {}) and any(_shown(value) != _shown(default) for value in values)
        )
        (odd if differs or part == "data" else same).append([*row, _shown(default) if name in usual[part] else ""])
    heads = ["", *(run.name for run in runs), preset]
    rest = f"<details><summary>{len(same)} settings that are as there</summary>{table(same, heads)}</details>"
    return table(odd, heads) + rest


def _nearest(runs: Sequence[RunReport]) -> tuple[str, dict[str, dict[str, Any]]]:
    """The preset, or the defaults, from which the first run differs least, and all its settings."""
    usual = {"model": vars(ModelSettings()), "training": vars(TrainingSettings()), "data": {}}
    choices = {"default": usual}
    for name in preset_names():
        tables = load_preset(name)
        choices[f"preset {name}"] = {part: {**values, **tables.get(part, {})} for part, values in usual.items()}

    def differing(name: str) -> int:
        there, own = choices[name], {part: runs[0].tables.get(part, {}) for part in ("model", "training")}
        return sum(_shown(own[part][key]) != _shown(there[part].get(key)) for part in own for key in own[part])

    nearest = min(choices, key=differing)
    return nearest, choices[nearest]


def _plans(runs: Sequence[RunReport]) -> str:
    parts = []
    for run in runs:
        try:
            said = _plan(run)
        except InputError as error:
            said = str(error)
        parts.append((f"<p class=about>{escape(run.name)}</p>" if len(runs) > 1 else "") + f"<pre>{escape(said)}</pre>")
    return "".join(parts)


def _plan(run: RunReport) -> str:
    kind = tasks().get(run.tables.get("data", {}).get("task", "lm"))
    if kind is None or not kind.in_windows:
        return "not worked out for tasks on rows"
    model = {name: value for name, value in run.tables.get("model", {}).items() if name != "vocab_size"}
    vocabulary = run.tables.get("model", {}).get("vocab_size") or _vocabulary(run)
    if vocabulary is None:
        return "not worked out: nothing is saved yet that says how many tokens there are"
    processes = int(run.rows[-1].get("processes", 1)) if run.rows else 1
    training = TrainingSettings(**run.tables.get("training", {}))
    return str(plan(ModelSettings(**model, vocab_size=vocabulary), training, processes))


def _vocabulary(run: RunReport) -> int | None:
    """Tokens of the run's models."""
    if _unit(run) == "byte":
        return ByteTokenizer.vocabulary
    for folder in (run.folder, *reversed(checkpoints(run.folder))):
        try:
            found = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("vocab_size")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(found, int):
            return found
    return None


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not given" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
