"""Every task, by name: a module here that defines `TASKS` adds its tasks to mixture, evaluation and service.

`TASKS` are those that scenes can be composed for, which is what the embedded data, their evaluation and the service go
through. A triplet may be of any task in `EVERY`.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.task import Ask, Task

EVERY: dict[str, Task] = {
    task.name: task
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__))
    for task in import_module(f"{__name__}.{module}").TASKS
}
TASKS: dict[str, Task] = {name: task for name, task in EVERY.items() if task.composed}


def task_named(name: str) -> Task:
    """Look a task up.

    Raises:
        ConfigError: there is no such task; lists those there are.
    """
    if name not in EVERY:
        raise ConfigError(f"no task {name!r}; choose one of {', '.join(EVERY)}")
    return EVERY[name]


def understand(instruction: str) -> Ask | None:
    """Find the task whose templates explain most of an instruction; None when none fits."""
    fits = [fit for task in TASKS.values() if (fit := task.understand(instruction))]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None
