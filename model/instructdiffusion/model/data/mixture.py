"""Which triplets are drawn when: every source as often as its weight says, whatever the weight.

A source of n triplets and weight w gives w * n draws an epoch, rounded so that no fraction is ever lost. It goes
through all its triplets before it begins again, and through a few files at a time, so that the rest need not be at
hand. The sources take turns at random.

Everything is a function of the seed and of the place in the whole run: a resumed run, and one on other processes, draws
the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.errors import ConfigError

AT_HAND = 8  # files of one source that are mixed with each other
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Heap:
    """The triplets of one source: their numbers, file by file, and how often each is drawn in an epoch."""

    files: Sequence[Numbers]
    weight: float = 1.0

    @cached_property
    def count(self) -> int:
        return sum(map(len, self.files))

    def before(self, epoch: int) -> int:
        """Draws before an epoch."""
        return round(epoch * self.weight * self.count)

    def run(self, number: int, seed: Sequence[int]) -> Numbers:
        """All triplets in the order of run `number` through them: files mixed a few at a time."""
        rng = np.random.default_rng((*seed, number))
        files = [self.files[i] for i in rng.permutation(len(self.files))]
        some = [np.concatenate(files[i : i + AT_HAND]) for i in range(0, len(files), AT_HAND)]
        return np.concatenate([rng.permutation(numbers) for numbers in some])


@dataclass
class Mixture:
    """The draws of a whole training.

    Raises:
        ConfigError: nothing would ever be drawn.
    """

    heaps: Mapping[str, Heap]
    seed: int
    _epochs: dict[int, Numbers] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not any(heap.weight * heap.count > 0 for heap in self.heaps.values()):
            given = ", ".join(f"{name or 'all'}: {heap.count} at {heap.weight:g}" for name, heap in self.heaps.items())
            raise ConfigError(f"nothing to draw from ({given}); give a source that has triplets a weight above 0")

    def draws(self, places: range) -> list[int]:
        """The numbers of the triplets at these places of the run, counted over all processes."""
        drawn: list[int] = []
        place = places.start
        while place < places.stop:
            epoch = self.epoch_of(place)
            first = place - self._before(epoch)
            drawn += self.epoch(epoch)[first : first + places.stop - place].tolist()
            place = places.start + len(drawn)
        return drawn

    def counts(self, place: int) -> Numbers:
        """How often each triplet was drawn before a place of the run, by its number."""
        epoch = self.epoch_of(place)
        drawn = np.bincount(self.epoch(epoch)[: place - self._before(epoch)], minlength=self._size())
        for at, heap in enumerate(self.heaps.values()):
            if before := heap.before(epoch):
                whole, rest = divmod(before, heap.count)
                drawn[np.concatenate(heap.files)] += whole
                drawn[heap.run(whole, (self.seed, at))[:rest]] += 1
        return drawn

    def epoch_of(self, place: int) -> int:
        """The epoch that a place lies in."""
        guess = int(place / sum(heap.weight * heap.count for heap in self.heaps.values()))
        while self._before(guess) > place:
            guess -= 1
        while self._before(guess + 1) <= place:
            guess += 1
        return guess

    def epoch(self, number: int) -> Numbers:
        """All draws of an epoch, in order."""
        if number not in self._epochs:
            # Two are kept: whoever looks ahead is in the next one already.
            self._epochs = {old: drawn for old, drawn in self._epochs.items() if abs(old - number) == 1}
            self._epochs[number] = self._drawn(number)
        return self._epochs[number]

    def _size(self) -> int:
        return sum(heap.count for heap in self.heaps.values())

    def _before(self, epoch: int) -> int:
        return sum(heap.before(epoch) for heap in self.heaps.values())

    def _drawn(self, epoch: int) -> Numbers:
        parts = [
            _slice(heap, (self.seed, at), heap.before(epoch), heap.before(epoch + 1))
            for at, heap in enumerate(self.heaps.values())
        ]
        turns = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        turns = np.random.default_rng((self.seed, len(parts), epoch)).permutation(turns)
        drawn = np.empty(len(turns), np.int64)
        for at, part in enumerate(parts):
            drawn[turns == at] = part
        return drawn


def _slice(heap: Heap, seed: Sequence[int], start: int, stop: int) -> Numbers:
    """Some draws of the endless sequence of runs through a source."""
    if start == stop:
        return np.empty(0, np.int64)
    runs = range(start // heap.count, (stop - 1) // heap.count + 1)
    whole = np.concatenate([heap.run(number, seed) for number in runs])
    return whole[start - runs.start * heap.count :][: stop - start]
