"""The TOML file of a run: tables [model], [data] and [training]; what is left open is left out."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import tomli_w

from reformer.errors import InputError
from reformer.ops.checks import check_choice, nearest
from reformer.ops.spec import LOCAL_RULES, LSH_RULES, OPTIONS, options_of_rules
from reformer.settings.base import hint_at
from reformer.settings.data import DataSettings
from reformer.settings.model import RULE_VERSION, ModelSettings, check_rule_version
from reformer.settings.training import TrainingSettings

RUN_FILE = "run.toml"
NONE = "none"
"""What stands for None where it says something else than leaving out; TOML has no word for it."""

TABLES = ("model", "data", "training")
_NAMES = ", ".join(f"[{table}]" for table in TABLES)

MOST = 1 << 20
"""Bytes of a file beyond which it is no run file."""

Kinds = Mapping[str, type[DataSettings]]
"""The tasks by name: their fields are those of the table [data]."""
NO_TASKS: Kinds = {DataSettings.task: DataSettings}

OF_CHUNKS = {"lsh_rotary", "hash_rotations"}
"""Of the model, what goes with rule="chunk" beside the options of the chunks themselves."""

HARMLESS = {
    *("tensorboard", "keep", "grace", "skip_nonfinite", "spike", "stall_timeout", "data_workers"),
    *("fsdp", "sequence_parallel"),
}
"""Keys that a resumed run may change: no step depends on them."""

SPLIT = {"accumulation", "batch_size"}
"""Keys by which a step is split, which may change with the number of processes: the data go on at their place."""

Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """All that a run is made of."""

    model: ModelSettings
    data: DataSettings
    training: TrainingSettings

    @classmethod
    def of(cls, tables: Tables, tasks: Kinds = NO_TASKS) -> "Run":
        """The run of a file's tables."""
        return cls(
            ModelSettings(**tables.get("model", {})),
            data_of(tables.get("data", {}), tasks),
            TrainingSettings(**tables.get("training", {})),
        )

    def tables(self) -> Tables:
        """What a file has of it."""
        return {name: _written(getattr(self, name)) for name in TABLES}


def data_of(values: Mapping[str, Any], tasks: Kinds) -> DataSettings:
    """The task of a table [data]. Raises InputError for a task there is none of, and for a field of another one."""
    name = values.get("task", DataSettings.task)
    check_choice("task", name, tuple(tasks))
    own = {each.name for each in fields(tasks[name])}
    for field in sorted(values.keys() - own):
        others = [other for other, kind in tasks.items() if field in {each.name for each in fields(kind)}]
        if not others:
            raise InputError(f"[data] has no key {field!r}{hint_at(field, sorted(own))}")
        if values[field] != getattr(tasks[others[0]], field):
            named = " and ".join(f"task={other!r}" for other in others)
            raise InputError(f"{field} is for {named}, and task is {name!r}; leave it out")
    return tasks[name](**{field: value for field, value in values.items() if field in own})


def _written(settings: Any) -> dict[str, Any]:
    values = asdict(settings)
    open_ones = {each.name for each in fields(settings) if values[each.name] is None and each.default is None}
    return {name: NONE if value is None else value for name, value in values.items() if name not in open_ones}


def read_run_file(path: Path, tasks: Kinds = NO_TASKS) -> Tables:
    """The tables of a run file; InputError for a file that is none and for unknown keys."""
    return read_tables(_text_of(path), str(path), tasks)


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > MOST:
            raise InputError(f"{path} is no TOML file: it is over {MOST:,} bytes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a TOML file with {_NAMES}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML file: {error}") from None


def read_tables(text: str, where: str, tasks: Kinds = NO_TASKS) -> Tables:
    """The tables that a text holds, lists as tuples, their keys checked; `where` it stands is for errors."""
    tables = _parsed(text, where)
    for table, values in tables.items():
        if table not in TABLES or not isinstance(values, dict):
            raise InputError(f"{where}: no table [{table}]{nearest(table, list(TABLES))}; there are {_NAMES}")
        check_rule_version(values.get("rule_version", RULE_VERSION))  # first: other versions have other fields
        hints = _hints(table, tasks)
        for key in values:
            if key not in hints:
                raise InputError(f"{where}: [{table}] has no key {key!r}{hint_at(key, list(hints))}")
    return {table: _read(_hints(table, tasks), values) for table, values in tables.items()}


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits and deep nesting too
        raise InputError(f"{where} is no TOML file: {error}") from None


