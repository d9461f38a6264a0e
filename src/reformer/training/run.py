"""A training run from a corpus to a folder with a model."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from reformer.data.prepare import Corpus
from reformer.data.streaming import StreamedCorpus
from reformer.data.task import Task
from reformer.errors import InputError, Interrupted, RunError, Terminated, lost_peer, ran_out_of_memory
from reformer.models import ReformerConfig, ReformerForCausalLM
from reformer.models.pretrained import ReformerPreTrainedModel
from reformer.ops.hashing import derive_seed
from reformer.settings import ModelSettings
from reformer.settings.lora import LoraSettings
from reformer.settings.run_file import Run
from reformer.settings.training import TrainingSettings
from reformer.training.checkpoint import CONFIG, checkpoints
from reformer.training.checkpointing import DEAD_WORKER
from reformer.training.finetune import add_lora, merge_lora, start_from
from reformer.training.folder import RunFolder, check_same
from reformer.training.interruption import GivenUp, Interruption
from reformer.training.job import Text, items_per_step, make_job, with_tokens
from reformer.training.log import RunLog
from reformer.training.manifest import MANIFEST, STATE, damage
from reformer.training.memory import out_of_memory
from reformer.training.processes import is_main_process, launched, process_count, process_rank
from reformer.training.progress import ProgressLines
from reformer.training.trainer import ReformerTrainer
from reformer.training.watchdog import Watchdog

Say = Callable[[str], None]


class NotResumed(InputError):
    """A checkpoint is whole, and still not one to go on from."""


class WorkerDied(RunError):
    """A process that prepared batches is gone."""


class PeerLost(RunError):
    """Another process of the run is gone."""


def build_model(
    settings: ModelSettings, seed: int, kind: type[ReformerPreTrainedModel] = ReformerForCausalLM, **config: Any
) -> ReformerPreTrainedModel:
    """A fresh model; the weights depend on the seed. `config` goes beyond the settings."""
    set_seed(seed)
    return kind(ReformerConfig(**asdict(settings), **config))


def train(
    corpus: Text,
    settings: ModelSettings,
    training: TrainingSettings,
    out: Path,
    *,
    task: Task,
    overwrite: bool = False,
    resume: Path | None = None,
    model: ReformerPreTrainedModel | None = None,
    say: Say = print,
    watch: Callable[[], None] = lambda: None,
) -> Any:
    """Train on a corpus or on examples and save to `out`; returns the model: the best on held-out text, or the last.

    `task` says what is learned, and for the run file where it comes from. `resume` is a checkpoint (`find_checkpoint`).
    `watch` is called whenever something new stands in the folder's log.
    Raises InputError for settings that do not fit the text or the folder; NonFiniteLoss, NotSaved, OutOfMemory and
    WorkerDied, where what was saved before stays; and Interrupted after Ctrl-C or Terminated after SIGTERM, when what
    was trained is saved. A run that does not move any more ends the process (`Watchdog`).
    """
    if isinstance(corpus, StreamedCorpus) and training.data_workers:
        raise InputError(
            f"data_workers={training.data_workers}: a text that is read as it comes has one reader; leave it out"
        )
    settings = task.settings_for(settings)
    check_launched(training)
    check_fit(settings, training, corpus.tokenizer.vocabulary, task)
    run = Run(settings, task, training)
    past = [] if resume is None else check_same(resume, run, corpus)
    job = make_job(corpus, task, training, past, resume)
    if model is None and training.init is not None:
        model = start_from(training.init, settings, training.seed, job.model_class, **job.config)
    if training.lora and model is None:
        raise InputError("lora trains beside frozen weights; name the model that has them with init")
    _say_what_surprises(corpus, training, past, say)
    folder = RunFolder(out, run, corpus, overwrite=overwrite, resume=resume is not None, past=past)
    per_token = "byte" if corpus.tokenizer.per_byte else "token"
    progress = ProgressLines(per_token if task.unit_is_token else None)
    try:
        whole = with_tokens(settings, corpus.tokenizer)
        if model is None:
            model = build_model(whole, training.seed, job.model_class, **job.config)
        say(f"{model.num_parameters():,} weights; {job.amount}")
        set_seed(training.seed)
        if training.sequence_parallel > 1:  # or each part of a window would drop what the others do
            set_seed(derive_seed(training.seed, process_rank()) % 2**32)
        trained: Any = add_lora(model, LoraSettings.parse(training.lora)) if training.lora else model
        trainer = ReformerTrainer(trained, job, training, str(folder.out), complete=folder.complete, say=say)
        trainer.add_callback(progress)
        trainer.add_callback(RunLog(folder.out, watch))
        if training.tensorboard and is_main_process():
            trainer.add_callback(TensorBoardCallback(_tensorboard(folder.out / "tensorboard")))
        with (
            Interruption(say, training.grace) as interruption,
            Watchdog(training.stall_timeout, say, progress.last_line) as watchdog,
        ):
            trainer.add_callback(interruption)
            trainer.add_callback(watchdog)
            try:
                _run(trainer, interruption, resume)
            except Exception as error:
                if (reason := _reason(error, trainer, resume, whole, training, task)) is None:
                    raise
                raise reason from error
        progress.stop()
        model = _keep(trainer, interruption, folder, training, out, say)
        if interruption.asked:
            kind, how = (Terminated, "terminated") if interruption.terminated else (Interrupted, "interrupted")
            raise kind(
                f"{how} at step {trainer.state.global_step}; what was trained is in {out}"
                + ("; go on with --resume auto" if checkpoints(folder.out) else "")
            )
    except RuntimeError as error:
        if not lost_peer(error):
            raise
        raise PeerLost(_without_peer(error, checkpoints(folder.out))) from error
    finally:
        progress.stop()
        folder.discard()
    return model


def _without_peer(error: Exception, found: Sequence[Path]) -> str:
    reason, kept = " ".join(str(error).split())[:120], found[-1] if found else "nothing yet"
    what = f"another process of this run is gone or cannot be reached ({reason}); saved is {kept}"
    if "connectFullMesh" in str(error) and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        return f"{what}; restarts need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment"
    return f"{what}: --resume auto goes on, and with it in the command torchrun --max-restarts 3 does so by itself"


def _run(trainer: ReformerTrainer, interruption: Interruption, resume: Path | None) -> None:
    """All steps, or those up to an interruption: within a step, the state of its beginning is saved."""
    try:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    except (KeyboardInterrupt, GivenUp) as error:
        undone = interruption.undone
        interruption.disarm()
        if process_count() > 1:  # the others are in the middle of something that they do together
            kind, how = (Terminated, "terminated") if interruption.terminated else (Interrupted, "interrupted")
            raise kind(f"{how} within a step; {trainer.where_to_go_on()}") from error
        if not trainer.state.global_step:  # nothing was trained yet
            raise (Terminated("terminated") if interruption.terminated else KeyboardInterrupt()) from error
        interruption.asked = True
        if undone is not None:
            undone()
            trainer.save_now()


def _keep(
    trainer: ReformerTrainer,
    interruption: Interruption,
    folder: RunFolder,
    training: TrainingSettings,
    out: Path,
    say: Say,
) -> Any:
    """Save the model of a run that has ended: the best one, or the last behind an interruption; returns it."""
    best = not interruption.asked and trainer.return_to_best()
    model = trainer.accelerator.unwrap_model(trainer.model)
    if training.lora:
        model = merge_lora(model)
    folder.save(lambda staging: trainer.save_alone(model, staging))
    step = trainer.state.best_global_step if best else trainer.state.global_step
    say(f"saved to {out} after {trainer.state.global_step} steps" + (f": the model of step {step}" if best else ""))
    trainer.accelerator.wait_for_everyone()  # nobody leaves while another one still writes to it
    trainer.accelerator.end_training()
    return model


def _reason(
    error: Exception,
    trainer: ReformerTrainer,
    resume: Path | None,
    settings: ModelSettings,
    training: TrainingSettings,
    task: Task,
) -> Exception | None:
    """What ended a run, with what to do about it; None for an error that says so itself, and for a bug."""
    if isinstance(error, InputError) and str(error).startswith("Caught "):  # with the traceback of a data worker
        return InputError(str(error).strip().splitlines()[-1].split(": ", 1)[-1])
    if isinstance(error, RunError | InputError):
        return None
    if lost_peer(error):
        return None
    good = trainer.where_to_go_on()
    if str(error).startswith(DEAD_WORKER):
        return WorkerDied(
            f"a data worker died ({' '.join(str(error).split())}); {good}; use fewer --data-workers if memory ran out"
        )
    if resume is not None and not trainer.begun and not ran_out_of_memory(error):
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return NotResumed(f"{resume} cannot be gone on from ({what}); give an earlier checkpoint as --resume")
    return out_of_memory(error, settings, training, good, task.in_windows)


def _say_what_surprises(
    corpus: Text, training: TrainingSettings, past: Sequence[tuple[int, int]], say: Callable[[str], None]
) -> None:
    if past and past[-1][1] != (items := items_per_step(corpus, training)):
        say(
            f"{past[-1][1]} became {items} items of the data a step, behind step {past[-1][0]}: the data goes on at "
            "the same place, and dropout draws anew"
        )
    if training.fsdp and process_count() == 1:
        say("fsdp: one process holds all")
    if isinstance(corpus, Corpus) and len(corpus.train) < training.length:
        say(f"the text has {len(corpus.train):,} tokens, less than one window of {training.length:,}: it is one window")
    if training.bf16 and not torch.accelerator.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2":
        say("bf16: this processor has no products of bf16, which take many times as long as those of fp32")


def find_checkpoint(out: Path, resume: str, say: Say = print) -> Path | None:
    """The checkpoint to go on from: the last whole one of `out` for "auto" (None without any), else the given folder.

    Raises InputError for a folder that is none, for a damaged one, and where all are damaged.
    """
    if resume == "auto":
        found = checkpoints(out)
        if not found and (out / CONFIG).exists():
            raise InputError(
                f"{out} holds a model and no checkpoint to go on from; start another run with --init {out}"
            )
        for folder in reversed(found):
            reason = damage(folder)
            if reason is None:
                return folder
            say(f"{folder} is damaged ({reason}) and left alone")
        if found:
            raise InputError(f"no checkpoint in {out} is whole; begin again with --overwrite, or in another --out")
        return None
    folder = Path(resume)
    if not any((folder / name).exists() for name in (STATE, MANIFEST)):
        raise InputError(f"resume={resume} is no checkpoint of a run; give auto or a folder named checkpoint-STEP")
    if folder.resolve().parent != out.resolve():
        raise InputError(f"resume={resume} is a checkpoint of another run than {out}; give that run's folder as --out")
    if (reason := damage(folder)) is not None:
        raise InputError(f"resume={resume} is damaged ({reason}); give auto, which takes the last whole one")
    return folder


def check_fit(settings: ModelSettings, training: TrainingSettings, vocabulary: int, task: Task) -> None:
    """InputError where model, training and tokens do not go together."""
    if settings.vocab_size is not None and settings.vocab_size < vocabulary:
        raise InputError(
            f"vocab_size={settings.vocab_size} is too small for the tokenizer's {vocabulary} tokens; leave it out"
        )
    if task.causal and not settings.causal:
        raise InputError(f"causal=False: task={task.task!r} predicts the next token; leave causal on")
    _check_shared(settings, training, task)
    if training.fsdp and training.optimizer == "adafactor":
        raise InputError("fsdp=true together with optimizer='adafactor' is not supported; take adamw")
    if training.lora and not task.adapters:
        raise InputError(f"lora together with task={task.task!r} is not supported; train all weights")
    if training.batch_tokens and task.in_windows:
        raise InputError(
            f"batch_tokens is for examples, and task={task.task!r} has windows of one length; use batch_size"
        )
    if training.length_schedule and not task.in_windows:
        raise InputError(f"length_schedule is for windows, and task={task.task!r} has examples; leave it out")
    if training.fsdp and training.lora:
        raise InputError("fsdp=true together with lora is not supported; leave one of them out")
    limit = settings.length_limit
    if limit is not None and training.length > limit:
        raise InputError(
            f"length={training.length} is over {limit}, the longest document of {settings.position_embedding} "
            "positions; shorten the windows, or raise max_position_embeddings or axial_shape"
        )


def check_launched(training: TrainingSettings) -> None:
    """InputError where torchrun has not started the processes that a run is split over."""
    if training.fsdp and not launched():
        raise InputError(
            "fsdp=true shards over the processes of torchrun, and this is one alone; start it as torchrun "
            "--nproc-per-node 2 -m reformer train ..., or give --no-fsdp"
        )
    share, processes = training.sequence_parallel, process_count()
    if processes % share:
        raise InputError(
            f"sequence_parallel={share} splits each window over {share} processes of torchrun, and there "
            f"{'is one' if processes == 1 else f'are {processes}'}; start it as torchrun --nproc-per-node {share} "
            "-m reformer train ..., or a multiple of it, or give --sequence-parallel 1, with which a run can go on too"
        )


def _check_shared(settings: ModelSettings, training: TrainingSettings, task: Task) -> None:
    share = training.sequence_parallel
    if share == 1:
        return
    if settings.num_attention_heads % share:
        raise InputError(
            f"sequence_parallel={share} does not divide num_attention_heads={settings.num_attention_heads}; inside "
            "attention each process has a part of the heads"
        )
    if not task.in_windows:
        raise InputError(f"sequence_parallel={share} splits windows, and task={task.task!r} has examples; leave it out")


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("tensorboard=true needs tensorboard: pip install 'reformer-torch[tensorboard]'") from None
    return SummaryWriter(str(folder))
