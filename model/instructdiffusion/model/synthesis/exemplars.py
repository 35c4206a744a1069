"""Exemplars: things cut out of photographs, to be put where others are; found by how much they look alike.

A folder holds shards of them, as triplets lie in theirs, the manifest that is their version, and an index of their
features. The index is exact and lies on disk; of the things, only those that are asked for are read.

    <key>.thing.png  <key>.mask.png  <key>.label.json  <key>.features.npy
"""

from __future__ import annotations

import io
import json
import tarfile
from bisect import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from instructdiffusion.model.data.png import decode_png, encode_png
from instructdiffusion.model.data.shards import MANIFEST, Manifest, Sample, Shard, checked
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.synthesis.cutouts import Cutout
from instructdiffusion.model.synthesis.features import Features, Vectors

KIND = "exemplar"  # in a manifest's counts
INDEX = "index.faiss"


@dataclass(frozen=True)
class Exemplar:
    """A thing, the words for it, and where it comes from: data set, example, picture and licence."""

    thing: Cutout
    phrase: str
    facts: dict[str, Any]


class Exemplars:
    """A folder of them, opened."""

    def __init__(self, folder: Path, features: Features) -> None:
        """Open it.

        Raises:
            DataError: it holds no exemplars, or its index is missing or damaged.
            ConfigError: they were seen with other features.
        """
        self.folder, self.features = folder, features
        self.manifest = Manifest.load(folder)
        if KIND not in self.manifest.counts:
            raise DataError(f"{folder} holds no exemplars; make them with `instructdiffusion data exemplars`")
        if (made := self.manifest.settings["features"]) != features.name:
            raise ConfigError(f"the exemplars in {folder} were seen with {made}, not {features.name}; make them again")
        self._index = _read_index(folder, self.manifest.settings["index"])
        self._ends = list(accumulate(shard.count for shard in self.manifest.shards))

    @property
    def version(self) -> str:
        """The digest that stands for all of them."""
        return version_of(self.folder)

    def nearest(self, thing: Cutout, most: int) -> Iterator[Exemplar]:
        """What looks most like a thing, the nearest first, `most` at most; read as it is asked for."""
        _, (found,) = self._index.search(self.features.of([thing]), min(most, self._index.ntotal))
        return (self[int(number)] for number in found)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def __getitem__(self, number: int) -> Exemplar:
        place = bisect(self._ends, number)
        shard = self.manifest.shards[place]
        parts = _contents(self.folder, shard)[number - self._ends[place] + shard.count]
        with (self.folder / shard.name).open("rb") as file:
            read = {end: _part(file, *parts[end]) for end in ("thing.png", "mask.png", "label.json")}
        told = json.loads(read["label.json"])
        thing = Cutout(decode_png(read["thing.png"]), decode_png(read["mask.png"], "mask"))
        return Exemplar(thing, told["phrase"], told["facts"])


def version_of(folder: Path) -> str:
    """What stands for every byte of a folder of exemplars, or of shards."""
    return digest_of(folder / MANIFEST)


@lru_cache(maxsize=2)
def exemplars(folder: Path, address: str) -> Exemplars:
    """The exemplars in a folder, looked for with the features that an address names; opened once.

    Raises:
        DataError, ConfigError: as `Exemplars` and `features`.
    """
    from instructdiffusion.model.synthesis.features import features

    return Exemplars(folder, features(address))


def sample_of(key: str, exemplar: Exemplar, vector: Vectors) -> Sample:
    """An exemplar as it lies in a shard, with its features."""
    array = io.BytesIO()
    np.save(array, vector, allow_pickle=False)
    return {
        "__key__": key,
        "thing.png": encode_png(exemplar.thing.picture),
        "mask.png": encode_png(exemplar.thing.mask),
        "label.json": json.dumps({"phrase": exemplar.phrase, "facts": exemplar.facts}, sort_keys=True).encode(),
        "features.npy": array.getvalue(),
    }


def vector_of(sample: Sample) -> Vectors:
    """The features in a sample, one row."""
    return np.asarray(np.load(io.BytesIO(sample["features.npy"]), allow_pickle=False), np.float32)


def write_index(folder: Path, rows: Iterable[Vectors]) -> str:
    """Write the index of all rows, one or more, and return its digest."""
    faiss = _library()
    index = None
    for row in rows:
        index = index or faiss.IndexFlatIP(len(row))
        index.add(row[None])
    assert index is not None
    return digest_of(write_atomic(folder / INDEX, faiss.serialize_index(index).tobytes()))


def _read_index(folder: Path, digest: str) -> Any:
    path = folder / INDEX
    if not path.is_file() or digest_of(path) != digest:
        raise DataError(f"{path} is missing or damaged; run `instructdiffusion data exemplars` again")
    faiss = _library()
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)  # one copy in memory for all workers


@lru_cache(maxsize=256)
def _contents(folder: Path, shard: Shard) -> list[dict[str, tuple[int, int]]]:
    """Where the parts of each sample of a shard lie: start and length, by the end of their names."""
    found = dict[str, dict[str, tuple[int, int]]]()
    with tarfile.open(checked(folder, shard)) as tar:
        for member in tar:
            key, _, end = member.name.partition(".")
            found.setdefault(key, {})[end] = (member.offset_data, member.size)
    return list(found.values())


def _part(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def _library() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ConfigError("faiss is not installed; run: pip install 'instructdiffusion[synthesis]'") from error
    return faiss
