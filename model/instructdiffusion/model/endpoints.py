"""Whatever edits pictures, behind one interface, so that a benchmark scores a checkpoint like a service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from instructdiffusion.model.editor import Editor
from instructdiffusion.model.task import Ask, Image
from instructdiffusion.model.weights import model_digest


class Endpoint(Protocol):
    """A picture and an instruction in, a picture of the same size out."""

    name: str  # which model this is, for reports
    resolution: int  # side that it works at; 0: unknown

    def edit(self, pictures: Sequence[Image], asks: Sequence[Ask], seeds: Sequence[int]) -> list[Image]:
        """Edit pictures of any sizes.

        Raises:
            ServiceError: a service does not answer.
        """

    def rebuilt(self, pictures: Sequence[Image], targets: Sequence[Image]) -> list[Image] | None:
        """The targets after the endpoint's autoencoder; None where it can't be reached."""


class Still:
    """Hands every picture back: what doing nothing scores."""

    name = "do-nothing"
    resolution = 0

    def edit(self, pictures: Sequence[Image], asks: Sequence[Ask], seeds: Sequence[int]) -> list[Image]:
        return list(pictures)

    def rebuilt(self, pictures: Sequence[Image], targets: Sequence[Image]) -> list[Image] | None:
        return None


class Folder:
    """A model folder; None is the embedded base."""

    def __init__(self, folder: Path | None) -> None:
        """Load it.

        Raises:
            DataError: the folder is no model.
        """
        self._editor = Editor.load(folder)
        self.name = f"{folder.name if folder else 'base'}@{model_digest(folder)}"
        self.resolution = self._editor.resolution

    def edit(self, pictures: Sequence[Image], asks: Sequence[Ask], seeds: Sequence[int]) -> list[Image]:
        return self._editor.edits(pictures, asks, seeds)

    def rebuilt(self, pictures: Sequence[Image], targets: Sequence[Image]) -> list[Image] | None:
        return self._editor.rebuilt(pictures, targets)
