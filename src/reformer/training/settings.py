"""How a model is trained, without torch: for the TOML file and the command line."""

from dataclasses import dataclass

from reformer.ops.checks import check_integer, check_probability
from reformer.settings import Settings


@dataclass(kw_only=True)
class TrainingSettings(Settings):
    """One training run. Values are checked when an instance is made."""

    length: int = 2048
    """Tokens of a window."""
    batch_size: int = 1
    """Windows of a micro-batch."""
    accumulation: int = 1
    """Micro-batches of a step."""
    steps: int = 1000
    """Optimizer steps."""
    learning_rate: float = 1e-3
    """Largest learning rate of AdamW."""
    warmup_steps: int = 50
    """Steps in which the learning rate rises; it falls along a cosine afterwards."""
    weight_decay: float = 0.1
    """Decay of matrices (not of norms and biases)."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    bf16: bool = False
    """Compute in bf16 autocast; weights and streams stay in fp32."""
    held_out: float = 0.05
    """Share of the text that is held out for evaluation."""
    seed: int = 0
    """Seed of weights, order and dropout."""
    log_steps: int = 20
    """Steps between two lines of the log."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("length", self.length, 2)
        for name in ("batch_size", "accumulation", "steps", "log_steps"):
            check_integer(name, getattr(self, name), 1)
        check_integer("warmup_steps", self.warmup_steps, 0)
        check_integer("seed", self.seed, 0, 2**32 - 1)
        check_probability("held_out", self.held_out)
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be above 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay!r} must be at least 0")
