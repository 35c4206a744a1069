"""Edit a picture by instruction: the model as a function, with the answer read back from what it painted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from instructdiffusion.model import network
from instructdiffusion.model.device import best
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.network import Guidance, Model
from instructdiffusion.model.sampler import Rule, sample
from instructdiffusion.model.task import Ask, Image
from instructdiffusion.model.tasks import EVERY, task_named, understand

MOST_STEPS = 1000
BATCH = 50  # pictures sampled at once


@dataclass(frozen=True)
class Edit:
    """What came of an instruction: the picture at its source's size, and the typed answer read from it."""

    picture: Image
    ask: Ask | None
    found: dict[str, Any]
    seed: int
    seconds: float


class Editor:
    """A model that edits pictures.

    >>> editor = Editor.load()  # the embedded nano base
    >>> edit = editor.edit(picture, "Remove the red ball.")
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @staticmethod
    def load(folder: Path | str | None = None) -> Editor:
        """Read a model folder; None is the embedded base.

        Raises:
            DataError: the folder is no model.
        """
        return Editor(network.load(Path(folder) if folder is not None else None).to(best()))

    @property
    def resolution(self) -> int:
        """Side in pixels that pictures are edited at."""
        return self.model.resolution

    def guidance(
        self, ask: Ask | None, steps: int | None = None, text: float | None = None, image: float | None = None
    ) -> Guidance:
        """The model's own guidance for the kind of task, with what is given changed.

        Raises:
            ConfigError: steps are out of range.
        """
        family = EVERY[ask.task].family if ask else "editing"
        own = self.model.guidance.get(family, Guidance())
        given: dict[str, Any] = {"steps": steps, "text": text, "image": image}
        if steps is not None and not 1 <= steps <= MOST_STEPS:
            raise ConfigError(f"steps={steps} is out of range; use 1 to {MOST_STEPS}")
        return replace(own, **{name: value for name, value in given.items() if value is not None})

    def edit(
        self,
        picture: Image,
        instruction: str,
        *,
        task: str | None = None,
        seed: int = 0,
        steps: int | None = None,
        text_guidance: float | None = None,
        image_guidance: float | None = None,
    ) -> Edit:
        """Edit one picture (uint8, height x width x 3, any size) and read the answer.

        The picture is worked on as a square of the model's resolution and returned at its own size. Which task an
        instruction asks for is recognised by its wording; `task` insists on one.

        Raises:
            ConfigError: the task is unknown or the instruction is empty.
            DataError: the picture is of another type or shape.
        """
        if not instruction.strip():
            raise ConfigError("instruction is empty; say what to do, for instance: Remove the red ball.")
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise DataError(
                f"the picture is {picture.dtype} of {picture.shape}; give uint8, height x width x 3, no side empty"
            )
        began = time.perf_counter()
        ask = heard_as(instruction, task)
        source = resized(picture, self.resolution, self.resolution)
        guidance = self.guidance(ask, steps, text_guidance, image_guidance)
        output = self.outputs([source], [instruction], [seed], guidance)[0]
        height, width = picture.shape[:2]
        found = self._found(output, source, ask, width, height)
        return Edit(_returned(picture, source, output), ask, found, seed, time.perf_counter() - began)

    def edits(self, pictures: Sequence[Image], asks: Sequence[Ask], seeds: Sequence[int]) -> list[Image]:
        """Edit many pictures of any sizes, those of one kind of task together, each with the model's own guidance."""
        sources = [resized(p, self.resolution, self.resolution) for p in pictures]
        kinds = [EVERY[ask.task].family if ask.task in EVERY else "editing" for ask in asks]
        made: dict[int, Image] = {}
        for kind in sorted(set(kinds)):
            at = [i for i, k in enumerate(kinds) if k == kind]
            guidance = self.guidance(asks[at[0]] if asks[at[0]].task in EVERY else None)
            words = [asks[i].instruction for i in at]
            outputs = self.outputs([sources[i] for i in at], words, [seeds[i] for i in at], guidance)
            made |= {i: _returned(pictures[i], sources[i], o) for i, o in zip(at, outputs, strict=True)}
        return [made[i] for i in range(len(pictures))]

    def rebuilt(self, pictures: Sequence[Image], targets: Sequence[Image]) -> list[Image]:
        """What an edit would return that got every latent right: the targets after the autoencoder."""
        sources = [resized(p, self.resolution, self.resolution) for p in pictures]
        wanted = [resized(t, self.resolution, self.resolution) for t in targets]
        decoded = self.model.decode(self.model.encode(wanted))
        return [_returned(p, s, o) for p, s, o in zip(pictures, sources, decoded, strict=True)]

    def outputs(
        self,
        sources: Sequence[Image],
        instructions: Sequence[str],
        seeds: Sequence[int],
        guidance: Guidance,
        rule: Rule = "instructdiffusion",
    ) -> list[Image]:
        """Edit many pictures of the model's resolution with one guidance."""
        made: list[Image] = []
        for i in range(0, len(sources), BATCH):
            part = slice(i, i + BATCH)
            latents = self.model.encode(sources[part])
            made += self.model.decode(
                sample(
                    self.model,
                    latents,
                    self.model.text(list(instructions[part])),
                    seeds[part],
                    guidance,
                    rule,
                )
            )
        return made

    def _found(self, output: Image, source: Image, ask: Ask | None, width: int, height: int) -> dict[str, Any]:
        """The answer, in pixels of the picture that was given."""
        if ask is None:
            return {}
        task = EVERY[ask.task]
        return task.read(resized(output, width, height), resized(source, width, height), ask)


def heard_as(instruction: str, task: str | None) -> Ask | None:
    """The ask behind an instruction; None for one that no template of any task (or of the given one) explains."""
    if task is None:
        return understand(instruction)
    fit = task_named(task).understand(instruction)
    if fit:
        return fit[1]
    return Ask(task, instruction) if EVERY[task].family != "perception" else None


def resized(picture: Image, width: int, height: int) -> Image:
    """The picture at another size."""
    if picture.shape[:2] == (height, width):
        return picture
    way = cv2.INTER_AREA if picture.shape[0] > height else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=way), np.uint8)


def _returned(picture: Image, source: Image, output: Image) -> Image:
    """The output at the picture's own size: the change is enlarged and laid over it, so that the rest stays sharp."""
    height, width = picture.shape[:2]
    if picture.shape == output.shape:
        return output
    change = output.astype(np.float32) - source.astype(np.float32)
    larger = cv2.resize(change, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((picture.astype(np.float32) + larger).clip(0, 255).round(), np.uint8)
