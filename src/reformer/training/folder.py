"""The folder of a run: written beside its place and moved there whole."""

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from reformer.settings import ModelSettings
from reformer.training.processes import is_main_process
from reformer.training.run_file import write_run_file
from reformer.training.settings import TrainingSettings

RUN_FILE = "run.toml"


class RunFolder:
    """Claims `out` before a run and fills it at its end; what was there stays until then.

    Of several processes only the main one touches the disk.

    Raises ValueError when `out` holds something and `overwrite` is not given, or cannot be made.
    """

    def __init__(self, out: Path, overwrite: bool = False) -> None:
        self.out, self.staging, self.main = out, out.with_name(f".{out.name}.partial"), is_main_process()
        if not self.main:
            return
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; --out names the folder of the run")
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise ValueError(f"{out} holds another run or other files; choose another folder, or give --overwrite")
        if out.is_dir() and any(out.iterdir()) and not (out / RUN_FILE).exists():
            raise ValueError(f"{out} is not the folder of a run ({RUN_FILE} is missing): it is not overwritten")
        try:
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staging.mkdir(parents=True)
        except OSError as error:
            raise ValueError(f"{out} cannot be made ({error.strerror}); choose another folder") from None

    def save(self, model: PreTrainedModel, settings: ModelSettings, training: TrainingSettings) -> None:
        """Weights, configuration and run file, all or nothing."""
        if not self.main:
            return
        model.save_pretrained(self.staging)
        write_run_file(self.staging / RUN_FILE, settings, training)
        former = self.out.with_name(f".{self.out.name}.former")
        if self.out.exists():
            self.out.rename(former)
        self.staging.rename(self.out)
        shutil.rmtree(former, ignore_errors=True)

    def discard(self) -> None:
        """Leave nothing behind."""
        if not self.main:
            return
        shutil.rmtree(self.staging, ignore_errors=True)
