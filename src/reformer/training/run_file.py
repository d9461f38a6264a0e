"""The TOML file of a run: tables [model], [data] and [training], read with their keys checked and written in full."""

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tomli_w

from reformer.data.settings import DataSettings
from reformer.ops.checks import nearest
from reformer.settings import RULE_VERSION, ModelSettings, check_rule_version, hint_at
from reformer.training.settings import TrainingSettings

RUN_FILE = "run.toml"
NONE = "none"  # TOML has no word for it

TABLES: dict[str, Any] = {"model": ModelSettings, "data": DataSettings, "training": TrainingSettings}
_NAMES = ", ".join(f"[{table}]" for table in TABLES)

HARMLESS = {"tensorboard", "processes"}
"""Keys that a resumed run may change: no step depends on them."""


@dataclass(frozen=True)
class Run:
    """All that a run is made of."""

    model: ModelSettings
    data: DataSettings
    training: TrainingSettings

    def tables(self) -> dict[str, dict[str, Any]]:
        """As they are written."""
        return {
            name: {key: NONE if value is None else value for key, value in asdict(getattr(self, name)).items()}
            for name in TABLES
        }


def read_run_file(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a run file; ValueError for a file that is none and for unknown keys."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give a TOML file with {_NAMES}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from None
    check_tables(tables, str(path))
    return {
        table: {key: None if value == NONE else value for key, value in values.items()}
        for table, values in tables.items()
    }


def check_tables(tables: dict[str, Any], where: str) -> None:
    """ValueError for a table or a key that there is not, with the nearest one."""
    for table, values in tables.items():
        if table not in TABLES or not isinstance(values, dict):
            raise ValueError(f"{where}: no table [{table}]{nearest(table, list(TABLES))}; there are {_NAMES}")
        check_rule_version(values.get("rule_version", RULE_VERSION))  # first: other versions have other fields
        names = [field.name for field in fields(TABLES[table])]
        for key in values:
            if key not in names:
                raise ValueError(f"{where}: [{table}] has no key {key!r}{hint_at(key, names)}")


def write_run_file(path: Path, run: Run) -> None:
    """Write every setting; fed back, the file repeats the run."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(tomli_w.dumps(run.tables()), encoding="utf-8")
    partial.replace(path)


def check_same_run(path: Path, run: Run) -> None:
    """ValueError, with the keys that differ, when a run file is another run's."""
    then, now = read_run_file(path), {name: asdict(getattr(run, name)) for name in TABLES}
    now["model"] = asdict(run.model.worked_out())
    model = then.get("model", {})
    if model.get("successor_values", True) is None:
        model["successor_values"] = model.get("causal", True)
    differing = [
        f"{key}={value!r} (it has {_plain(then[table][key])!r})"
        for table, values in now.items()
        for key, value in values.items()
        if key in then.get(table, {}) and _plain(then[table][key]) != _plain(value) and key not in HARMLESS
    ]
    if differing:
        raise ValueError(
            f"{path.parent} was trained with other settings: {', '.join(differing)}; resume with the same, or start "
            "another run"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
