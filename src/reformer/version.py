"""The version of this library."""

import re

__version__ = "0.2.0"


def is_newer(other: object) -> bool:
    """Whether a version that a file names is a later one than this."""
    if not re.fullmatch(r"\d+(\.\d+)*", str(other)):
        return False
    return [int(part) for part in str(other).split(".")] > [int(part) for part in __version__.split(".")]
