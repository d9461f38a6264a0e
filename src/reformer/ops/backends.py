"""The choice among backends. A backend is a module with `lsh` and `local` of the same signatures.

A decoder is one with `fill`, `forget` and `decode`.
"""

import logging
from types import ModuleType

import torch
from torch import Tensor

from reformer.errors import InputError
from reformer.ops.capture import capturing
from reformer.ops.environment import interpreted, preferred
from reformer.ops.plain import backend as plain
from reformer.ops.plain import decode as plain_decoder
from reformer.ops.proof import why_not
from reformer.ops.spec import LSH, Local

logger = logging.getLogger(__name__)

WIDEST = 128
"""Numbers of a head in the Triton kernels: tiles of wider ones do not fit into registers."""


def choose_backend(name: str, q: Tensor, spec: LSH | Local) -> ModuleType:
    """The backend of that name; "auto" is the fastest that the device, the installation and the settings allow.

    Raises InputError for one that is not to be had there.
    """
    device = q.device.type
    if name == "auto":
        name = preferred()
    if name == "numba" and device != "cpu":
        raise InputError(f"backend='numba' computes on the CPU and the tensors are on {device}; choose 'auto'")
    if name == "triton" and (reason := _not_for_triton(q, spec)):
        raise InputError(f"backend='triton' {reason}; choose 'auto'")
    if name == "triton":
        backend = _gpu_backend()
        if backend is None:
            raise InputError(
                f"backend='triton' is not to be had ({_missing['triton']}); install triton, or choose 'auto'"
            )
        return backend
    if name == "auto" and device == "cuda" and not _not_for_triton(q, spec):
        backend = _gpu_backend()
        return backend if backend is not None and _proven(q.device, q.dtype) else plain
    if name == "plain" or device != "cpu":
        return plain
    backend = _cpu_backend()
    if backend is None and name == "numba":
        raise InputError(f"backend='numba' is not to be had ({_missing['numba']}); install numba, or choose 'auto'")
    return backend or plain


def _not_for_triton(q: Tensor, spec: LSH | Local) -> str:
    """What the Triton kernels do not do, or nothing."""
    if q.device.type != "cuda" and not interpreted():
        return f"computes on a CUDA device and the tensors are on {q.device.type}"
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"computes in fp32, bf16 or fp16 and the tensors are {q.dtype}"
    if q.shape[3] > WIDEST:
        return f"takes heads of up to {WIDEST} numbers and these have {q.shape[3]}"
    return "has no duplicates='once'" if spec.once else ""


@torch.compiler.assume_constant_result
def _proven(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the Triton kernels have shown on this device, in this process, that they compute what they should."""
    if (device, dtype) not in _doubts:
        if capturing(device):
            raise InputError("kernels cannot show in a CUDA graph that they are right; run the step once before")
        backend = _gpu_backend()
        assert backend is not None
        _doubts[device, dtype] = doubt = why_not(backend, device, dtype)
        if doubt:
            logger.warning(
                "attention on %s in %s falls back to the slower plain backend: the Triton kernels are wrong there (%s)",
                device, dtype, doubt,
            )  # fmt: skip
    return not _doubts[device, dtype]


_doubts: dict[tuple[torch.device, torch.dtype], str] = {}  # what is wrong with the kernels on a device; mostly nothing


def choose_decoder(x: Tensor) -> ModuleType:
    """The fastest decoder that the device and the type of a tensor and the installation have."""
    if x.device.type != "cpu" or x.dtype == torch.float16 or preferred() == "plain" or _cpu_backend() is None:
        return plain_decoder
    from reformer.ops.cpu import decoder

    return decoder


def choose_convolution(x: Tensor) -> ModuleType | None:
    """Compiled kernels for `short_convolution`, where the device and the installation have them."""
    if x.device.type != "cpu" or preferred() == "plain" or _cpu_backend() is None:
        return None
    from reformer.ops.cpu import convolution

    return convolution


_missing: dict[str, str] = {}  # why a library is not to be had, once that was said


def _cpu_backend() -> ModuleType | None:
    if "numba" in _missing:
        return None
    try:  # an import statement, which torch.compile traces, where a call to import a module would break its graph
        from reformer.ops.cpu import backend
    except (ImportError, OSError) as reason:
        _say_missing("numba", "CPU", reason)
        return None
    return backend


def _gpu_backend() -> ModuleType | None:
    if "triton" in _missing:
        return None
    try:
        from reformer.ops.gpu import backend
    except (ImportError, OSError) as reason:
        _say_missing("triton", "GPU", reason)
        return None
    return backend


def _say_missing(library: str, device: str, reason: Exception) -> None:
    _missing[library] = str(reason)
    logger.warning(
        "attention on this %s falls back to the slower plain backend: %s is not to be had (%s)", device, library, reason
    )
