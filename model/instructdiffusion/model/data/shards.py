"""Triplets on disk: webdataset tar shards, and the manifest that is their version.

A sample is `<key>.source.png`, `<key>.target.png`, `<key>.label.json` and a PNG for each mask or picture in the label.
Most targets are their sources but for some pixels. In their place stands `<key>.change.png`, what to add to the
source's numbers, modulo 256: a fraction of the bytes, and of the time to read them, and the same to the bit.
The manifest lists every shard with its digest; nothing that it does not list is read.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instructdiffusion.model.data.png import SPARSE, decode_png, encode_png
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.task import Ask, Image, Label

MANIFEST = "manifest.json"
PER_SHARD = 1000  # triplets
MOST_CHANGED = 0.5  # share of a target's numbers that differ from the source's, where they are kept as a change
Sample = dict[str, Any]  # a triplet as it lies in a shard


@dataclass(frozen=True)
class Triplet:
    """Instruction, source and target, with the truth behind them and where they come from."""

    key: str
    ask: Ask
    source: Image
    target: Image
    label: Label
    provenance: dict[str, Any] = field(default_factory=dict)


class Shard(BaseModel):
    """One file of a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(
        pattern=r"^[^/\\]*[^/\\.][^/\\]*$", description="of a file in the same folder, never of one elsewhere"
    )
    digest: str
    count: int
    origins: tuple[tuple[str, int], ...] = Field((), description="sources of its triplets: how many of which in a row")
    tasks: tuple[tuple[str, int], ...] = Field((), description="their tasks, likewise")
    licences: tuple[tuple[str, int], ...] = Field((), description="how many of them state which licence, sorted")


class Origin(BaseModel):
    """What a data set has of one of its sources, as it was built: before any filter."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    dataset: str = Field(description="as its authors name it; scenes for composed ones")
    weight: float = Field(description="draws of each triplet in an epoch of training")
    offered: int = Field(0, description="examples and annotations that were looked at")
    counts: dict[str, int] = Field(default_factory=dict, description="triplets per task")
    skipped: dict[str, int] = Field(default_factory=dict, description="what was left out, by reason")


class Version(BaseModel):
    """A data set that another was made of: what its manifest said of where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    digest: str
    made: str
    settings: dict[str, Any]
    counts: dict[str, int]
    parents: tuple[str, ...]


class Manifest(BaseModel):
    """The version of a data set; two data sets with equal manifests hold equal triplets."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int = Field(description="side of the pictures in pixels")
    split: str
    seed: int | str  # in words where several data sets were joined
    counts: dict[str, int] = Field(description="triplets per task")
    shards: tuple[Shard, ...]
    licences: tuple[str, ...] = ()
    made: str = Field("", description="the step that made it, a verb")
    settings: dict[str, Any] = Field(default_factory=dict, description="all else that the step was told")
    parents: tuple[str, ...] = Field((), description="digests of the manifests this one was made from")
    history: tuple[Version, ...] = Field((), description="those, and what they were made from, the nearest first")
    sources: dict[str, Origin] = Field(default_factory=dict, description="what was built of which source, by its name")
    report: dict[str, Any] = Field(default_factory=dict, description="what the filter kept and dropped, and why")

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def heir(self, folder: Path, made: str, settings: Mapping[str, Any], **changes: Any) -> Manifest:
        """The manifest of a data set that is made of this one.

        Args:
            folder: where this one lies.
            made: the step, a verb.
            settings: all else that the step was told, JSON-able.
            changes: fields that differ; the report is empty unless it is among them.
        """
        digest = digest_of(folder / MANIFEST)
        same = {name: getattr(self, name) for name in Version.model_fields if name != "digest"}
        told = Version(digest=digest, **same)
        own = {"made": made, "settings": dict(settings), "parents": (digest,), "history": (told, *self.history)}
        return self.model_copy(update={"report": {}, **own, **changes})

    def contents(self, shards: Sequence[Shard]) -> dict[str, Any]:
        """The fields of a manifest that tell what is in shards made of this data set's, as they were written.

        Licences are all of this data set's where a triplet states none of its own, as composed ones don't.
        """
        found, stated = Counter[tuple[str, str]](), Counter[str]()
        for shard in shards:
            found.update(zip(one_by_one(shard.origins), one_by_one(shard.tasks), strict=True))
            stated.update(dict(shard.licences))
        counts = Counter[str]()
        for (_, task), count in found.items():
            counts[task] += count
        sources = {}
        for name, origin in self.sources.items():
            own = {task: count for (source, task), count in sorted(found.items()) if source == name}
            sources[name] = origin.model_copy(update={"counts": own})
        licences = tuple(sorted(stated)) if stated.total() == found.total() else self.licences
        return {
            "shards": tuple(shards),
            "counts": dict(sorted(counts.items())),
            "sources": sources,
            "licences": licences,
        }

    def save(self, folder: Path) -> Manifest:
        """Write the manifest last: a folder without one is not a data set."""
        write_atomic(folder / MANIFEST, self.model_dump_json(indent=1))
        return self

    @staticmethod
    def load(folder: Path) -> Manifest:
        """Read the manifest of a folder of shards.

        Raises:
            DataError: there is none, or it is not one of ours.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise DataError(f"{folder} holds no {MANIFEST}: not a finished data set; run the synthesize step again")
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(f"{path} is broken ({error.errors()[0]['msg']}); run the synthesize step again") from error


