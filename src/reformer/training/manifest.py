"""What a checkpoint consists of, so that a damaged one is told from a whole one."""

import hashlib
import json
import os
from pathlib import Path

from reformer.settings.json_file import read_object

MANIFEST = "manifest.json"
"""Sizes and SHA-256 of all other files of a checkpoint."""

STATE = "trainer_state.json"
"""How far the run had come; a folder without it is no checkpoint."""


def write_manifest(folder: Path) -> None:
    """List the files of a folder, and have the system put them all onto the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    listed = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _hash(path)} for path in files}
    (folder / MANIFEST).write_text(json.dumps({"files": listed}, indent=1), encoding="utf-8")
    for path in (*files, folder / MANIFEST, *sorted({file.parent for file in files})):
        flush(path)


def damage(folder: Path, weights: bool = False) -> str | None:
    """What is wrong with the files of a checkpoint, or with its `weights` alone; None for a whole one."""
    try:
        listed = read_object(folder / MANIFEST)["files"]
        if STATE not in listed:
            return f"{MANIFEST} is not that of a checkpoint"
        for name, facts in listed.items():
            path = folder / name
            if weights and not (name.endswith(".safetensors") and path.parent == folder):
                continue
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != facts["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes, not {facts['bytes']:,}"
            if _hash(path) != facts["sha256"]:
                return f"{name} is not what was written"
    except OSError as error:
        return f"{Path(str(error.filename)).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def flush(path: Path) -> None:
    """Have the system put a file, or the names in a folder, onto the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
