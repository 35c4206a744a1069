"""What a benchmark is: samples, what is measured of one output, and the numbers made of all of them.

A benchmark knows no model. Whatever turns a picture and an instruction into a picture can be scored: see `endpoints`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from instructdiffusion.model.data.readers import Example, reader_for
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.metrics import Spec
from instructdiffusion.model.metrics.likeness import Vector
from instructdiffusion.model.metrics.value import Statistic
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.synthesis.write import compose
from instructdiffusion.model.task import Ask, Image, Label

if TYPE_CHECKING:
    from instructdiffusion.model.metrics.networks import Encoder

Row = dict[str, Any]  # what is measured of one sample: JSON, no pictures
HELD_OUT = ("test$", "val", "test", "dev")  # how the splits to score on begin; of those that are there, the first
UNJUDGED = "unjudged"  # in a row: why a judge gave no points; the sample is done again by the next run
EMBEDDED_SIZE = 64  # pixels: the side of composed scenes, unless the editor has its own


@dataclass(frozen=True)
class Sample:
    """A picture and what to do with it. Several asks are turns: each edits what the one before made.

    Samples of one `group` are no independent evidence (queries of one picture, turns of one session): they are
    resampled together. `part` is the slice of the benchmark that the sample belongs to.
    """

    key: str
    source: Image
    asks: tuple[Ask, ...]
    targets: tuple[Image | None, ...]  # one an ask; None where the truth is no picture
    label: Label
    group: str
    part: str = ""


@dataclass(frozen=True)
class Case:
    """A sample that is loaded when it is its turn."""

    key: str
    load: Callable[[], Sample]


@dataclass(frozen=True)
class Order:
    """What to score on. `size` is the side of composed pictures and of people's crops.

    `samples` is the most to score on, 0 for all: queries or pictures of all kinds together; people, faces, pictures to
    classify and sessions, each of which makes several rows, count once. Reports call the data by `name`, or else by its
    folder.
    """

    data: Path | None = None
    split: str = ""
    samples: int = 0
    size: int = EMBEDDED_SIZE
    seed: int = 0
    name: str = ""


class Judge(Protocol):
    """Who looks at an edit and gives points."""

    spec_model: str  # for specs: which model, asked in which words

    def __call__(self, source: Image, output: Image, instruction: str) -> Mapping[str, float] | str:
        """Points by name, 0..10; or, as a text, why there are none."""


@dataclass(frozen=True)
class Tools:
    """Networks and judges that some metrics need; a metric whose tool is not there is marked as missing."""

    clip: Encoder | None = None
    dino: Encoder | None = None
    aesthetic: Mapping[str, Vector] = field(default_factory=dict)
    aesthetic_name: str = ""
    judge: Judge | None = None


@dataclass(frozen=True)
class Measure:
    """A number made of a benchmark's rows.

    `pick` makes a unit of the rows of one group, None where they say nothing of it; `why` says what would be needed to
    measure it here, empty where nothing is missing.
    """

    spec: Spec
    pick: Callable[[Sequence[Row]], Any]
    statistic: Statistic
    why: str = ""


class Benchmark:
    """One benchmark. A file in `benchmarks/` that defines `BENCHMARKS` adds its benchmarks everywhere."""

    name: ClassVar[str]
    about: ClassVar[str]  # one line: what is scored, and which table of the paper it fills
    count: ClassVar[int] = 100  # composed samples, where no data is given
    tasks: ClassVar[tuple[str, ...]] = ()  # of the data sets that it reads
    cuts: ClassVar[bool] = False  # whether it cuts what it scores out of their pictures, in the order's size

    def cases(self, order: Order) -> Iterator[Case]:
        """Every sample, always in the same order.

        Raises:
            DataError: the data is missing, or of another kind.
            ConfigError: the benchmark has no embedded data.
        """
        return self.read(order, order.data) if order.data is not None else self.composed(order)

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        """The samples of a data set on disk.

        Raises:
            ConfigError: the benchmark reads none.
        """
        raise ConfigError(f"benchmark {self.name} reads no data set; leave --data out, and its samples are composed")

    def composed(self, order: Order) -> Iterator[Case]:
        """The embedded samples."""
        raise ConfigError(f"benchmark {self.name} has no embedded data; name a folder with --data")

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        """Measure the outputs of one sample, one an ask, each of its source's size."""
        raise NotImplementedError

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        """The numbers that are made of the rows."""
        raise NotImplementedError


def held_out(order: Order, data: Path, tasks: Sequence[str] = ()) -> Iterator[Example]:
    """The examples of a data set's split to score on; `tasks` are those that it may be of, empty for any.

    Raises:
        DataError: the data set is of another task, or has no such split.
    """
    reader = reader_for(data)
    if tasks and reader.task not in tasks:
        raise DataError(f"{data} holds {reader.name}, made for {reader.task}; this benchmark reads {', '.join(tasks)}")
    there = reader.splits(data)
    split = order.split or next((s for h in HELD_OUT for s in there if re.match(h, s)), "")
    if not split:
        raise DataError(f"{data} has no split to score on, only {', '.join(there)}; insist on one with --split")
    return reader.examples(data, split)


@lru_cache(maxsize=1)
def studio(size: int) -> Studio:
    """Where samples are composed: held-out photographs, opened by the first sample that is wanted."""
    return Studio.open(size, "test")


def scenes(order: Order, tasks: Sequence[str], count: int) -> Iterator[tuple[str, Callable[[], Triplet]]]:
    """Composed triplets by key, `count` or as many as ordered, of each task in turn."""
    for number in range(order.samples or count):
        task = tasks[number % len(tasks)]
        seed = f"{order.seed}/benchmark/{task}/{number // len(tasks)}"
        yield seed.replace("/", "-"), partial(_scene, order.size, task, seed)


def _scene(size: int, task: str, seed: str) -> Triplet:
    return compose(studio(size), task, seed)


def each(name: str) -> Callable[[Sequence[Row]], Any]:
    """Pick one field of the rows of a group, those that have it; lists are joined."""

    def pick(rows: Sequence[Row]) -> list[Any] | None:
        found: list[Any] = []
        for row in rows:
            value = row.get(name)
            found += value if isinstance(value, list) else [] if value is None else [value]
        return found or None

    return pick
