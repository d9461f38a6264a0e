"""Floor 5: the tasks, one file each, which is all that a task needs: whatever stands in this folder is found."""

import inspect
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from reformer.data.task import Task


@cache
def tasks() -> dict[str, type[Task]]:
    """All tasks by name."""
    modules = [import_module(f"{__name__}.{entry.name}") for entry in iter_modules(__path__)]
    kinds = [kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)]
    return {kind.task: kind for kind in kinds if issubclass(kind, Task) and not inspect.isabstract(kind)}


def task_of(architecture: str) -> type[Task] | None:
    """The task of a class of models, by its name."""
    return next((kind for kind in tasks().values() if kind.model_name == architecture), None)
