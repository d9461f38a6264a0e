"""JSON files that are written for this library, or by others for theirs, read with care."""

import json
from pathlib import Path
from typing import Any

from reformer.errors import InputError

MOST = 64 << 20
"""Bytes of a file beyond which it is no configuration."""


def read_object(path: Path) -> dict[str, Any]:
    """The object that a file holds. Raises InputError for a file that cannot be read or holds something else."""
    try:
        if path.stat().st_size > MOST:
            raise InputError(f"{path} cannot be read: it is over {MOST:,} bytes")
        written = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers of thousands of digits, deep nesting
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(written, dict):
        raise InputError(f"{path} holds a {type(written).__name__}, not an object")
    return written


def first_name(written: dict[str, Any], key: str, default: str) -> str:
    """The first name of a list in an object, such as the architecture of a model."""
    names = written.get(key)
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else default
