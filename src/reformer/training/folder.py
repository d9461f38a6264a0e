"""The folder of a run: written beside its place and moved there whole."""

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from reformer.settings import ModelSettings
from reformer.training.processes import is_main_process
from reformer.training.run_file import write_run_file
from reformer.training.settings import TrainingSettings

RUN_FILE = "run.toml"


def check_out(out: Path, overwrite: bool = False) -> None:
    """ValueError when `out` is no place for a run: a file, or a folder that holds something.

    With `overwrite` it may hold a run.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out names the folder of the run")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{out} holds another run or other files; choose another folder, or give --overwrite")
    if not (out / RUN_FILE).exists():
        raise ValueError(f"{out} is not the folder of a run ({RUN_FILE} is missing): it is not overwritten")


class RunFolder:
    """Fills `out` at the end of a run; what was there stays until then. Of several processes only the main one does.

    Raises ValueError when `out` is no place for a run (`check_out`) or cannot be made.
    """

    def __init__(self, out: Path, overwrite: bool = False) -> None:
        self.out, self.overwrite, self.main = out.resolve(), overwrite, is_main_process()
        self.staging = self.out.with_name(f".{self.out.name}.partial")
        if not self.main:
            return
        check_out(self.out, overwrite)
        self.made = [folder for folder in self.staging.parents if not folder.exists()]
        try:
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staging.mkdir(parents=True)
        except OSError as error:
            raise ValueError(f"{out} cannot be made ({error.strerror}); choose another folder") from None

    def save(self, model: PreTrainedModel, settings: ModelSettings, training: TrainingSettings) -> None:
        """Weights, configuration and run file, all or nothing.

        Raises ValueError, with the place of what was trained, when `out` was filled in the meantime.
        """
        if not self.main:
            return
        with _no_interruption():
            model.save_pretrained(self.staging)
            write_run_file(self.staging / RUN_FILE, settings, training)
            try:
                check_out(self.out, self.overwrite)
            except ValueError as error:
                self.main = False  # nothing is discarded
                raise ValueError(f"{error}; what was trained is in {self.staging}") from None
            former = self.out.with_name(f".{self.out.name}.former")
            shutil.rmtree(former, ignore_errors=True)
            if self.out.exists():
                self.out.rename(former)
            self.staging.rename(self.out)
            shutil.rmtree(former, ignore_errors=True)

    def discard(self) -> None:
        """Leave nothing behind that was not saved."""
        if not self.main:
            return
        shutil.rmtree(self.staging, ignore_errors=True)
        for folder in self.made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def _no_interruption() -> Iterator[None]:
    """Ctrl-C waits until what is being written is whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
