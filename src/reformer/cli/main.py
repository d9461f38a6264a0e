"""The command `reformer`: verbs, errors in one line, exit codes."""

import gc
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata
from threading import Event, Timer
from typing import Any

from reformer.errors import InputError, Interrupted, RunError, Terminated, ran_out_of_memory
from reformer.ops.checks import nearest
from reformer.version import __version__

VERBS = {
    "train": "train a language model on text",
    "evaluate": "measure a model on whole files",
    "generate": "write text with a model",
    "serve": "answer requests over HTTP with a model",
    "report": "write a page about training runs",
    "inspect": "write a page about what a model attends to in a text",
    "convert": "turn a Reformer of transformers into one of ours, or back",
}

FAILED, BAD_INPUT, BUG, INTERRUPTED, TERMINATED = 1, 2, 70, 130, 143

UNREADABLE = FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError
"""What the system says of files that a user named."""

_TOLD_TO_END = Event()

REPORT = "this is a bug in reformer; please report it at {where} with the lines above and the command that led to it"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code.

    0; 2 for what the user gave, files that cannot be read included; 1 for a run that failed (disk, memory, numbers);
    130 after Ctrl-C; 143 after SIGTERM; 70 for anything else, which is a bug and shows its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a console cannot show is no reason to stop
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else BAD_INPUT
    if arguments[0] == "--version":
        print(__version__)
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        return _complain(f"no verb {verb!r}{nearest(verb, list(VERBS))}; there are {', '.join(VERBS)}", BAD_INPUT)
    try:
        import_module(f"reformer.cli.{verb}").run([word for word in rest if word != "--debug"])
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt, Terminated) as caught:
        error = _signal_behind(caught) or caught
        code = _code_of(error)
        if code == BUG or "--debug" in rest:
            traceback.print_exception(caught)
        return _complain(REPORT.format(where=_tracker()) if code == BUG else _said_by(error), code)
    return 0


def start() -> int:
    """`main` as a whole process: loading a million objects and leaving them, garbage collection takes seconds."""
    gc.set_threshold(100_000, 50, 50)
    signal.signal(signal.SIGTERM, _terminate)  # so that what is half done is cleared away
    if hasattr(os, "register_at_fork"):  # helper processes end as ever
        os.register_at_fork(after_in_child=partial(signal.signal, signal.SIGTERM, signal.SIG_DFL))
        sys.unraisablehook = _send_again
    code = main()
    gc.freeze()  # or else they would be gone through once more at the end
    return code


def _terminate(number: int, frame: Any) -> None:
    _TOLD_TO_END.set()
    raise Terminated("terminated")


def _send_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """A signal that came where Python lets no exception through, as in `__del__`, comes once more."""
    for kind, number in ((Terminated, signal.SIGTERM), (KeyboardInterrupt, signal.SIGINT)):
        if isinstance(unraisable.exc_value, kind):
            Timer(0.05, os.kill, (os.getpid(), number)).start()
            return
    sys.__unraisablehook__(unraisable)


def _signal_behind(error: BaseException) -> BaseException | None:
    """What an error is but the consequence of: an import that a signal broke off fails with an error of its own."""
    if isinstance(error, RunError | Interrupted):
        return None
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt | Terminated):
            return seen
        seen = seen.__cause__ or seen.__context__
    return Terminated("terminated") if _TOLD_TO_END.is_set() else None


def _code_of(error: BaseException) -> int:
    """Whose fault it is."""
    if isinstance(error, InputError | UNREADABLE):
        return BAD_INPUT
    if isinstance(error, KeyboardInterrupt | Interrupted):
        return INTERRUPTED
    if isinstance(error, Terminated):
        return TERMINATED
    return FAILED if isinstance(error, RunError | OSError) or ran_out_of_memory(error) else BUG


def _said_by(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if ran_out_of_memory(error) and not isinstance(error, RunError):
        return f"out of memory ({str(error) or 'no room'}); shorten --length, or lower --batch-size or --hidden-size"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _tracker() -> str:
    """Where bugs are reported, as the package says."""
    try:
        urls = [url.split(", ") for url in metadata("reformer-torch").get_all("Project-URL") or ()]
    except PackageNotFoundError:
        urls = []
    return next((url for label, url in urls if label == "Issues"), "the issue tracker of the project")


def _complain(message: str, code: int) -> int:
    print(f"reformer: {' '.join(message.split())}", file=sys.stderr)
    return code


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
    return (
        "usage: reformer VERB [OPTIONS]\n\nTransformers for long sequences on one machine.\n\n"
        f"{verbs}\n\n`reformer VERB --help` lists the options of a verb.\n--debug shows where an error arose."
    )