def write_shard(path: Path, triplets: Iterable[Triplet]) -> Shard:
    """Write one tar file whole or not at all; the same triplets give the same bytes."""
    return write_samples(path, map(_sample, triplets))


def write_samples(path: Path, samples: Iterable[Sample]) -> Shard:
    """The same of samples as `read_samples` gives them: nothing is encoded again."""
    buffer = io.BytesIO()
    origins, tasks, licences = list[str](), list[str](), Counter[str]()
    import webdataset  # here, for it imports torch, and who reads needs none

    with webdataset.TarWriter(buffer, mtime=0.0) as tar:
        for sample in samples:
            tar.write(sample)
            head = head_of(sample, path)
            facts = head.get("provenance", {})
            origins.append(source_of(facts))
            tasks.append(head.get("task", ""))  # exemplars are of none
            licences.update(filter(None, [facts.get("licence")]))
    write_atomic(path, buffer.getvalue())
    told = {"origins": in_rows(origins), "tasks": in_rows(tasks), "licences": tuple(sorted(licences.items()))}
    return Shard(name=path.name, digest=digest_of(path), count=len(tasks), **told)


def source_of(provenance: Mapping[str, Any]) -> str:
    """The name of the source that a triplet is of; empty: of none that has a name."""
    return str(provenance.get("source", ""))


