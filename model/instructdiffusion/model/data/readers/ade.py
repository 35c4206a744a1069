"""ADE20K: scenes with every pixel's class, as a challenge of 150 classes and as the full set, of which 847 are scored.

A class has several names, and is asked for by the first that no other class of the list has as its first. Nothing is
said to be absent: what is in a picture may be labelled by one of several classes, or lie within something larger that
was labelled as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar

from instructdiffusion.model.data.readers.folders import pictures_in
from instructdiffusion.model.data.readers.maps import Classes, Maps, Pair, listed_classes


class Ade(Maps):
    """Pictures and maps in two folders of one division."""

    licence = "annotations BSD-3-Clause; pictures for research, not commercial"
    address: ClassVar[str] = "https://ade20k.csail.mit.edu"
    folders: ClassVar[tuple[str, str]]  # of pictures and of maps
    ending: ClassVar[str]  # of maps

    def splits(self, folder: Path) -> tuple[str, ...]:
        there = (s for s in ("training", "validation") if all((folder / f / s).is_dir() for f in self.folders))
        return tuple(there)

    def pairs(self, folder: Path, split: str) -> Iterator[Pair]:
        pictures, maps = (folder / f / split for f in self.folders)
        for name in pictures_in(maps):
            stem = Path(name).stem
            yield Pair(stem, pictures / f"{stem}.jpg", maps / name)

    def picture(self, stem: str) -> str:
        return f"ade/{stem}"  # both releases name a picture alike

    def phrases(self, names: tuple[str, ...], there: Collection[str]) -> Mapping[str, str]:
        return spoken(names)


class Ade150(Ade):
    """ADEChallengeData2016: `objectInfo150.txt`, `images/<split>/*.jpg` and `annotations/<split>/*.png`.

    A pixel of 0 is unlabelled, others are numbers of the list.
    """

    name = "ADE20K-150"
    address = "http://sceneparsing.csail.mit.edu"
    listed = "objectInfo150.txt"
    folders = ("images", "annotations")

    def classes(self, folder: Path, split: str) -> Classes:
        form = r"\s*(\d{1,3})\s*\t.*\t\s*(.+?)\s*"  # number, share of pixels, counts, names
        names = listed_classes(folder / self.listed, form, head=1, what=f"{self.listed} of the challenge")
        return Classes(names, {0})


class Ade847(Ade):
    """ADE20K's 847 classes, as MaskFormer's `prepare_ade20k_full_sem_seg.py` writes them from the full set of 2021.

    The full set has over 3000 classes and no list of the 847 that are scored by custom. The script has: it writes
    pictures of up to 512 pixels to `images_detectron2/<split>/*.jpg`, and to `annotations_detectron2/<split>/*.tif`, in
    16 bits, the place of each pixel's class among the 847, from 0 on, and 65535 for all else. The names are read from
    OpenSeg's list `ade20k_847.txt`, which belongs into the folder: in it 0 is no class, and 1 is that of the value 0.
    """

    name = "ADE20K-847"
    listed = "ade20k_847.txt"
    folders = ("images_detectron2", "annotations_detectron2")

    def classes(self, folder: Path, split: str) -> Classes:
        numbers = listed_classes(folder / self.listed, what=f"OpenSeg's list {self.listed}")
        return Classes({number - 1: name for number, name in numbers.items() if number}, {65535})


@cache
def spoken(names: tuple[str, ...]) -> Mapping[str, str]:
    """What to call each class of a list, whose synonyms are split by commas.

    The first synonym; where another class has the same, the next that no class has as its first; the first where there
    is none.
    """
    synonyms = {name: [part.strip() for part in name.split(",") if part.strip()] or [name] for name in names}
    firsts = Counter(parts[0] for parts in synonyms.values())
    return {
        name: parts[0] if firsts[parts[0]] == 1 else next((part for part in parts if part not in firsts), parts[0])
        for name, parts in synonyms.items()
    }


READERS = (Ade150(), Ade847())
