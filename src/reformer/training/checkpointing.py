"""The Trainer's checkpoints: staged, then renamed; the last ones and the best are kept.

What one number of processes wrote, any other number reads (`reformer.training.state`).
"""

import shutil
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, set_seed

from reformer.data.streaming import PLACES
from reformer.errors import RunError, lost_peer, ran_out_of_memory
from reformer.ops.hashing import derive_seed
from reformer.training.checkpoint import CHECKPOINT, PARTIAL, checkpoints, step_of
from reformer.training.manifest import damage, flush, write_manifest
from reformer.training.state import (
    load_optimizer,
    load_schedule,
    load_weights,
    save_optimizer,
    save_schedule,
    save_weights,
)

DEAD_WORKER = "DataLoader worker (pid"
"""How PyTorch's error begins when a process that prepares batches is gone; it may come up at any place."""


class NotSaved(RunError):
    """A checkpoint could not be written; earlier ones are whole."""


class CheckpointingTrainer(Trainer):
    """What a run keeps, and how it goes on; `complete` adds to a checkpoint what makes it a model of its own."""

    def __init__(
        self,
        *,
        complete: Callable[[Path], None],
        say: Callable[[str], None],
        keep: int,
        save_places: Callable[[Path, int], None] | None,
        **trainer: Any,
    ) -> None:
        super().__init__(**trainer)
        self.complete, self.say, self.keep, self.save_places = complete, say, keep, save_places
        self._staging: Path | None = None

    def where_to_go_on(self) -> str:
        """The last checkpoint, for messages of a run that ends."""
        found = self._whole_ones()
        if not found:
            return "nothing was saved yet"
        return f"the last checkpoint is {found[-1]}: --resume auto goes on from it, and with other settings --init does"

    def _whole_ones(self) -> list[Path]:
        """The checkpoints of this run up to now."""
        found = checkpoints(Path(str(self.args.output_dir)))
        return [folder for folder in found if step_of(folder) <= self.state.global_step and damage(folder) is None]

    def save_now(self) -> None:
        """A checkpoint of the present state, unless there is one."""
        name = f"{CHECKPOINT}{self.state.global_step}"
        if self.args.save_strategy != "no" and not (Path(str(self.args.output_dir)) / name).exists():
            self._save_checkpoint(self.model_wrapped, None)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        better: bool = super()._determine_best_metric(metrics, trial)
        if better and self.args.save_strategy != "no":
            self.state.best_global_step = self.state.global_step
            self.control.should_save = True
        return better

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        out = Path(str(self.args.output_dir))
        name = f"{CHECKPOINT}{self.state.global_step}"
        self._staging = out / PARTIAL
        try:
            super()._save_checkpoint(model, trial)
            if self.save_places is not None:
                self.save_places(
                    self._staging / name / f"{PLACES}{self.args.process_index}.json", self.state.global_step
                )
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if self.args.should_save:
                made = self._staging / name
                (made / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.toml says more
                self.complete(made)
                write_manifest(made)
                shutil.rmtree(out / name, ignore_errors=True)
                made.rename(out / name)
                flush(out)
                self._keep_last_and_best(out, out / name)
        except (OSError, RuntimeError, SafetensorError) as error:
            if ran_out_of_memory(error) or lost_peer(error) or str(error).startswith(DEAD_WORKER):
                raise
            whole = ", ".join(folder.name for folder in self._whole_ones()) or "none yet"
            reason = " ".join(str(error).split())[:200]
            raise NotSaved(
                f"{name} could not be written ({reason}); whole checkpoints in {out}: {whole}. Make room, then go on "
                "with --resume auto"
            ) from error
        finally:
            if self.args.should_save:
                shutil.rmtree(out / PARTIAL, ignore_errors=True)
            self._staging = None
        self.accelerator.wait_for_everyone()

    def _keep_last_and_best(self, out: Path, last: Path) -> None:
        """Of those up to the one just written; a run that goes on from an older one drops what came behind it."""
        before = [folder for folder in checkpoints(out) if step_of(folder) <= step_of(last)]
        kept = (*before[-self.keep :], self.best_checkpoint())
        for folder in checkpoints(out):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def best_checkpoint(self) -> Path | None:
        """The folder of the checkpoint with the least loss on held-out text."""
        if not self.state.best_global_step:
            return None
        folder = Path(str(self.args.output_dir)) / f"{CHECKPOINT}{self.state.best_global_step}"
        return folder if folder.exists() else None

    def return_to_best(self) -> bool:
        """Take the weights of the best checkpoint, unless they are the present ones; whether it is there and whole."""
        best = self.best_checkpoint()
        if best is None or self.state.best_global_step == self.state.global_step:
            return best is not None
        if (reason := damage(best)) is not None:
            self.say(f"{best}, the best one, is damaged ({reason}): the model is that of the last step")
            return False
        self.state.best_model_checkpoint = str(best)
        self._load_best_model()
        return True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model of a checkpoint."""
        if self.is_fsdp_enabled:
            self.save_alone(self._model(), Path(str(output_dir)))
        else:
            super().save_model(output_dir, _internal_call)

    def save_alone(self, model: Any, folder: Path) -> None:
        """A model as `from_pretrained` reads it; all processes call it, and those of a sharded one all write."""
        main = self.args.should_save
        if not self.is_fsdp_enabled:
            if main:
                model.save_pretrained(folder)
            return
        if main:
            config = copy(model.config)
            config.architectures = [type(model).__name__.removeprefix("FSDP")]
            config.dtype = "float32"
            config.save_pretrained(folder)
            if model.can_generate():
                model.generation_config.save_pretrained(folder)
        save_weights(model, folder, main)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            load_weights(self._model(), Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            load_weights(self._model(), Path(str(self.state.best_model_checkpoint)))
        else:
            super()._load_best_model()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled or self.args.should_save:
            save_optimizer(self._model(), self._bare_optimizer(), Path(output_dir), sharded=self.is_fsdp_enabled)
        if self.args.should_save:
            save_schedule(self.lr_scheduler, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(self._model(), self._bare_optimizer(), Path(checkpoint))
            load_schedule(self.lr_scheduler, self._bare_optimizer(), Path(checkpoint))

    def _model(self) -> Any:
        assert self.model is not None
        return self.model

    def _bare_optimizer(self) -> torch.optim.Optimizer:
        """Without what accelerate wraps around it."""
        optimizer: Any = self.optimizer
        bare: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        return bare

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """That of this process; where there were not as many of them, one that follows from seed, step and rank."""
        if checkpoint is None:
            return
        if len(list(Path(checkpoint).glob("rng_state*.pth"))) == self.args.world_size:
            super()._load_rng_state(checkpoint)
        else:
            set_seed(derive_seed(self.args.seed, self.state.global_step, self.args.process_index) % 2**32)