def _hints(table: str, tasks: Kinds) -> dict[str, Any]:
    """The keys of a table and their types."""
    kinds: dict[str, Any] = {"model": [ModelSettings], "data": tasks.values(), "training": [TrainingSettings]}
    return {
        name: hint
        for kind in kinds[table]
        for name, hint in get_type_hints(kind).items()
        if name in {each.name for each in fields(kind)}
    }


def _read(hints: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    kinds = {key: get_args(hint) for key, hint in hints.items()}

    def read(key: str, value: Any) -> Any:
        if value == NONE and NoneType in kinds[key] and str not in kinds[key]:
            return None
        return tuple(value) if isinstance(value, list) else value

    return {key: read(key, value) for key, value in values.items()}


def lay(below: Tables, above: Tables, say: Callable[[str], None], tasks: Kinds = NO_TASKS) -> Tables:
    """Tables with those `above` over those `below`.

    Where `above` names another rule or task, what `below` has for its own goes, and is said.
    """
    kept = {table: dict(values) for table, values in below.items()}
    data, task = kept.get("data", {}), above.get("data", {}).get("task")
    if task is not None and task in tasks:
        for name in sorted(data.keys() - {each.name for each in fields(tasks[task])}):
            say(f"{name}={data.pop(name)!r} is dropped: it is not for task={task!r}")
    model, chosen = kept.get("model", {}), above.get("model", {})
    for field, rules, prefix in (("rule", LSH_RULES, ""), ("local_rule", LOCAL_RULES, "local_")):
        rule = chosen.get(field)
        if rule not in rules or rule == model.get(field, next(iter(rules))):
            continue
        own = {f"{prefix}{name}" for name in OPTIONS[rules[rule]]} - {"num_buckets"}  # of another meaning there
        others = options_of_rules(rules, prefix) - own | (OF_CHUNKS if rule == "bucket" else set())
        if "chunk" in (chosen.get(name, model.get(name)) for name in ("rule", "local_rule")):
            others -= {"length_multiple"}  # it is for either kind of chunks
        for name in sorted(others & model.keys()):
            if (value := model.pop(name)) != getattr(ModelSettings, name):
                say(f"{name}={value!r} is dropped: it goes with another rule than {field}={rule!r}")
    return {table: {**kept.get(table, {}), **above.get(table, {})} for table in (*kept, *above)}


def write_run_file(path: Path, run: Run) -> None:
    """Write every setting; fed back, the file repeats the run."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(tomli_w.dumps(run.tables()), encoding="utf-8")
    partial.replace(path)


def check_same_run(path: Path, run: Run) -> None:
    """InputError, with the keys that differ, when a run file is another run's."""
    tasks = {run.data.task: type(run.data)}
    task = _parsed(_text_of(path), str(path)).get("data", {}).get("task", DataSettings.task)
    if task != run.data.task:  # it has other fields
        raise InputError(f"{path.parent} was trained for task={task!r}, not {run.data.task!r}; give another --out")
    then = Run.of(read_run_file(path, tasks), tasks)
    asked = (vars(then.model), vars(run.model))
    free = HARMLESS | (SPLIT if getattr(run.data, "in_windows", False) else {"accumulation"})
    follows = {name for name in asked[0] if asked[0][name] is asked[1][name] is None}  # from what differs
    differing = [
        f"{each.name}={getattr(now, each.name)!r} (it has {getattr(before, each.name)!r})"
        for before, now in (
            (then.model.worked_out(), run.model.worked_out()),
            (then.data, run.data),
            (then.training, run.training),
        )
        for each in fields(now)
        if getattr(now, each.name) != getattr(before, each.name) and each.name not in free | follows
    ]
    if differing:
        raise InputError(
            f"{path.parent} was trained with other settings: {', '.join(differing)}; resume with the same, or start "
            "another run"
        )
