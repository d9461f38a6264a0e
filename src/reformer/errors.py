"""Whose fault it is: what a user gave, how a run ended; anything else that is raised is a bug."""


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
