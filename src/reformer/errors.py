"""Whose fault it is: what a user gave, how a run ended; anything else that is raised is a bug."""

import errno


class InputError(ValueError):
    """What a user gave is wrong; the message names the value, the limit and the way out."""


class RunError(RuntimeError):
    """A run could not go on, for want of room, memory or finite numbers; what was saved before stays."""


class Interrupted(Exception):
    """A run was stopped from outside, and has saved what it had."""


class Terminated(BaseException):
    """The system ended the process (SIGTERM); like Ctrl-C it is no error that something may handle on its way."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on a CPU, PyTorch has no type of its own for that."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def lost_peer(error: BaseException) -> bool:
    """Whether another process of the run is gone, or cannot be reached; for Gloo, PyTorch has no type of its own."""
    named = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    said = str(error) if type(error) is RuntimeError else ""
    return named or "gloo/transport" in said or "connectFullMesh" in said


def not_written(error: Exception, message: str) -> InputError | RunError:
    """What to raise for something that cannot be written: a full or broken disk is nothing that a user gave."""
    full = getattr(error, "errno", None) in _OF_DISKS or any(f"os error {number}" in str(error) for number in _OF_DISKS)
    return RunError(message) if full else InputError(message)


_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
"""Full, over its quota, broken, or too small for the file; safetensors says the numbers in words."""
