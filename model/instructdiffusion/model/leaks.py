"""The leak gate: whether anything that models are scored on is among what they are trained on.

Told by the source picture's name in its data set, by how pictures look, and by captions. Of what is scored on a line
each is kept in memory; what is trained on is streamed, and its pictures are decoded only where the build didn't note
how the whole of them looked. Plain pictures all look the same: they are counted, and told by the rest.

folder of shards, of a data set or of `samples.jsonl`  ->  traces  ->  the first leak of each triplet  ->  a report
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from instructdiffusion.model.benchmark import Order, held_out
from instructdiffusion.model.benchmarks.editing import SAMPLES, listed, picture_of
from instructdiffusion.model.data.looks import ALIKE, LOOK, LOOK_AFTER, apart, look, plain
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.shards import (
    MANIFEST,
    Manifest,
    Sample,
    Shard,
    pictures_of,
    read_samples,
    write_samples,
)
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, share
from instructdiffusion.model.tasks import EVERY

TOLD = 100  # leaks that a report lists
NAMED = 3  # and that an error names
LEAST_WORDS = 5  # a shorter caption fits many pictures
_CAPTIONS = ("caption", "caption_after", "source_caption")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Trace:
    """What a sample is recognised by."""

    key: str
    pictures: tuple[str, ...] = ()  # as `Example.picture`
    looks: tuple[int, ...] = ()
    captions: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether a picture is too plain to be told by how it looks."""
        return any(map(plain, self.looks))


class Leak(BaseModel):
    """A triplet that is trained on, and the held-out sample that it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    trained: str
    held_out: str
    by: str = Field(description="picture, look or caption")
    told: str

    def __str__(self) -> str:
        return f"{self.trained} is {self.held_out} ({self.told})"


class Report(BaseModel):
    """What was looked for, and found."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    clean: bool
    found: int = Field(description="triplets that leak; of a clean report those that were left out")
    by: dict[str, int] = Field(description="the same, by what they were recognised by")
    trained: dict[str, str] = Field(description="digests of manifests, by folder")
    held_out: str = Field(description="digest of the manifest of the triplets that are scored on")
    against: dict[str, int] = Field(description="samples held out, by where they lie")
    triplets: int = Field(description="that were looked at")
    plain: int = Field(0, description="of these and of what is held out, those with a picture too plain to tell by")
    leaks: tuple[Leak, ...] = Field(description="the first ones")

    def insist(self) -> Report:
        """The report, where it is clean.

        Raises:
            DataError: it is not; names the first leaks.
        """
        if self.clean:
            return self
        named = "; ".join(map(str, self.leaks[:NAMED])) + ("; ..." if self.found > NAMED else "")
        raise DataError(
            f"{self.found} of {self.triplets} triplets to train on are held out for scoring: {named}; "
            "leave these pictures out of the sources, or score on others"
        )


