"""Restoration: the same picture damaged and clean, as GoPro, REDS, SIDD and CLWD publish them in two folders or files.

The source is the damaged picture; target and the label's `clean` are the clean one. A pair whose pictures differ in
size is left out. Heads of files are read to tell so, pixels are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar

from instructdiffusion.model.data.pictures import load, size_of
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.folders import folders_in, names, pictures_in
from instructdiffusion.model.data.readers.walk import Skip, Walker
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image

TILE = 512  # pixels: large pictures are cut into squares of this side
MISSING = "clean picture: missing on disk"
OTHER_SIZE = "clean picture: another size than the damaged one"

Size = tuple[int, int]  # width, height


class Pairs(Walker):
    """Pairs of files with one name in two folders. Subclasses say where the folders are."""

    flips = True

    def recognises(self, folder: Path) -> bool:
        return bool(self.splits(folder))

    def scenes(self, folder: Path, split: str) -> Iterator[tuple[str, Path, Path]]:
        """Each scene's name ("" where there are no scenes), folder of damaged pictures and folder of clean ones."""
        raise NotImplementedError

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        for scene, damaged, clean in self.scenes(folder, split):
            if not clean.is_dir():
                raise DataError(f"{clean} is missing: no clean pictures; download the data set again")
            for name in pictures_in(damaged):
                yield self._pair(f"{split}/{scene}/{Path(name).stem}".replace("//", "/"), damaged / name, clean / name)

    def _pair(self, name: str, damaged: Path, clean: Path) -> Example | Skip:
        key, size = name.replace("/", "-"), pair_size(damaged, clean)
        if isinstance(size, str):
            return Skip(size, key)
        target = partial(load, clean)
        label = {"held_out": False}
        picture = f"{self.name.lower()}/{name}"
        return Example(key, self.task, picture, partial(load, damaged), label, target, lazy={"clean": target})


class GoPro(Pairs):
    """GOPRO_Large: `<split>/<scene>/blur/*.png` (or `blur_gamma`, where that alone is there) and `sharp/*.png`."""

    name = "GoPro"
    task = "deblur"
    licence = "CC BY 4.0"
    address = "https://seungjunnah.github.io/Datasets/gopro"
    weight = 2.0

    def splits(self, folder: Path) -> tuple[str, ...]:
        return tuple(s for s in ("train", "test") if any((folder / s).glob("*/sharp")))

    def scenes(self, folder: Path, split: str) -> Iterator[tuple[str, Path, Path]]:
        for scene in folders_in(folder / split):
            inside = folder / split / scene
            blurred = next((b for b in ("blur", "blur_gamma") if (inside / b).is_dir()), None)
            if blurred is None:
                raise DataError(f"{inside / 'blur'} is missing: no blurred pictures; download the data set again")
            yield scene, inside / blurred, inside / "sharp"


class Reds(Pairs):
    """REDS: `<split>_blur/<scene>/*.png` and `<split>_sharp/<scene>/*.png`, in the folder or in `<split>/`."""

    name = "REDS"
    task = "deblur"
    licence = "CC BY 4.0"
    address = "https://seungjunnah.github.io/Datasets/reds.html"
    weight = 0.2
    places: ClassVar[tuple[str, ...]] = ("{s}/{s}_blur", "{s}_blur")

    def splits(self, folder: Path) -> tuple[str, ...]:
        return tuple(s for s in ("train", "val") if self._blurred(folder, s))

    def _blurred(self, folder: Path, split: str) -> Path | None:
        return next((p for place in self.places if (p := folder / place.format(s=split)).is_dir()), None)

    def scenes(self, folder: Path, split: str) -> Iterator[tuple[str, Path, Path]]:
        blurred = self._blurred(folder, split)
        if blurred is not None:
            for scene in folders_in(blurred):
                yield scene, blurred / scene, blurred.with_name(f"{split}_sharp") / scene


class Clwd(Pairs):
    """CLWD: `<split>/Watermarked_image/*.jpg` and `<split>/Watermark_free_image/*.jpg`.

    Its masks, watermarks and opacities are not needed: the task paints the whole picture.
    """

    name = "CLWD"
    task = "watermark"
    licence = "no licence stated; pictures of PASCAL VOC 2012 under their owners' Flickr licences"
    address = "https://github.com/MRUIL/WDNet"
    weight = 0.2

    def splits(self, folder: Path) -> tuple[str, ...]:
        return tuple(s for s in ("train", "test") if (folder / s / "Watermarked_image").is_dir())

    def scenes(self, folder: Path, split: str) -> Iterator[tuple[str, Path, Path]]:
        yield "", folder / split / "Watermarked_image", folder / split / "Watermark_free_image"


class Sidd(Walker):
    """SIDD Small or Medium, sRGB: `Data/<scene instance>/*NOISY_SRGB_*.PNG` and `*GT_SRGB_*.PNG`.

    Its photographs have up to 16 million pixels: each example is a tile of 512 pixels, cut out when it is loaded.
    """

    name = "SIDD"
    task = "denoise"
    licence = "the authors' terms of use, on its page"
    address = "https://abdokamel.github.io/sidd/"
    weight = 0.35  # 20 a photograph, as in the paper's release, which has about 57 tiles
    flips = True

    def recognises(self, folder: Path) -> bool:
        return bool(self.splits(folder))

    def splits(self, folder: Path) -> tuple[str, ...]:
        return ("train",) if any((folder / "Data").glob("*/*NOISY_SRGB_*")) else ()

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        for scene in folders_in(folder / "Data"):
            inside = folder / "Data" / scene
            for name in names(inside, lambda entry: "NOISY_SRGB_" in entry.name):
                clean = inside / name.replace("NOISY_SRGB_", "GT_SRGB_")
                number = re.sub(r".*NOISY_SRGB_|\.\w+$", "", name)
                yield from self._tiles(f"{split}-{scene}-{number}", f"sidd/{scene}/{number}", inside / name, clean)

    def _tiles(self, key: str, picture: str, noisy: Path, clean: Path) -> Iterator[Example | Skip]:
        size = pair_size(noisy, clean)
        if isinstance(size, str):
            yield Skip(size, key)
            return
        for top in starts(size[1]):
            for left in starts(size[0]):
                target = partial(tile, clean, left, top)
                source, label = partial(tile, noisy, left, top), {"held_out": False}
                this = f"{key}-{left}-{top}"
                yield Example(this, self.task, picture, source, label, target, lazy={"clean": target})


def pair_size(damaged: Path, clean: Path) -> Size | str:
    """Width and height of both pictures, from their heads; or the reason why they are no pair."""
    if not clean.is_file():
        return MISSING
    try:
        size = size_of(damaged)
    except DataError:
        return "damaged picture: broken or far too large"
    try:
        return size if size_of(clean) == size else OTHER_SIZE
    except DataError:
        return "clean picture: broken or far too large"


def starts(length: int, side: int = TILE) -> list[int]:
    """Where tiles begin along one side: next to each other, the last one flush with the end."""
    return [*range(0, max(length - side, 0), side), max(length - side, 0)]


def tile(path: Path, left: int, top: int) -> Image:
    """A square of 512 pixels of a picture, or as much of it as there is."""
    return _whole(path, path.stat().st_mtime_ns if path.exists() else 0)[top : top + TILE, left : left + TILE].copy()


@lru_cache(maxsize=2)  # a noisy photograph and its clean one, while their tiles are read one after another
def _whole(path: Path, changed: int) -> Image:
    return load(path)


READERS = (GoPro(), Reds(), Sidd(), Clwd())
