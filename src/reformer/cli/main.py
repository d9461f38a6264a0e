"""The command `reformer`: verbs, errors in one line, exit codes."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from reformer.ops.checks import nearest
from reformer.version import __version__

VERBS = {
    "train": "train a language model on text",
    "evaluate": "measure a model on whole files",
    "generate": "write text with a model",
    "convert": "turn a Reformer of transformers into one of ours, or back",
}

BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code: 0, 2 for bad input, 1 for a run that failed, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else BAD_INPUT
    if arguments[0] == "--version":
        print(__version__)
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        return _complain(f"no verb {verb!r}{nearest(verb, list(VERBS))}; there are {', '.join(VERBS)}", BAD_INPUT)
    debug = "--debug" in rest
    try:
        import_module(f"reformer.cli.{verb}").run([word for word in rest if word != "--debug"])
    except ValueError as error:
        if debug:
            raise
        return _complain(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if debug:
            raise
        code = INTERRUPTED if type(error).__name__ == "Interrupted" else 1
        return _complain(str(error) or type(error).__name__, code)
    return 0


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
