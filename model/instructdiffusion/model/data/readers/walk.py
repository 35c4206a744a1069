"""Readers that walk a data set once and say what each annotation became: an example, or a reason to leave it out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from instructdiffusion.model.data.listing import indexes
from instructdiffusion.model.data.readers import Counts, Example, Reader
from instructdiffusion.model.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skip:
    """An annotation that can't be used: `reason` starts with the field that is at fault, `key` names the annotation."""

    reason: str
    key: str


class Walker(Reader):
    """Examples and counts from one walk, so that they can't disagree. Subclasses define `walk`."""

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        """Every annotation of a split, always in the same order."""
        raise NotImplementedError

    def outline(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        """As `walk`, for counting only: the pictures of what it yields need not be there to load."""
        return self.walk(folder, split)

    def examples(self, folder: Path, split: str) -> Iterator[Example]:
        self._known(folder, split)
        for found in self.walk(folder, split):
            if isinstance(found, Example):
                yield found
            else:
                log.debug("%s of %s is left out: %s", found.key, folder, found.reason)

    def counts(self, folder: Path, split: str) -> Counts:
        self._known(folder, split)
        examples, skipped = 0, Counter[str]()
        with indexes(1) as (pictures,):
            for found in self.outline(folder, split):
                if isinstance(found, Example):
                    examples += 1
                    pictures.add(found.picture)
                else:
                    skipped[found.reason] += 1
            return Counts(len(pictures), examples, dict(sorted(skipped.items())))

    def _known(self, folder: Path, split: str) -> None:
        there = self.splits(folder)
        if split not in there:
            raise DataError(f"{folder} has no split {split!r} of {self.name}; it has {', '.join(there) or 'none'}")


def first_folder(root: Path, *candidates: str) -> Path:
    """The first of some folders that is there.

    Raises:
        DataError: none is; names the first, which is where the authors put it.
    """
    for name in candidates:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root / candidates[0]} is missing: no pictures; docs/data.md shows how they must lie on disk")
