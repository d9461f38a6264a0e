"""The TOML file of a run: tables [model], [data] and [training]; what is left open is left out."""

import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import tomli_w

from reformer.errors import InputError
from reformer.ops.checks import nearest
from reformer.ops.spec import LOCAL_RULES, LSH_RULES, OPTIONS, options_of_rules
from reformer.settings.base import hint_at
from reformer.settings.data import DataSettings
from reformer.settings.model import RULE_VERSION, ModelSettings, check_rule_version
from reformer.settings.training import TrainingSettings

RUN_FILE = "run.toml"
NONE = "none"
"""What stands for None where it says something else than leaving out; TOML has no word for it."""

TABLES: dict[str, Any] = {"model": ModelSettings, "data": DataSettings, "training": TrainingSettings}
_NAMES = ", ".join(f"[{table}]" for table in TABLES)

OF_CHUNKS = {"lsh_rotary", "hash_rotations"}
"""Of the model, what goes with rule="chunk" beside the options of the chunks themselves."""

HARMLESS = {"tensorboard"}
"""Keys that a resumed run may change: no step depends on them."""

Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """All that a run is made of."""

    model: ModelSettings
    data: DataSettings
    training: TrainingSettings

    @classmethod
    def of(cls, tables: Tables) -> "Run":
        """The run of a file's tables."""
        return cls(**{name: kind(**tables.get(name, {})) for name, kind in TABLES.items()})

    def tables(self) -> Tables:
        """As they are written."""
        return {name: _written(getattr(self, name)) for name in TABLES}


def _written(settings: Any) -> dict[str, Any]:
    values = asdict(settings)
    open_ones = {each.name for each in fields(settings) if values[each.name] is None and each.default is None}
    return {name: NONE if value is None else value for name, value in values.items() if name not in open_ones}


def read_run_file(path: Path) -> Tables:
    """The tables of a run file; InputError for a file that is none and for unknown keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a TOML file with {_NAMES}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML file: {error}") from None
    return read_tables(text, str(path))


def read_tables(text: str, where: str) -> Tables:
    """The tables that a text holds, lists as tuples, their keys checked; `where` it stands is for errors."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is no TOML file: {error}") from None
    for table, values in tables.items():
        if table not in TABLES or not isinstance(values, dict):
            raise InputError(f"{where}: no table [{table}]{nearest(table, list(TABLES))}; there are {_NAMES}")
        check_rule_version(values.get("rule_version", RULE_VERSION))  # first: other versions have other fields
        names = [each.name for each in fields(TABLES[table])]
        for key in values:
            if key not in names:
                raise InputError(f"{where}: [{table}] has no key {key!r}{hint_at(key, names)}")
    return {table: _read(TABLES[table], values) for table, values in tables.items()}


def _read(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    kinds = {key: get_args(hint) for key, hint in get_type_hints(kind).items()}

    def read(key: str, value: Any) -> Any:
        if value == NONE and NoneType in kinds[key] and str not in kinds[key]:
            return None
        return tuple(value) if isinstance(value, list) else value

    return {key: read(key, value) for key, value in values.items()}


def lay(below: Tables, above: Tables, say: Callable[[str], None]) -> Tables:
    """Tables with those `above` over those `below`.

    Where `above` names another rule, what `below` has for its own goes, and is said.
    """
    kept = {table: dict(values) for table, values in below.items()}
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
    then = Run.of(read_run_file(path))
    asked = (vars(then.model), vars(run.model))
    follows = {name for name in asked[0] if asked[0][name] is asked[1][name] is None}  # from what differs
    differing = [
        f"{each.name}={getattr(now, each.name)!r} (it has {getattr(before, each.name)!r})"
        for before, now in (
            (then.model.worked_out(), run.model.worked_out()),
            (then.data, run.data),
            (then.training, run.training),
        )
        for each in fields(now)
        if getattr(now, each.name) != getattr(before, each.name) and each.name not in HARMLESS | follows
    ]
    if differing:
        raise InputError(
            f"{path.parent} was trained with other settings: {', '.join(differing)}; resume with the same, or start "
            "another run"
        )
