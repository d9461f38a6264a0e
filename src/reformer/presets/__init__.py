"""Runs that ship with the package, one TOML file each, with the tables [model] and [training]."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from reformer.ops.checks import nearest

Tables = dict[str, dict[str, Any]]


def preset_names() -> list[str]:
    """The presets there are."""
    return sorted(Path(entry.name).stem for entry in files(__name__).iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> Tables:
    """The tables of a preset; ValueError for one that there is not."""
    names = preset_names()
    if name not in names:
        raise ValueError(f"preset {name!r} is none of {', '.join(names)}{nearest(name, names)}")
    return tomllib.loads(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
