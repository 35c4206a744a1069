"""What a task is: a way to ask, to paint the answer, to read it back and to score it.

Every task is an edit of a picture (section 3.1 of the paper): the instruction says what to paint, the target is the
picture with it painted, and the answer is read back from the picture a model made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.errors import DataError

if TYPE_CHECKING:
    from instructdiffusion.model.synthesis.scenes import Studio

Image = NDArray[np.uint8]  # height x width x 3, 0..255
Mask = NDArray[np.bool_]  # height x width
Label = Mapping[str, Any]  # the truth: numbers, text, masks and pictures by name
Family = Literal["perception", "restoration", "editing"]


@dataclass(frozen=True)
class Ask:
    """An instruction and the choices in it.

    `marks` are (what, colour or kind) pairs, for instance a joint and the colour of its disc.
    """

    task: str
    instruction: str
    marks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Metric:
    """What a task is measured by: `name` of the score, `unit`, and the `bar` that a useful model reaches.

    `version` is raised when the same pictures may score differently than before.
    """

    name: str
    unit: str
    bar: float
    version: int = 1


class Task:
    """One vision task. A file in `tasks/` that defines `TASKS` adds its tasks everywhere.

    Subclasses set the class attributes and the five methods. Arrays are uint8 pictures of one size.
    """

    name: ClassVar[str]
    family: ClassVar[Family]
    weight: ClassVar[float]  # share of the training mixture, relative to the other tasks
    composed: ClassVar[bool] = True  # whether scenes can be composed for it; else its data are public data sets alone
    metric: ClassVar[Metric]
    also: ClassVar[tuple[Metric, ...]] = ()  # what else a useful model must reach; scored under these names
    templates: ClassVar[tuple[str, ...]]  # ten or more, hand-written, with {slots}
    needs: ClassVar[tuple[str, ...]] = ()  # keys a label must hold

    def stage(self, studio: Studio, rng: Random) -> tuple[Image, Label]:
        """Compose a source picture and its label. The same `rng` state gives the same pair."""
        raise NotImplementedError

    def ask(self, label: Label, rng: Random) -> Ask:
        """Choose what to ask of this label, and in which words."""
        raise NotImplementedError

    def slots(self, ask: Ask, label: Label) -> dict[str, str]:
        """What fills the {slots} of this task's wordings to ask the same again."""
        return {}

    def paint(self, source: Image, label: Label, ask: Ask) -> Image:
        """Return the target: `source` with the answer painted into it."""
        raise NotImplementedError

    def read(self, output: Image, source: Image, ask: Ask) -> dict[str, Any]:
        """Read the answer back from a picture that a model made."""
        raise NotImplementedError

    def score(self, output: Image, source: Image, label: Label, ask: Ask) -> dict[str, float]:
        """Score an output. The value under `metric.name` is the task's measure; higher is better."""
        raise NotImplementedError

    def toy(self, rng: Random) -> tuple[Image, Label]:
        """Return a small source and label on a plain background, for tests."""
        from instructdiffusion.model.synthesis.scenes import Studio

        return self.stage(Studio.toy(), rng)

    def check(self, label: Label) -> None:
        """Refuse a label that lacks something.

        Raises:
            DataError: names the task and the missing key.
        """
        for key in self.needs:
            if key not in label:
                raise DataError(f"a {self.name} label needs {key!r}; it holds {', '.join(sorted(label)) or 'nothing'}")

    def understand(self, instruction: str) -> tuple[int, Ask] | None:
        """Find the wording behind an instruction: how many characters are the wording's own, and the ask.

        None when none of this task fits, written by hand, in the embedded bank, or simple. The more characters a
        wording explains, the better it fits.
        """
        from instructdiffusion.model.instructions.bank import known

        words = re.sub(r"\ban (?=[aeiou])", "a ", instruction.strip().rstrip(".").lower())
        found = []
        for pattern in patterns(known(self)):
            if (match := pattern.fullmatch(words)) and (ask := self.heard(instruction, match.groupdict())):
                found.append((len(words) - sum(len(slot) for slot in match.groups()), ask))
        return max(found, key=lambda pair: pair[0], default=None)

    def heard(self, instruction: str, slots: dict[str, str]) -> Ask | None:
        """Turn the slots of a recognised template into an ask."""
        return Ask(self.name, instruction)


_PATTERNS: dict[tuple[str, ...], list[re.Pattern[str]]] = {}


def patterns(templates: tuple[str, ...]) -> list[re.Pattern[str]]:
    """Regular expressions that recognise what the templates produce, one group per slot."""
    if templates not in _PATTERNS:
        _PATTERNS[templates] = [
            re.compile(re.sub(r"\\{(\w+)\\}", _slot, re.escape(t.strip().rstrip(".").lower()))) for t in templates
        ]
    return _PATTERNS[templates]


_SLOTS = {"color": "[a-z]+", "new": "[a-z]+ [a-z]+", "place": "(?:on|at|in) the [a-z]+"}  # any other: some words


def _slot(match: re.Match[str]) -> str:
    return f"(?P<{match[1]}>{_SLOTS.get(match[1], '.+?')})"


def psnr(one: Image, other: Image, where: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures, over `where` or everywhere; at most 60."""
    difference = one.astype(np.float32) - other.astype(np.float32)
    if where is not None:
        if not where.any():
            return 60.0
        difference = difference[where]
    error = float((difference**2).mean())
    return min(60.0, 10 * float(np.log10(255.0**2 / max(error, 1e-9))))
