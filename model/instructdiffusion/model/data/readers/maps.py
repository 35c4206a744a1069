"""What the data sets with a map of classes beside each picture have in common.

An example is a picture and a class. To learn from, classes smaller than a cell of the latent grid are left out, and
some that aren't there are asked for where a data set tells so. To score on, every class that is there is asked for once
and no other, as for table 4 of the paper. Pixels that nobody labelled are the label's `void`: painted or not, they
count neither as right nor as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import ClassVar, NamedTuple

import numpy as np

from instructdiffusion.model.data.augment import CELL
from instructdiffusion.model.data.pictures import ClassMap, load, load_map, size_of
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.walk import Skip, Walker
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.tasks.segmentation import ABSENT, VOID

UNKNOWN = 0.1  # share of unlabelled pixels beyond which nothing is said to be absent
NUMBERED = r"\s*(\d{1,3})\s*:\s*(.+?)\s*"  # a line of most lists of classes: "3: air conditioner"


class Classes(NamedTuple):
    """What the values of a data set's maps mean."""

    names: Mapping[int, str]  # of the classes to ask for, each name once
    void: Collection[int] = ()  # unlabelled
    ground: Collection[int] = ()  # known to be none of the classes


class Pair(NamedTuple):
    """A picture and its map, which need not be there."""

    stem: str  # of the picture's name, unique in its split
    picture: Path
    map: Path


class Maps(Walker):
    """Pictures with a map of classes each. Subclasses define `classes` and `pairs`, and where they differ the rest."""

    task = "segmentation"
    weight = 0.0  # the paper trains on COCO-Stuff alone; all others are to score on
    flips = True
    listed: ClassVar[str]  # where the classes are listed, for reasons to skip a map

    def recognises(self, folder: Path) -> bool:
        return bool(self.splits(folder))

    def classes(self, folder: Path, split: str) -> Classes:
        """The classes of a split.

        Raises:
            DataError: the list is missing or broken; names the file and the line.
        """
        raise NotImplementedError

    def pairs(self, folder: Path, split: str) -> Iterator[Pair]:
        """The pictures of a split, always in the same order."""
        raise NotImplementedError

    def values(self, path: Path) -> ClassMap:
        """The map in a file.

        Raises:
            DataError: it is broken; names it.
        """
        return load_map(path)

    def picture(self, stem: str) -> str:
        """The name of a picture, the same in every data set that has it."""
        raise NotImplementedError

    def phrases(self, names: tuple[str, ...], there: Collection[str]) -> Mapping[str, str]:
        """What to call each class in a picture where those of the names `there` are."""
        return {name: name for name in names}

    def absent(self, names: Mapping[int, str], there: Collection[str]) -> list[int]:
        """Classes that surely aren't in a picture, where those of the names `there` are; none where nobody looked."""
        return []

    def teaches(self, split: str) -> bool:
        """Whether a split is to learn from; else it is to score on."""
        return split.startswith("train")

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        classes = self.classes(folder, split)
        for pair in self.pairs(folder, split):
            key = f"{split}-{pair.stem}"
            missing = next((kind for kind in ("picture", "map") if not getattr(pair, kind).is_file()), None)
            if missing:
                yield Skip(f"{missing}: missing on disk", key)
            else:
                yield from self._queries(key, pair, classes, teaches=self.teaches(split))

    def _queries(self, key: str, pair: Pair, classes: Classes, *, teaches: bool) -> Iterator[Example | Skip]:
        names = classes.names
        try:
            values, size = self.values(pair.map), size_of(pair.picture)
        except DataError as error:
            yield Skip(f"map or picture: broken ({'map' if str(pair.map) in str(error) else 'picture'})", key)
            return
        if (values.shape[1], values.shape[0]) != size:
            yield Skip("map: another size than its picture", key)
            return
        numbers = np.bincount(values.ravel())
        counted = {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}
        unlabelled = sum(counted.pop(value, 0) for value in classes.void) / values.size
        if not counted.keys() <= {*names, *classes.ground}:
            yield Skip(f"map: values that {self.listed} doesn't list", key)
            return
        shares = {value: number / values.size for value, number in counted.items() if value in names}
        if not shares:
            yield Skip("map: nothing is labelled", key)
            return
        there = {names[value] for value in shares}
        shown = [value for value, share in shares.items() if share >= CELL or not teaches]
        for value in shares:
            if value not in shown:
                yield Skip("map: a class smaller than a cell of the latent grid", f"{key}-{value}")
        known = teaches and unlabelled <= UNKNOWN
        absent = _drawn(Random(key), len(shown), self.absent(names, there)) if known else []
        source, phrases = partial(load, pair.picture, size=size), self.phrases(tuple(names.values()), there)
        void = {VOID: np.isin(values, [*classes.void])} if unlabelled else {}
        for value in (*shown, *absent):
            name, mask = names[value], np.asarray(values == value)
            label = {"phrase": phrases[name], "class": name, "mask": mask, **void}
            yield Example(f"{key}-{value}", self.task, self.picture(pair.stem), source, label)


def listed_classes(path: Path, form: str = NUMBERED, *, head: int = 0, what: str = "it") -> dict[int, str]:
    """The classes in a list, by number: of each line after the first `head` ones the two groups of `form`.

    Raises:
        DataError: the file is missing or broken; names the line, and `what` to download.
    """
    again = f"download {what} again"
    found: dict[int, str] = {}
    for number, line in enumerate(_lines(path, what), 1):
        if number <= head or not line.strip():
            continue
        match = re.fullmatch(form, line)
        if match is None or int(match[1]) in found:
            raise DataError(f"{path} line {number} is no new '<number>: <name>': {line[:60]!r}; {again}")
        found[int(match[1])] = match[2]
    if not found:
        raise DataError(f"{path} lists no class; {again}")
    return found


def stems(path: Path) -> Iterator[str]:
    """The names in a list of pictures, a line each; what leads out of a folder is no name.

    Raises:
        DataError: the file is missing, or a line of it is no name; names the line.
    """
    for number, line in enumerate(_lines(path, "the list"), 1):
        if line.strip():
            if not re.fullmatch(r"[\w-]+", line.strip()):
                raise DataError(f"{path} line {number} is no name of a picture: {line[:60]!r}; download it again")
            yield line.strip()


def _lines(path: Path, what: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; download {what} into the folder") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); download it again") from error


def _drawn(rng: Random, present: int, candidates: list[int]) -> list[int]:
    """Classes to ask for that aren't there: on average as many as make up their share of all examples."""
    wanted = present * ABSENT / (1 - ABSENT)
    count = int(wanted) + (rng.random() < wanted % 1)
    return rng.sample(candidates, min(count, len(candidates)))