def leaks(
    trained: Sequence[Path],
    scored_on: Path,
    others: Sequence[str] = (),
    *,
    found: Callable[[Path, Leak], None] = lambda folder, leak: None,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Look for what is scored on among what is trained on.

    Args:
        trained: folders of shards.
        scored_on: folder of shards: the held-out triplets that models are compared on.
        others: benchmarks, each a folder of shards, of a data set as its authors publish it (of its test split; another
            is named behind a colon, as in /data/coco:val2017) or of `samples.jsonl`.
        found: called with each leak, and the folder it is in.
        progress: called with (triplets looked at, of all).

    Raises:
        DataError: a folder holds none of these, or a file in it is broken.
    """
    known, against = Known(), {}
    for place in (str(scored_on), *others):
        before = known.count
        known.add(traces(place))
        against[place] = known.count - before
    manifests = {str(folder): Manifest.load(folder) for folder in trained}
    total = sum(manifest.total for manifest in manifests.values())
    first, by, done, unseen = list[Leak](), Counter[str](), 0, known.plain
    for folder in trained:
        for trace in _of_shards(folder):
            done += 1
            unseen += trace.plain
            if leak := known.leak(trace):
                by[leak.by] += 1
                first += [leak] if len(first) < TOLD else []
                found(folder, leak)
            progress(done, total)
    return Report(
        clean=not by,
        found=by.total(),
        by=dict(by),
        trained={str(folder): digest_of(folder / MANIFEST) for folder in trained},
        held_out=digest_of(scored_on / MANIFEST),
        against=against,
        triplets=done,
        plain=unseen,
        leaks=tuple(first),
    )


def screen(
    source: Path,
    out: Path,
    scored_on: Path,
    others: Sequence[str] = (),
    *,
    also: Sequence[Path] = (),
    drop: bool = False,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Let the shards in `source` through into `out`, if nothing in them leaks; the report is of what comes through.

    Args:
        also: folders of shards that are trained on too; they are looked through, and nothing is dropped of them.
        drop: leave out what leaks instead of refusing it.
        scored_on, others, progress: as of `leaks`.

    Raises:
        DataError: something leaks; names it. Or a folder is broken, or everything leaks.
    """
    keys, elsewhere = set[str](), list[Leak]()

    def found(folder: Path, leak: Leak) -> None:
        if folder == source:
            keys.add(leak.trained)
        else:
            elsewhere.append(leak)

    report = leaks([source, *also], scored_on, others, found=found, progress=progress)
    if elsewhere or not drop:
        report.insist()
    if keys:
        _without(source, out, keys, report)
        rest = {folder: digest for folder, digest in report.trained.items() if folder != str(source)}
        trained = {str(out): digest_of(out / MANIFEST), **rest}
        return report.model_copy(update={"clean": True, "trained": trained})
    manifest = Manifest.load(source)
    for shard in manifest.shards:
        share(source / shard.name, out / shard.name)
    manifest.save(out)
    return report


class Known:
    """Everything that is held out."""

    def __init__(self) -> None:
        """Nothing is, yet."""
        self.count = self.plain = 0  # how many there are, and of these with a plain picture
        self._pictures = dict[str, str]()
        self._captions = dict[str, str]()
        self._looks = np.empty(0, np.uint64)
        self._keys = list[str]()  # by look

    def add(self, held: Iterable[Trace]) -> None:
        """Hold out some more."""
        looks = list[int]()
        for trace in held:
            self.count += 1
            self.plain += trace.plain
            for picture in trace.pictures:
                self._pictures.setdefault(picture, trace.key)
            for caption in trace.captions:
                self._captions.setdefault(caption, trace.key)
            told = [seen for seen in trace.looks if not plain(seen)]
            looks += told
            self._keys += [trace.key] * len(told)
        self._looks = np.concatenate([self._looks, np.array(looks, np.uint64)])

    def leak(self, trace: Trace) -> Leak | None:
        """What is held out and is this; None where nothing is."""
        for picture in trace.pictures:
            if key := self._pictures.get(picture):
                return Leak(trained=trace.key, held_out=key, by="picture", told=f"both of picture {picture}")
        for seen in [seen for seen in trace.looks if len(self._looks) and not plain(seen)]:
            bits = apart(self._looks, seen)
            nearest = int(bits.argmin())
            if bits[nearest] <= ALIKE:
                told = f"they look alike: {bits[nearest]} of 64 bits differ"
                return Leak(trained=trace.key, held_out=self._keys[nearest], by="look", told=told)
        for caption in trace.captions:
            if key := self._captions.get(caption):
                return Leak(trained=trace.key, held_out=key, by="caption", told=f"both captioned {caption!r}")
        return None


def traces(place: str) -> Iterator[Trace]:
    """What a folder holds: of shards, of `samples.jsonl`, or of a data set's split.

    Raises:
        DataError: it holds none of these.
    """
    address, split = place_of(place)
    folder = Path(address)
    if (folder / MANIFEST).is_file():
        yield from _of_shards(folder)
    elif (folder / SAMPLES).is_file():
        for key, line in listed(folder):
            yield Trace(f"{folder.name}/{key}", (), (look(picture_of(folder, line["source"])),), _captions(line))
    else:
        for example in held_out(Order(split=split), folder):
            yield _of_example(example, folder.name)


def place_of(text: str) -> tuple[str, str]:
    """Address and split of a place: `/data/coco:val2017` is `/data/coco` and `val2017`."""
    above, slash, last = text.rpartition("/")
    name, _, split = last.partition(":")
    return f"{above}{slash}{name}", split


def _of_example(example: Example, name: str) -> Trace:
    captions = _captions({**example.facts, **example.label})
    looks = list[int]()
    with suppress(DataError):  # a broken picture can't be scored on either
        looks = [look(load()) for load in (example.source, example.target) if load is not None]
    return Trace(f"{name}/{example.key}", tuple(filter(None, [example.picture])), tuple(looks), captions)


def _of_shards(folder: Path) -> Iterator[Trace]:
    for shard in Manifest.load(folder).shards:
        for sample in read_samples(folder, shard):
            yield _of_sample(sample, folder / shard.name)


def _of_sample(sample: Sample, path: Path) -> Trace:
    try:
        head = json.loads(sample["label.json"])
        told: Mapping[str, Any] = head["provenance"]
        shown = [told, *([told["exemplar"]] if "exemplar" in told else [])]  # a part of another picture is in it
        pictures = tuple(str(facts["picture"]) for facts in shown if facts.get("picture"))
        noted = [int(facts[name], 16) for facts in shown for name in (LOOK, LOOK_AFTER) if name in facts]
        looks = noted if LOOK in told else list(map(look, pictures_of(sample)))
        if LOOK in told and LOOK_AFTER not in told and _published(head):  # of before it was noted
            looks.append(look(pictures_of(sample)[1]))
        captions = _captions({**told, **head["label"]})
        return Trace(sample["__key__"], pictures, tuple(looks), captions)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{sample['__key__']} in shard {path} can't be read ({error}); make the shard again") from error


def _published(head: Mapping[str, Any]) -> bool:
    """Whether a triplet's target is a picture that others published, not one that was painted or synthesised here."""
    task = EVERY.get(head["task"])
    return "operation" not in head["provenance"] and (task is None or task.family != "perception")


def _without(source: Path, out: Path, keys: Container[str], report: Report) -> Manifest:
    parent, shards = Manifest.load(source), list[Shard]()
    for shard in parent.shards:
        left = (sample for sample in read_samples(source, shard) if sample["__key__"] not in keys)
        written = write_samples(out / shard.name, left)
        if written.count:
            shards.append(written)
        else:
            (out / shard.name).unlink()
    if not shards:
        raise DataError(f"everything in {source} is held out for scoring; train on other sources")
    settings = {"against": report.against}
    return parent.heir(source, "screen", settings, report=parent.report, **parent.contents(shards)).save(out)


def _captions(told: Mapping[str, Any]) -> tuple[str, ...]:
    """Captions, letters and digits apart."""
    plain = (re.sub(r"\W+", " ", str(told[name]).casefold()).strip() for name in _CAPTIONS if told.get(name))
    return tuple(caption for caption in plain if len(caption.split()) >= LEAST_WORDS)
