"""How a model is trained, without torch: for the TOML file and the command line."""

import math
from dataclasses import dataclass
from typing import Literal

from reformer.errors import InputError
from reformer.ops.checks import check_choice, check_integer
from reformer.settings import Settings
from reformer.settings.lora import LoraSettings
from reformer.settings.phases import Phase


@dataclass(kw_only=True)
class TrainingSettings(Settings):
    """One training run. Values are checked when an instance is made."""

    length: int = 2048
    """Tokens of a window; the most of an example."""
    length_schedule: tuple[str, ...] = ()
    """Shorter windows first: 512:200 2048:600 takes 512 tokens up to step 200, 2,048 up to step 600, then length."""
    batch_size: int = 1
    """Windows, or examples of a task, of a micro-batch."""
    batch_tokens: int = 0
    """Most tokens of a micro-batch of examples, which are of like length then; 0: batch_size examples."""
    accumulation: int = 1
    """Micro-batches of a step."""
    steps: int = 1000
    """Optimizer steps."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """adafactor keeps a row and a column for each matrix where adamw keeps two more of them."""
    learning_rate: float = 1e-3
    """Largest learning rate."""
    schedule: Literal["cosine", "linear", "inverse_sqrt"] = "cosine"
    """How the learning rate falls behind the warm-up."""
    warmup_steps: int = 50
    """Steps in which the learning rate rises."""
    beta1: float = 0.9
    """Share that the mean of the gradient keeps at each step (adamw)."""
    beta2: float = 0.98
    """Share that the mean of its square keeps at each step (adamw)."""
    weight_decay: float = 0.1
    """Decay of matrices (not of norms and biases)."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    bf16: bool = False
    """Compute in bf16 autocast; weights and streams stay in fp32."""
    init: str | None = None
    """Folder of a model to go on from: fine-tuning, with all weights or with lora."""
    lora: str | None = None
    """Train small matrices beside the frozen weights of init: r=8, or r=8,alpha=16,dropout=0.05."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer over the processes of torchrun (FSDP2)."""
    sequence_parallel: int = 1
    """Processes of torchrun that share each window, a part of it each; a divisor of their number and of the heads'."""
    seed: int = 0
    """Seed of weights, windows and dropout."""
    log_steps: int = 20
    """Steps between two lines of the log."""
    eval_steps: int = 250
    """Steps between two evaluations on held-out text; 0: none."""
    eval_tokens: int = 65_536
    """Most tokens of an evaluation, spread over the held-out text."""
    patience: int = 0
    """Stop after so many evaluations without a better one; 0: never."""
    save_steps: int = 250
    """Steps between two checkpoints; 0: none."""
    keep: int = 2
    """Last checkpoints that are kept, besides the best one; where the last is damaged, a run goes on from another."""
    grace: int = 20
    """Seconds that a step has after SIGTERM; then it is given up, and what was there before it is saved."""
    skip_nonfinite: int = 3
    """Most steps in a row that are skipped for a loss or a gradient that is not finite; the next one ends the run."""
    spike: float = 10.0
    """The norm of a gradient is said where it is so many times the median of the last 100 steps; 0: never."""
    stall_timeout: int = 7200
    """Seconds in which nothing moves, no micro-batch and no evaluation's, after which the run ends; 0: never."""
    data_workers: int = 0
    """Processes that prepare batches beside the training; 0: it does so itself."""
    tensorboard: bool = False
    """Write TensorBoard's event files to the folder `tensorboard` of the run."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("optimizer", ("adamw", "adafactor")),
            ("schedule", ("cosine", "linear", "inverse_sqrt")),
        ):
            check_choice(name, getattr(self, name), choices)
        super().__post_init__()
        check_integer("length", self.length, 2)
        for name in ("batch_size", "accumulation", "steps", "sequence_parallel", "log_steps", "eval_tokens", "keep"):
            check_integer(name, getattr(self, name), 1)
        for name in (
            *("batch_tokens", "warmup_steps", "eval_steps", "patience", "save_steps"),
            *("grace", "skip_nonfinite", "stall_timeout", "data_workers"),
        ):
            check_integer(name, getattr(self, name), 0)
        check_integer("seed", self.seed, 0, 2**32 - 1)
        if math.isinf(self.learning_rate):
            raise InputError(f"learning_rate={self.learning_rate!r} must be finite")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r} must be above 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)!r} must be from 0 to below 1")
        for name in ("weight_decay", "spike"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}={getattr(self, name)!r} must be at least 0")
        for name in ("eval_steps", "save_steps"):
            if self.patience and not getattr(self, name):
                raise InputError(f"patience={self.patience} goes back to the best evaluation, and {name}=0; set it")
        if self.lora is not None:
            LoraSettings.parse(self.lora)
        self.phases()

    def phases(self) -> list[Phase]:
        """Lengths of windows and for how many steps each. Raises InputError for a schedule that is none."""
        phases, done = [], 0
        for entry in self.length_schedule:
            length, _, until = entry.partition(":")
            digits = all(number.isdecimal() and len(number) < 16 for number in (length, until))
            if not (digits and int(length) >= 2):
                raise InputError(f"length_schedule={entry!r} must be LENGTH:STEP, as in 512:200")
            if not done < int(until) < self.steps:
                raise InputError(
                    f"length_schedule={entry!r}: its step must be over {done} and below steps={self.steps}, in order"
                )
            phases.append(Phase(int(length), int(until) - done))
            done = int(until)
        longest = max([phase.length for phase in phases], default=0)
        if longest > self.length:
            raise InputError(f"length_schedule has windows of {longest} tokens, over length={self.length}")
        return [*phases, Phase(self.length, self.steps - done)]
