"""The folder of a run: written beside its place and moved there whole."""

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from reformer.settings import ModelSettings
from reformer.training.run_file import write_run_file
from reformer.training.settings import TrainingSettings

RUN_FILE = "run.toml"


class RunFolder:
    """Claims `out` before a run and fills it at its end; what was there stays until then.

    Raises ValueError when `out` holds something and `overwrite` is not given, or cannot be made.
    """

    def __init__(self, out: Path, overwrite: bool = False) -> None:
        self.out, self.staging = out, out.with_name(f".{out.name}.partial")
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
        model.save_pretrained(self.staging)
        write_run_file(self.staging / RUN_FILE, settings, training)
        if self.out.exists():
            shutil.rmtree(self.out)
        self.staging.rename(self.out)

    def discard(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.staging, ignore_errors=True)
