"""How functions of this folder are compiled: by numba, without the interpreter's lock, once a machine."""

import hashlib
import logging
import platform
from collections.abc import Callable
from contextlib import suppress
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
        _make_safe(compiled._cache, function.__name__)
    except (RuntimeError, AttributeError) as reason:
        logger.info("the kernel %s is compiled anew in each process: %s", function.__name__, reason)
        return kernel(function)
    return compiled


def _make_safe(cache: Any, name: str) -> None:
    """Have a kernel that cannot be kept or read be compiled; wait for a helper that compiles it."""
    load, save = cache.load_overload, cache.save_overload

    def load_when_ready(signature: Any, context: Any) -> Any:
        wait_for(name)
        try:
            return load(signature, context)
        except Exception as error:  # cut short, or from elsewhere: whatever unpickling makes of it
            _say_once("kept kernels cannot be read (%r) and are compiled anew", error)
            with suppress(OSError):
                Path(cache._cache_file._index_path).unlink(missing_ok=True)
            return None

    def save_if_possible(signature: Any, compiled: Any) -> None:
        try:
            save(signature, compiled)
        except OSError as error:
            _say_once(
                "compiled kernels cannot be kept in %s (%s): each process compiles its own; make room there, or set "
                "NUMBA_CACHE_DIR to another folder",
                cache.cache_path,
                error.strerror,
            )

    cache.load_overload, cache.save_overload = load_when_ready, save_if_possible


_said: set[str] = set()


def _say_once(message: str, *arguments: object) -> None:
    if message not in _said:
        _said.add(message)
        logger.warning(message, *arguments)


def _is_kept(cache: Any) -> bool:
    """Whether a kernel was ever compiled on this machine."""
    try:
        return bool(cache._cache_file._load_index())
    except Exception:  # an index that cannot be read
        return False


def prepare_kernels(entry: Any) -> None:
    """Where an entry kernel was never compiled on this machine, explain the wait, and have helpers shorten it."""
    kept_on_disk = hasattr(entry._cache, "_cache_file")
    if not (kept_on_disk and _is_kept(entry._cache)):
        logger.warning("compiling attention kernels for this machine; that takes some twenty seconds, once")
        if kept_on_disk:
            compile_ahead()
