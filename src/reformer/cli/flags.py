"""Settings as flags, above what presets and run files say; values are checked when all are together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reformer.settings.data import DataSettings
from reformer.settings.model import ModelSettings
from reformer.settings.training import TrainingSettings
from reformer.tasks import tasks


@dataclass(kw_only=True)
class ModelFlags(ModelSettings):
    """A model."""

    def __post_init__(self) -> None:
        pass


@dataclass(kw_only=True)
class TrainingFlags(TrainingSettings):
    """A training."""

    def __post_init__(self) -> None:
        pass


if TYPE_CHECKING:
    DataFlags = DataSettings
else:

    def _of_all_tasks() -> type:
        """The fields of all tasks: a subclass of each, whose sources have their help."""
        names = Literal[tuple(tasks())]
        body: dict[str, Any] = {
            "__doc__": "A text and what is to be learned from it.",
            "__annotations__": {"task": names},
            "__post_init__": lambda self: None,
            "task": DataSettings.task,
        }
        kind = type("DataFlags", tuple(tasks().values()), body)
        kind.__abstractmethods__ = frozenset()
        return dataclass(kw_only=True)(kind)

    DataFlags = _of_all_tasks()
