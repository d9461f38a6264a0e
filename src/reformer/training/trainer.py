"""transformers' Trainer, set up for this model: its data, what is logged, what is kept, and what stops a run."""

import math
import time
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import Dataset, SequentialSampler
from transformers import EarlyStoppingCallback, EvalPrediction, PrinterCallback, TrainingArguments

from reformer.data.windows import FilledUp
from reformer.models import SequenceParallel
from reformer.ops.hashing import derive_seed
from reformer.settings.training import TrainingSettings
from reformer.training.checkpointing import CheckpointingTrainer
from reformer.training.guards import StepGuard
from reformer.training.job import Job
from reformer.training.processes import process_count


class ReformerTrainer(CheckpointingTrainer):
    """Logs bits per byte, accuracy and tokens per second; leaves out steps that are not finite (`StepGuard`).

    The order of the job's data is the order of the run. Checkpoints are staged, then renamed; the last ones and the
    best one are kept.
    """

    def __init__(
        self,
        model: nn.Module,
        job: Job,
        settings: TrainingSettings,
        output_dir: str,
        *,
        complete: Callable[[Path], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        evaluated = bool(settings.eval_steps and isinstance(job.held_out, Sized) and len(job.held_out))
        args, held_out = _arguments(settings, output_dir, evaluated, job.rows), job.held_out if evaluated else None
        self.groups = process_count() // settings.sequence_parallel
        if settings.sequence_parallel > 1 and held_out is not None:  # groups run in step, so that each has as many
            held_out = FilledUp(held_out, args.per_device_eval_batch_size * self.groups)
        super().__init__(
            model=model,
            args=args,
            train_dataset=job.train,
            eval_dataset=held_out,
            compute_metrics=_held_out_metrics,
            data_collator=job.collate,
            complete=complete,
            say=say,
            keep=settings.keep,
            save_places=job.save_places,
        )
        self.sequence_parallel: SequenceParallel | None = None
        """The processes that share this one's windows."""
        if settings.sequence_parallel > 1:
            shape, names = (self.groups, settings.sequence_parallel), ("data", "sequence")
            mesh = init_device_mesh(self.args.device.type, shape, mesh_dim_names=names)
            self.sequence_parallel = SequenceParallel(mesh["sequence"])
        self.remove_callback(PrinterCallback)
        if settings.patience and evaluated:
            self.add_callback(EarlyStoppingCallback(settings.patience))
        self.evaluating = job.evaluating
        self.begun = False
        """Whether the first step of this process was reached."""
        self._correct, self._predicted, self._tokens = 0, 0, 0
        self._since: float | None = None
        self._unread: tuple[Tensor, Tensor] | None = None  # a loss, its counts: on the device
        self._worst = 0.0  # loss of this step: the last one, or one that is not finite
        self._shown = torch.zeros((), device=self.args.device)  # the last finite loss
        self._guard = StepGuard(settings.skip_nonfinite, settings.spike, say, self.where_to_go_on)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)  # type: ignore[arg-type]

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer makes it; processes that share their windows read the same ones."""
        loader = super()._get_dataloader(*args, **kwargs)
        if self.sequence_parallel is not None:
            shard: Any = loader.batch_sampler
            shard.num_processes, shard.process_index = (
                self.groups,
                self.args.process_index // self.sequence_parallel.size,
            )
        return loader

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices decay; norms, biases and convolutions do not."""
        weights = model.named_parameters()
        return [name for name, weight in weights if weight.dim() > 1 and "convolution" not in name.split(".")]

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's loss; counts what was predicted and how much of it rightly."""
        self._since = self._since or time.perf_counter()
        kwargs["return_outputs"] = True
        whole, inputs = _count_tokens(inputs), self._parts(inputs)
        inputs["seed"] = derive_seed(self.args.seed, self.state.global_step)  # that of all that make this step
        self._read()
        loss, outputs = super().compute_loss(model, inputs, *args, **kwargs)
        unwrapped: Any = self.model
        tokens = whole + (outputs.predicted if unwrapped.config.is_encoder_decoder else 0)
        self._unread = loss.detach(), torch.stack([outputs.correct, outputs.predicted, tokens])
        if loss.device.type == "cpu":
            self._read()
        return loss

    def _parts(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What this process computes of a batch."""
        share = self.sequence_parallel
        return dict(inputs) if share is None else {**share.part(inputs), "sequence_parallel": share}

    def _read(self) -> None:
        """Read what the last micro-batch gave: before the next one, which waits for the GPU anyway, or a report."""
        if self._unread is None:
            return
        (loss, counts), self._unread = self._unread, None
        (correct, predicted, tokens), value = counts.tolist(), loss.item()
        self._worst = value if math.isfinite(self._worst) else self._worst
        self._correct, self._predicted = self._correct + correct, self._predicted + predicted
        self._tokens += tokens

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss for the log, where the last finite one stands for one that is not."""
        self.begun = True
        loss: Tensor = super().training_step(*args, **kwargs)
        self._shown = torch.where(torch.isfinite(loss), loss, self._shown)
        return self._shown

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        self._read()
        worst, self._worst = self._worst, 0.0
        if self.args.world_size > 1:  # all of them skip a step, or none
            bad = torch.tensor(float(not math.isfinite(worst)), device=self.args.device)
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
            worst = worst if not bad else math.nan
        if self._guard.skips(self.state.global_step + 1, worst, float(norm)):
            model.zero_grad(set_to_none=True)  # weights without a gradient stay as they are, moments too
        return norm

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of a batch: loss in nats, tokens that were the likeliest, tokens.

        Of several processes, those of each row: rows that fill up the last batch are told apart and dropped. Of those
        that share a row only the first one has its sums.
        """
        inputs = self._prepare_inputs(inputs)
        rows = len(inputs["input_ids"])
        size = 1 if self.args.world_size > 1 else rows
        sums = []
        with torch.no_grad(), self.compute_loss_context_manager():
            for i in range(0, rows, size):
                row = {name: value[i : i + size] for name, value in inputs.items()}
                output = model(**self._parts(row), **self.evaluating)
                loss = output.loss.float() * output.predicted  # the mean over them
                sums.append(torch.stack([loss, output.correct.float(), output.predicted.float()]))
        sums_by_row = torch.stack(sums)
        if self.sequence_parallel is not None and self.sequence_parallel.place:
            sums_by_row = torch.zeros_like(sums_by_row)
        return sums_by_row[:, 0].mean(), sums_by_row, sums_by_row[:, 2:]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Leaves no trace in the random numbers of the training."""
        self._read()
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            started = time.perf_counter()
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        for module in self.model_wrapped.modules():
            if isinstance(module, FSDPModule):  # else a checkpoint would find the gathered weights, not the optimizer's
                module.reshard()
        if self._since is not None:
            self._since += time.perf_counter() - started
        return metrics

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._read()
        if self._guard.row:  # the last steps were skipped, perhaps for these weights: keep those before them
            self.say(f"no checkpoint is made at step {self.state.global_step}, which was skipped")
            return
        super()._save_checkpoint(model, trial)

    def create_accelerator_and_postprocess(self) -> None:
        """As the Trainer does; where it would leave CPUs unsharded, though asked to shard, they are told to."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp_plugin_args is None or self.is_fsdp_enabled:
            return
        state: Any = self.accelerator.state
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        if state.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(state.mixed_precision)
        state.distributed_type = DistributedType.FSDP
        self.is_fsdp_enabled = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add bits per byte, token accuracy and tokens per second to the lines of the training loss."""
        self._read()
        if "loss" in logs and self._since is not None:
            now = time.perf_counter()
            logs["accuracy"] = self._correct / max(self._predicted, 1)
            logs["tokens_per_second"] = self._tokens * self.groups / (now - self._since)
            self._correct, self._predicted, self._tokens, self._since = 0, 0, 0, now
        for name in ("loss", "eval_loss"):
            if name in logs:
                logs[name.replace("loss", "bits_per_token")] = logs[name] / math.log(2)
        super().log(logs, start_time)


def _held_out_metrics(sums: EvalPrediction) -> dict[str, float]:
    nll, correct, predicted = np.asarray(sums.predictions, dtype=np.float64).sum(0)
    predicted = max(predicted, 1.0)
    return {"loss": nll / predicted, "accuracy": correct / predicted}


def _count_tokens(inputs: dict[str, Any]) -> Tensor:
    """Tokens of a batch that the model reads, padding left out."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    return torch.full((), ids.numel(), device=ids.device) if mask is None else mask.sum()


def _arguments(settings: TrainingSettings, output_dir: str, evaluated: bool, rows: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=max(settings.batch_size, settings.batch_tokens // settings.length),
        gradient_accumulation_steps=settings.accumulation,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type=settings.schedule,
        optim="adamw_torch" if settings.optimizer == "adamw" else "adafactor",
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        bf16=settings.bf16,
        use_cpu=not torch.accelerator.is_available(),
        seed=settings.seed,
        logging_strategy="steps",
        logging_steps=settings.log_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluated else "no",
        eval_steps=settings.eval_steps or None,
        metric_for_best_model="loss" if evaluated else None,
        greater_is_better=False if evaluated else None,
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 500,
        report_to=[],
        log_level="error",
        log_level_replica="error",
        disable_tqdm=True,
        remove_unused_columns=False,
        restore_callback_states_from_checkpoint=True,
        ddp_find_unused_parameters=False,
        dataloader_drop_last=False,
        dataloader_num_workers=settings.data_workers,
        fsdp=(settings.fsdp and process_count() > 1) or None,  # type: ignore[arg-type]
    )
