"""How functions of this folder are compiled: by numba, without the interpreter's lock, once a machine."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

logger = logging.getLogger(__name__)

kernel = njit(nogil=True, error_model="numpy")
"""A function that other kernels call."""


def _sources() -> str:
    """A digest of this folder: numba itself looks at the file of the compiled function alone, not at what it calls."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def entry_kernel(function: Callable[..., Any]) -> Any:
    """A kernel that Python calls; it is compiled at its first call and kept on disk, where there is a place for it."""
    try:
        compiled: Any = njit(nogil=True, error_model="numpy", cache=True)(function)
        compiled._cache._cache_file._source_stamp = _sources()
    except (RuntimeError, AttributeError) as reason:
        logger.info("the kernel %s is compiled anew in each process: %s", function.__name__, reason)
        return kernel(function)
    return compiled
