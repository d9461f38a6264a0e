"""Runs that ship with the package, one TOML file each, with the tables [model], [data] and [training]."""

from importlib.resources import files
from pathlib import Path

from reformer.errors import InputError
from reformer.ops.checks import nearest
from reformer.settings.run_file import Tables, read_tables


def preset_names() -> list[str]:
    """The presets there are."""
    return sorted(Path(entry.name).stem for entry in files(__name__).iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> Tables:
    """The tables of a preset; InputError for one that there is not."""
    names = preset_names()
    if name not in names:
        raise InputError(f"preset {name!r} is none of {', '.join(names)}{nearest(name, names)}")
    return read_tables(_text(name), f"preset {name}")


def describe_presets() -> str:
    """A line each: the comment that its file begins with."""
    names = preset_names()
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {_text(name).splitlines()[0].lstrip('# ')}" for name in names)


def _text(name: str) -> str:
    return files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
