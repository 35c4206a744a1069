"""Examples of every task, for the page and for whoever wants to see what to ask: a picture with an instruction.

They are scenes of the held-out split, composed when they are asked for: a new task has its examples at once.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

from instructdiffusion.model.errors import DataError
from instructdiffusion.serving.schema import png_of

SIDE = 256  # pixels
EACH = 3  # examples of a task


@lru_cache(maxsize=256)
def example(task: str, number: int) -> tuple[bytes, str]:
    """A picture as PNG, and an instruction for it.

    Raises:
        DataError: there is no such task or number.
    """
    from instructdiffusion.model.synthesis.scenes import Studio
    from instructdiffusion.model.tasks import TASKS

    if task not in TASKS or not 0 <= number < EACH:
        raise DataError(f"no example {number} of {task[:60]!r}; each of {', '.join(TASKS)} has {EACH}, from 0")
    rng = Random(f"{task} {number}")
    picture, label = TASKS[task].stage(Studio.open(SIDE, "test"), rng)
    return png_of(picture), TASKS[task].ask(label, rng).instruction
