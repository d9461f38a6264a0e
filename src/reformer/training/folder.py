"""The folder of a run: its settings, its checkpoints, and at the end its model."""

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from reformer.data.pace import Pace
from reformer.errors import InputError, not_written
from reformer.settings.json_file import read_object
from reformer.settings.run_file import RUN_FILE, Run, check_same_run, write_run_file
from reformer.training.checkpoint import CONFIG, PARTIAL, checkpoints, step_of
from reformer.training.job import Text, items_per_step
from reformer.training.processes import is_main_process

STAGING = ".model"
"""Where a model is written before it is whole."""

ORIGIN = "origin.json"
"""What a checkpoint was trained on, and at what pace (`Pace`)."""


def check_out(out: Path, overwrite: bool = False, resume: bool = False) -> None:
    """InputError when `out` is no place for a run: a file, or a folder that holds something.

    With `overwrite` or `resume` it may hold a run.
    """
    try:
        str(out).encode()
    except UnicodeEncodeError:  # safetensors and tokenizers write to no such path
        raise InputError(f"--out {str(out)!r} is not UTF-8; choose another name") from None
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out names the folder of the run")
    if not out.is_dir() or not any(out.iterdir()) or _saved_nothing(out):
        return
    if not overwrite and not resume:
        raise InputError(
            f"{out} holds another run or other files; choose another folder, or give --overwrite, or --resume auto to "
            "go on with it"
        )
    if not (out / RUN_FILE).exists():
        raise InputError(f"{out} is not the folder of a run ({RUN_FILE} is missing): it is not overwritten")


def check_same(checkpoint: Path, run: Run, corpus: Text) -> list[tuple[int, int]]:
    """The past of a run's `Pace` at a checkpoint; InputError for one of other settings or of another text."""
    check_same_run(checkpoint / RUN_FILE, run)
    then = read_object(checkpoint / ORIGIN)
    if then.get("corpus") != corpus.fingerprint:
        raise InputError(f"the text is not the one that {checkpoint} was trained on; give the same, or another --out")
    try:
        return [(int(until), int(items)) for until, items in then["past"]]
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{checkpoint / ORIGIN} does not say what was read: it is damaged, or of an earlier version; start another "
            f"run with --init {checkpoint}"
        ) from None


class RunFolder:
    """`out` while a run fills it. A run that it replaces stays beside it until something of the new one is saved.

    Of several processes only the main one writes. Raises InputError when `out` is no place for a run (`check_out`),
    cannot be made, or is that of a run that goes on.
    """

    def __init__(
        self,
        out: Path,
        run: Run,
        corpus: Text,
        *,
        overwrite: bool = False,
        resume: bool = False,
        past: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.out, self.run, self.corpus, self.main = out.resolve(), run, corpus, is_main_process()
        self.pace = Pace(items_per_step(corpus, run.training), past)
        self.former = self.out.with_name(f".{self.out.name}.former")
        self.saved = resume
        self.lock: FileLock | None = None
        if not self.main:
            return
        self.made = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.lock = _hold(self.out)
            if self.former.exists() and not resume and (not self.out.exists() or _saved_nothing(self.out)):
                shutil.rmtree(self.out, ignore_errors=True)
                self.former.rename(self.out)
            check_out(self.out, overwrite, resume)
            if self.out.exists() and not resume and any(self.out.iterdir()):
                shutil.rmtree(self.former, ignore_errors=True)
                self.out.rename(self.former)
            self.out.mkdir(exist_ok=True)
            for half in (PARTIAL, STAGING):  # of a run that was killed while it wrote
                shutil.rmtree(self.out / half, ignore_errors=True)
            write_run_file(self.out / RUN_FILE, run)
        except OSError as error:
            self._let_go()
            raise InputError(f"{out} cannot be made ({error.strerror}); choose another folder") from None
        except InputError:
            self._let_go()
            raise

    def complete(self, checkpoint: Path) -> None:
        """Put settings and tokenizer into a checkpoint, so that it is a model of its own."""
        self.corpus.tokenizer.save(checkpoint)
        write_run_file(checkpoint / RUN_FILE, self.run)
        origin = {"corpus": self.corpus.fingerprint, "past": self.pace.up_to(step_of(checkpoint))}
        (checkpoint / ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
        self._keep()

    def save(self, write: Callable[[Path], None]) -> None:
        """The model, whole: the configuration, without which there is none, comes last.

        All processes call it, and `write` puts configuration and weights into a folder. Raises as `not_written` says.
        """
        staging = self.out / STAGING
        with _no_interruption():
            if self.main:
                shutil.rmtree(staging, ignore_errors=True)
            try:
                write(staging)
                if not self.main:
                    return
                self.corpus.tokenizer.save(staging)
                for path in sorted(staging.iterdir(), key=lambda path: path.name == CONFIG):
                    path.replace(self.out / path.name)
            except (OSError, SafetensorError) as error:
                raise not_written(
                    error, f"the model cannot be written to {self.out} ({error}); make room, then --resume auto"
                ) from error
            finally:
                if self.main:
                    shutil.rmtree(staging, ignore_errors=True)
            self._keep()

    def _keep(self) -> None:
        self.saved = True
        shutil.rmtree(self.former, ignore_errors=True)

    def discard(self) -> None:
        """Let go of the folder, and leave the place as it was if nothing was saved."""
        if not self.main:
            return
        if not self.saved:
            shutil.rmtree(self.out, ignore_errors=True)
            if self.former.exists():
                self.former.rename(self.out)
        self._let_go()
        for folder in self.made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _let_go(self) -> None:
        """Other runs may have the folder."""
        if self.lock is not None:
            with suppress(OSError):  # Windows removes nothing that is open
                Path(self.lock.lock_file).unlink(missing_ok=True)
            self.lock.release()


def _hold(out: Path) -> FileLock:
    """Keep other runs from a folder until this process ends, however it ends; InputError where one is going on."""
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    with suppress(OSError, NotImplementedError):  # a place without locks, or where nothing can be written beside
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"another run is going on in {out}; wait for its end, or give another --out") from None
    return lock


def is_going_on(out: Path) -> bool:
    """Whether a process trains into a folder."""
    lock = FileLock(out.resolve().with_name(f".{out.resolve().name}.lock"), timeout=0)
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire()
    except (Timeout, PermissionError):  # another user's file is there as long as the run is
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


def _saved_nothing(out: Path) -> bool:
    """Whether a run was there that ended before it saved anything."""
    return (out / RUN_FILE).exists() and not (out / CONFIG).exists() and not checkpoints(out)


@contextmanager
def _no_interruption() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until what is being written is whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for missed in came:
            signal.raise_signal(missed)
