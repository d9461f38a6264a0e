"""transformers' Trainer, set up for this model: what is logged, and what stops a run."""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from reformer.training.settings import TrainingSettings


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite."""


class ReformerTrainer(Trainer):
    """Logs bits per byte, accuracy and tokens per second; stops at a loss that is not finite."""

    def __init__(
        self, model: PreTrainedModel, data: Dataset[dict[str, Tensor]], settings: TrainingSettings, output_dir: str
    ) -> None:
        super().__init__(model=model, args=_arguments(settings, output_dir), train_dataset=data)
        self.remove_callback(PrinterCallback)
        self._correct, self._predicted = 0, 0
        self._since: float | None = None

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's loss; counts what was predicted and how much of it rightly."""
        self._since = self._since or time.perf_counter()
        kwargs["return_outputs"] = True
        loss, outputs = super().compute_loss(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; "
                "try a smaller learning rate, more warm-up steps or a smaller clip"
            )
        self._correct += int(outputs.correct)
        self._predicted += int(outputs.predicted)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add bits per byte, token accuracy and tokens per second to the lines of the training loss."""
        if "loss" in logs and self._since is not None:
            now = time.perf_counter()
            logs["bits_per_byte"] = logs["loss"] / math.log(2)
            logs["accuracy"] = self._correct / self._predicted
            logs["tokens_per_second"] = self._predicted * self.args.world_size / (now - self._since)
            self._correct, self._predicted, self._since = 0, 0, now
        super().log(logs, start_time)


def _arguments(settings: TrainingSettings, output_dir: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type="cosine",
        optim="adamw_torch",
        adam_beta2=0.98,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        bf16=settings.bf16,
        use_cpu=not torch.accelerator.is_available(),
        seed=settings.seed,
        logging_strategy="steps",
        logging_steps=settings.log_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        dataloader_drop_last=False,
    )
