"""The choice among backends. A backend is a module with `lsh` and `local` of the same signatures.

A decoder is one with `fill`, `forget` and `decode`.
"""

import logging
from types import ModuleType

import torch
from torch import Tensor

from reformer.ops.plain import backend as plain
from reformer.ops.plain import decode as plain_decoder

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "plain", "numba")


def choose_backend(name: str, device_type: str) -> ModuleType:
    """The backend of that name; "auto" is the fastest that the device and the installation have.

    Raises ValueError for one that is not to be had there.
    """
    if name == "numba" and device_type != "cpu":
        raise ValueError(f"backend='numba' computes on the CPU and the tensors are on {device_type}; choose 'auto'")
    if name == "plain" or device_type != "cpu":
        return plain
    backend = _cpu_backend()
    if backend is None and name == "numba":
        raise ValueError(f"backend='numba' is not to be had ({_missing[0]}); install numba, or choose 'auto'")
    return backend or plain


def choose_decoder(x: Tensor) -> ModuleType:
    """The fastest decoder that the device and the type of a tensor and the installation have."""
    if x.device.type != "cpu" or x.dtype == torch.float16 or _cpu_backend() is None:
        return plain_decoder
    from reformer.ops.cpu import decoder

    return decoder


_missing: list[str] = []  # why numba is not to be had, once that was said


def _cpu_backend() -> ModuleType | None:
    if _missing:
        return None
    try:
        from reformer.ops.cpu import backend
    except (ImportError, OSError) as reason:
        _missing.append(str(reason))
        logger.warning(
            "attention on this CPU falls back to the slower plain backend: numba is not to be had (%s)", reason
        )
        return None
    return backend
