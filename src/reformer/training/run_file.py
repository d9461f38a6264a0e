"""The TOML file of a run: tables [model] and [training], read with their keys checked and written in full."""

import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import tomli_w

from reformer.ops.checks import nearest
from reformer.settings import ModelSettings
from reformer.training.settings import TrainingSettings

NONE = "none"  # TOML has no word for it

TABLES: dict[str, type[ModelSettings] | type[TrainingSettings]] = {
    "model": ModelSettings,
    "training": TrainingSettings,
}


def read_run_file(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a run file; ValueError for a file that is none and for unknown keys."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give a TOML file with [model] and [training]") from None
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
            raise ValueError(
                f"{where}: no table [{table}]{nearest(table, list(TABLES))}; there are [model], [training]"
            )
        names = [field.name for field in fields(TABLES[table])]
        for key in values:
            if key not in names:
                raise ValueError(f"{where}: [{table}] has no key {key!r}{nearest(key, names)}")


def write_run_file(path: Path, model: ModelSettings, training: TrainingSettings) -> None:
    """Write every setting; fed back, the file repeats the run."""
    tables = {
        name: {key: NONE if value is None else value for key, value in asdict(settings).items()}
        for name, settings in (("model", model), ("training", training))
    }
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