def in_rows(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Equal names that follow each other as one, with how many they are."""
    return tuple((name, len([*some])) for name, some in groupby(names))


def one_by_one(rows: Iterable[tuple[str, int]]) -> list[str]:
    """The names again that `in_rows` counted."""
    return [name for name, count in rows for _ in range(count)]


def write_shard_once(path: Path, request: str, triplets: Iterable[Triplet]) -> Shard:
    """`write_shard`, unless an earlier run finished it: its digest is kept beside it, one mark for each request.

    Args:
        request: everything that the triplets depend on, in words.
    """
    return write_samples_once(path, request, map(_sample, triplets))


def write_samples_once(path: Path, request: str, samples: Iterable[Sample]) -> Shard:
    """The same of samples."""
    return write_once(path, request, lambda: write_samples(path, samples))


def write_once(path: Path, request: str, write: Callable[[], Shard]) -> Shard:
    """The same of any file of a data set, which `write` writes."""
    mark = path.with_suffix(f".{crc32(request.encode()):08x}.json")
    if done := _finished(path, mark):
        return done
    shard = write()
    write_atomic(mark, shard.model_dump_json())
    return shard


def _finished(path: Path, mark: Path) -> Shard | None:
    """What an earlier run wrote, unless it is damaged or its mark is."""
    if not (mark.is_file() and path.is_file()):
        return None
    try:
        done = Shard.model_validate_json(mark.read_bytes())
    except ValidationError:
        return None
    return done if done.digest == digest_of(path) else None


def read_triplets(folder: Path, tasks: Iterable[str] | None = None) -> Iterator[Triplet]:
    """Stream the triplets of a data set in order, of some tasks or of all.

    Raises:
        DataError: a shard is missing, damaged, or not the one the manifest lists; names the shard.
    """
    wanted = set(tasks) if tasks is not None else None
    for shard in Manifest.load(folder).shards:
        for sample in read_samples(folder, shard):
            if wanted is None or head_of(sample, folder / shard.name)["task"] in wanted:
                yield triplet_of(sample, folder / shard.name)


def read_samples(folder: Path, shard: Shard) -> Iterator[Sample]:
    """Stream the samples of one shard in order: `__key__`, and the bytes of each file by the end of its name.

    Raises:
        DataError: as `read_triplets`.
    """
    path = checked(folder, shard)
    try:
        with tarfile.open(path) as tar:
            files = ((*member.name.partition(".")[::2], tar.extractfile(member)) for member in tar if member.isfile())
            for key, some in groupby(files, key=itemgetter(0)):
                yield {"__key__": key, **{ending: file.read() for _, ending, file in some if file is not None}}
    except (tarfile.TarError, ValueError) as error:
        raise _unreadable(path, error) from error


def checked(folder: Path, shard: Shard) -> Path:
    """The file of a shard, as the manifest lists it.

    Raises:
        DataError: it is missing, or its digest is another one.
    """
    path = folder / shard.name
    if not path.is_file():
        raise DataError(f"shard {path} is missing; run the step that made it again")
    if digest_of(path) != shard.digest:
        raise DataError(
            f"shard {path} is damaged: its digest is not the manifest's; delete {folder} and run the step again"
        )
    return path


def triplet_of(sample: Sample, path: Path) -> Triplet:
    """Decode a sample of the shard at `path`.

    Raises:
        DataError: a file of it is missing or damaged; names the shard.
    """
    head = head_of(sample, path)
    try:
        return _triplet(sample, head)
    except (KeyError, ValueError) as error:
        raise _unreadable(path, error) from error


def pictures_of(sample: Sample) -> tuple[Image, Image]:
    """Source and target of a sample.

    Raises:
        KeyError, ValueError: one is missing or damaged.
    """
    source = decode_png(sample["source.png"])
    if "change.png" in sample:
        return source, source + decode_png(sample["change.png"])
    return source, decode_png(sample["target.png"])


def _sample(triplet: Triplet) -> Sample:
    sample: Sample = {"source.png": encode_png(triplet.source)}
    change = triplet.target - triplet.source if triplet.target.shape == triplet.source.shape else None
    if change is not None and np.count_nonzero(change) < MOST_CHANGED * change.size:
        sample["change.png"] = encode_png(change, *SPARSE)
    else:
        sample["target.png"] = encode_png(triplet.target)
    label: dict[str, Any] = {}
    for name, value in triplet.label.items():
        if not isinstance(value, np.ndarray):
            label[name] = value
        elif value.shape == triplet.target.shape and np.array_equal(value, triplet.target):
            label[name] = {"array": "target"}
        else:
            label[name] = {"array": "mask" if value.dtype == np.bool_ else "picture" if value.ndim == 3 else "map"}
            sample[f"label-{name}.png"] = encode_png(value)
    ask = triplet.ask
    head = {"task": ask.task, "instruction": ask.instruction, "marks": ask.marks, "label": label}
    document = json.dumps({**head, "provenance": triplet.provenance}, sort_keys=True)
    return {"__key__": triplet.key, "label.json": document.encode(), **sample}


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]  # an archive's has a line for each kind of archive
    return DataError(f"shard {path} can't be read ({reason}); delete {path.parent} and run the step again")


def head_of(sample: Sample, path: Path) -> dict[str, Any]:
    """What a sample's label file says: task, instruction, marks, label, provenance; pictures are not decoded.

    Raises:
        DataError: the file is missing or damaged; names the shard.
    """
    try:
        head: dict[str, Any] = json.loads(sample["label.json"])
    except (KeyError, ValueError) as error:
        raise _unreadable(path, error) from error
    return head


def _triplet(sample: Sample, head: dict[str, Any]) -> Triplet:
    source, target = pictures_of(sample)
    label = {}
    for name, value in head["label"].items():
        kind = value.get("array") if isinstance(value, dict) else None
        label[name] = (
            value if kind is None else target if kind == "target" else decode_png(sample[f"label-{name}.png"], kind)
        )
    ask = Ask(head["task"], head["instruction"], tuple((a, b) for a, b in head["marks"]))
    return Triplet(sample["__key__"], ask, source, target, label, head["provenance"])
