"""`--lora r=8,alpha=16,dropout=0.05`, without torch."""

from dataclasses import dataclass, fields
from typing import Self

from reformer.errors import InputError
from reformer.ops.checks import check_integer, check_probability, nearest
from reformer.settings import Settings


@dataclass(kw_only=True)
class LoraSettings(Settings):
    """Low-rank matrices beside the frozen ones of attention and feed-forward (Hu et al. 2021, arXiv 2106.09685)."""

    r: int = 8
    """Rank."""
    alpha: float = 16.0
    """The output of the small matrices is multiplied by alpha / r."""
    dropout: float = 0.0
    """Dropout of their input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("lora r", self.r, 1)
        check_probability("lora dropout", self.dropout)
        if not self.alpha > 0:
            raise InputError(f"lora alpha={self.alpha} must be above 0")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `key=value,key=value`. Raises InputError for other keys and for what is no number."""
        values: dict[str, int | float] = {}
        names = [field.name for field in fields(cls)]
        for entry in text.split(","):
            name, _, value = entry.strip().partition("=")
            if name not in names:
                raise InputError(f"lora={text!r} has {name!r}{nearest(name, names)}; it takes r=, alpha= and dropout=")
            try:
                values[name] = int(value) if name == "r" else float(value)
            except ValueError:
                raise InputError(f"lora={text!r}: {name}={value!r} is no number") from None
        return cls(**values)  # type: ignore[arg-type]
