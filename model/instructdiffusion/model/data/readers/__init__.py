"""Readers of public data sets, each from the files as their authors publish them.

A reader turns a folder into examples, one at a time: a data set of any size takes constant memory. What to ask of an
example and how the answer is painted is the task's business; where a data set brings instructions and targets of its
own, the example holds them.

    for example in reader_for(Path("coco")).examples(Path("coco"), "train"):
        source = example.source()
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar

from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.task import Image, Label, Mask

#: What an example may be besides one of a task: an edit that fits none of them, and what triplets are synthesised from.
EDIT, REGION, PHOTO, PROMPT = "edit", "region", "photo", "prompt"


@dataclass(frozen=True)
class Example:
    """One thing to learn from a picture.

    `key` is unique in its data set and names the annotation; `picture` names the source file, so that what was trained
    on can be held against what is tested on. Pictures are loaded when called: uint8, height x width x 3.
    """

    key: str
    task: str
    picture: str
    source: Callable[[], Image]
    label: Label
    target: Callable[[], Image] | None = None  # None: the task paints it from the label
    instructions: tuple[str, ...] = ()  # as the data set words them; none: the task's own
    facts: Mapping[str, str] = field(default_factory=dict)  # licence, address, whatever else is known of the picture
    lazy: Mapping[str, Callable[[], Image | Mask]] = field(default_factory=dict)  # parts of the label yet to be loaded

    def loaded(self) -> tuple[Image, Image | None, Label]:
        """Source, target and the whole label; a target that is in the label too is loaded once.

        Raises:
            DataError: a picture is missing or broken; names it.
        """
        source, target = self.source(), self.target() if self.target else None
        rest = {name: target if call is self.target else call() for name, call in self.lazy.items()}
        return source, target, {**self.label, **rest}


@dataclass(frozen=True)
class Counts:
    """What a folder holds of a split: pictures, examples, and what was left out, by reason."""

    pictures: int
    examples: int
    skipped: Mapping[str, int] = field(default_factory=dict)


class Reader:
    """One data set. A file in `readers/` that defines `READERS` adds its readers everywhere."""

    name: ClassVar[str]  # as its authors write it
    task: ClassVar[str]
    licence: ClassVar[str]  # of the annotations and of the pictures, in a line
    address: ClassVar[str]  # where its authors publish it
    weight: ClassVar[float] = 1.0  # draws per example and epoch in the paper's mixture
    flips: ClassVar[bool] = False  # whether the original mirrors its pictures
    half_body: ClassVar[float] = 0.0  # share of training crops that show half a body, see `augment`

    def recognises(self, folder: Path) -> bool:
        """Whether this data set lies in the folder, judged by a few names of files."""
        raise NotImplementedError

    def splits(self, folder: Path) -> tuple[str, ...]:
        """The splits that are there, as the authors name them."""
        raise NotImplementedError

    def examples(self, folder: Path, split: str) -> Iterator[Example]:
        """Every example of a split, always in the same order.

        Raises:
            DataError: a file is missing or broken; names its path and the field. Single annotations that can't be
                used are skipped and counted, see `counts`.
        """
        raise NotImplementedError

    def counts(self, folder: Path, split: str) -> Counts:
        """What a split holds, without loading its pictures."""
        raise NotImplementedError


@cache
def readers() -> dict[str, Reader]:
    """Every reader by name."""
    found: dict[str, Reader] = {}
    for module in pkgutil.iter_modules(__path__):
        for reader in getattr(importlib.import_module(f"{__name__}.{module.name}"), "READERS", ()):
            found[reader.name] = reader
    return found


def reader_for(folder: Path, name: str | None = None) -> Reader:
    """The reader of that name, or else the one that recognises a folder.

    Raises:
        ConfigError: there is no reader of that name.
        DataError: it does not recognise the folder; or none does, or several do.
    """
    if name is not None and name not in readers():
        raise ConfigError(f"no data set {name!r} is known here; choose one of {', '.join(sorted(readers()))}")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; name the one that holds a data set")
    fitting = [reader for reader in readers().values() if reader.recognises(folder)]
    if name is not None:
        fitting = [reader for reader in fitting if reader.name == name]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(reader.name for reader in fitting)
        raise DataError(f"{folder} could be {names}; keep each data set in a folder of its own")
    known = "no data set that is known here" if name is None else f"not {name}"
    raise DataError(f"{folder} is {known}; docs/data.md shows how each must lie on disk")
