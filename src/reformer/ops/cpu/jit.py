"""How functions of this folder are compiled: by numba, without the interpreter's lock, once a machine."""

import hashlib
import logging
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba import config, njit

from reformer.ops.cpu.ahead import compile_ahead, wait_for

logger = logging.getLogger(__name__)


def _vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    if getattr(config, "DISABLE_JIT", False):
        raise ImportError("NUMBA_DISABLE_JIT is set")
    if platform.machine() in ("x86_64", "AMD64") and not features.get("fma"):
        raise ImportError("this processor has no fused multiply-add")
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


VECTOR_BYTES = _vector_bytes()
"""Bytes of the host's vectors."""

kernel = njit(nogil=True, error_model="numpy")
"""A function that other kernels call."""


def _stamp() -> str:
    """What compiled code depends on: numba itself looks at the function's own file alone, not at what it calls."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return f"{hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()} {VECTOR_BYTES}"


def entry_kernel(function: Callable[..., Any]) -> Any:
    """A kernel that Python calls; it is compiled at its first call and kept on disk, where there is a place for it."""
    try:
        compiled: Any = njit(nogil=True, error_model="numpy", cache=True)(function)
        compiled._cache._cache_file._source_stamp = _stamp()
        load = compiled._cache.load_overload

        def load_when_ready(signature: Any, context: Any) -> Any:
            wait_for(function.__name__)
            return load(signature, context)

        compiled._cache.load_overload = load_when_ready
    except (RuntimeError, AttributeError) as reason:
        logger.info("the kernel %s is compiled anew in each process: %s", function.__name__, reason)
        return kernel(function)
    return compiled


def prepare_kernels(entry: Any) -> None:
    """Where an entry kernel was never compiled on this machine, explain the wait, and have helpers shorten it."""
    index = getattr(entry._cache, "_cache_file", None)
    if index is None or not index._load_index():
        logger.warning("compiling attention kernels for this machine; that takes some twenty seconds, once")
        if index is not None:
            compile_ahead()
