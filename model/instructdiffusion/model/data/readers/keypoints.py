"""People and their joints: COCO, CrowdPose and AI Challenger, each as its authors publish it.

An example is one person; `people` says what its label holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from instructdiffusion.model.data import lexicon
from instructdiffusion.model.data.listing import Index, entries, indexes
from instructdiffusion.model.data.pictures import coco_picture
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.people import MISSING, NO_JOINTS, People, numbers, triples, within
from instructdiffusion.model.data.readers.walk import Skip, first_folder
from instructdiffusion.model.errors import DataError


class Category(NamedTuple):
    """What a category of annotations is called, and its joints in the order of the file."""

    phrase: str
    joints: tuple[str, ...]


class CocoLike(People):
    """Annotations as COCO writes them: `images`, `annotations` and `categories` in one file a split."""

    files: ClassVar[tuple[str, ...]]  # where annotation files lie; the star is the split
    folders: ClassVar[tuple[str, ...]]  # where pictures lie; {split} is the split

    def recognises(self, folder: Path) -> bool:
        return bool(self.splits(folder))

    def splits(self, folder: Path) -> tuple[str, ...]:
        return tuple(sorted(self._files(folder)))

    def _files(self, folder: Path) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for pattern in self.files:
            before, after = Path(pattern).name.split("*")
            for path in folder.glob(pattern):
                found.setdefault(path.name.removeprefix(before).removesuffix(after), path)
        return found

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        path = self._files(folder)[split]
        pictures = first_folder(folder, *(name.format(split=split) for name in self.folders))
        names = self._names(path)
        licences = {str(e.get("id")): _licence(e) for e in entries(path, "licenses") if isinstance(e, dict)}
        with indexes(2) as (images, seen):
            _keep_images(path, images)
            for number, entry in enumerate(entries(path, "annotations")):
                yield self._annotation(path, split, number, entry, names, pictures, images, seen, licences)

    def _annotation(
        self, path: Path, split: str, number: int, entry: Any, names: dict[str, Category], pictures: Path,
        images: Index, seen: Index, licences: dict[str, str],
    ) -> Example | Skip:  # fmt: skip
        if not isinstance(entry, dict) or "id" not in entry:
            return Skip("id: missing", f"{path.name} annotations[{number}]")
        key = f"{split}-{entry['id']}"
        if not seen.add(entry["id"]):
            return Skip("id: given twice", key)
        if entry.get("iscrowd"):
            return Skip("iscrowd: a crowd, not a person", key)
        if str(entry.get("category_id")) not in names:
            return Skip("category_id: no category with joints", key)
        image = images.get(entry.get("image_id"))
        if image is None:
            return Skip("image_id: no such picture", key)
        category = names[str(entry["category_id"])]
        joints = triples(entry.get("keypoints"), category.joints)
        if joints is None:
            return Skip("keypoints: not three finite numbers a joint", key)
        if not joints:
            return Skip(NO_JOINTS, key)
        box = numbers(entry.get("bbox"), 4)
        if box is None:
            return Skip("bbox: not four finite numbers", key)
        file = self.file(pictures, image["file_name"])
        if not file.is_file():
            return Skip(MISSING, key)
        left, top, width, height = box
        facts = _facts(image, licences)
        size = (image["width"], image["height"])
        whole = (left, top, left + width, top + height)
        known = numbers([entry.get("area")], 1)
        area = known[0] if known and known[0] > 0 else None
        picture = self.picture(entry["image_id"], image)
        return self.person(key, picture, file, size, joints, whole, facts, phrase=category.phrase, area=area)

    def picture(self, image_id: Any, image: Mapping[str, Any]) -> str:
        """The picture's name, the same wherever else it is used."""
        return f"{self.name.lower()}/{image['file_name']}"

    def file(self, folder: Path, name: str) -> Path:
        """Where a picture lies, by the name that the annotations give it."""
        return folder / name

    def phrase(self, category: str) -> str:
        """What a thing of a category is called in an instruction."""
        return "person"

    def _names(self, path: Path) -> dict[str, Category]:
        """Joints by category, in the file's own order where it gives one."""
        found = {}
        for category in entries(path, "categories"):
            given = category.get("keypoints") if isinstance(category, dict) else None
            if isinstance(given, list) and given:
                try:
                    joints = tuple(lexicon.joint(str(name)) for name in given)
                    found[str(category.get("id"))] = Category(self.phrase(str(category.get("name"))), joints)
                except DataError as error:
                    raise DataError(f"{path}: categories.keypoints: {error}") from error
        if not found:
            raise DataError(f"{path}: categories: no category with keypoints; is this the file with the joints?")
        return found


class CocoKeypoints(CocoLike):
    """Joints of COCO 2017 (or 2014): `annotations/person_keypoints_<split>.json` and `<split>/*.jpg`."""

    name = "COCO keypoints"
    licence = "annotations CC BY 4.0; pictures under their owners' Flickr licences, listed one by one"
    address = "https://cocodataset.org/#download"
    joints = lexicon.COCO
    half_body = 0.3
    files = ("annotations/person_keypoints_*.json", "person_keypoints_*.json")
    folders = ("{split}", "images/{split}")

    def picture(self, image_id: Any, image: Mapping[str, Any]) -> str:
        return coco_picture(int(image_id)) if str(image_id).isdecimal() else f"coco/{image['file_name']}"


class CrowdPose(CocoLike):
    """CrowdPose: `crowdpose_<split>.json` (or in `json/`, `annotations/`) and `images/*.jpg`."""

    name = "CrowdPose"
    licence = "for research, not commercial; pictures from COCO, MPII and AI Challenger under their terms"
    address = "https://github.com/Jeff-sjtu/CrowdPose"
    joints = lexicon.CROWD_POSE
    files = ("crowdpose_*.json", "json/crowdpose_*.json", "annotations/crowdpose_*.json")
    folders = ("images",)


class AiChallenger(CocoLike):
    """AI Challenger 2017: `keypoint_<split>_annotations_<date>.json` and `keypoint_<split>_images_<date>/*.jpg`.

    Both lie in `ai_challenger_keypoint_<split>_<date>/` or in the folder itself. The conversion to COCO's format,
    `annotations/aic_<split>.json`, is read too.
    """

    name = "AIC"
    licence = "for research, not commercial"
    address = "https://github.com/AIChallenger/AI_Challenger_2017"
    weight = 0.1
    joints = lexicon.AIC
    files = ("annotations/aic_*.json",)
    folders = ("{split}", "images/{split}", "images")

    def splits(self, folder: Path) -> tuple[str, ...]:
        return tuple(sorted({*self._files(folder), *self._native(folder)}))

    def _native(self, folder: Path) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for pattern in ("keypoint_*_annotations_*.json", "*/keypoint_*_annotations_*.json"):
            for path in sorted(folder.glob(pattern)):
                if match := re.fullmatch(r"keypoint_(\w+)_annotations_\d+\.json", path.name):
                    found.setdefault(match[1], path)
        return found

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        path = self._native(folder).get(split)
        places = (f"keypoint_{split}_images_*", f"*/keypoint_{split}_images_*")
        pictures = sorted(p for place in places for p in folder.glob(place) if p.is_dir())
        if path is None:
            yield from super().walk(folder, split)
            return
        if not pictures:
            raise DataError(f"{folder}: no folder keypoint_{split}_images_<date>; unpack the pictures there")
        with indexes(1) as (seen,):
            for number, entry in enumerate(entries(path)):
                name = entry.get("image_id") if isinstance(entry, dict) else None
                if not isinstance(name, str):
                    yield Skip("image_id: missing", f"{split}-{number}")
                elif not seen.add(name):
                    yield Skip("image_id: given twice", f"{split}-{name}")
                else:
                    yield from self._people(split, name, entry, pictures[0])

    def _people(self, split: str, name: str, entry: dict[str, Any], pictures: Path) -> Iterator[Example | Skip]:
        points, boxes = entry.get("keypoint_annotations"), entry.get("human_annotations")
        if not isinstance(points, dict) or not isinstance(boxes, dict):
            yield Skip("keypoint_annotations, human_annotations: missing", f"{split}-{name}")
            return
        path = within(pictures, f"{name}.jpg")
        there = path is not None and path.is_file()
        for human in sorted(points, key=lambda h: (len(h), h)):
            key = f"{split}-{name}-{human}"
            joints, box = triples(points[human], self.joints, known=(1, 2), seen=1), numbers(boxes.get(human), 4)
            if joints is None:
                yield Skip("keypoint_annotations: not three finite numbers a joint", key)
            elif box is None:
                yield Skip("human_annotations: not four finite numbers", key)
            elif path is None or not there:
                yield Skip(MISSING, key)
            else:
                facts = {"address": str(entry["url"])} if entry.get("url") else {}
                whole = (box[0], box[1], box[2], box[3])
                yield self.person(key, f"aic/{name}", path, None, joints, whole, facts)


def _keep_images(path: Path, images: Index) -> None:
    """Keep what is needed of each picture of a COCO file.

    Raises:
        DataError: there is none, one lacks a field, or two have one id; names the file and the field.
    """
    for number, entry in enumerate(entries(path, "images")):
        where = f"{path}: images[{number}]"
        if not isinstance(entry, dict) or "id" not in entry:
            raise DataError(f"{where}.id is missing; download the file again")
        name = entry.get("file_name")
        if not isinstance(name, str) or within(path.parent, name) is None:
            raise DataError(f"{where}.file_name is no name of a file: {name!r}; download the file again")
        size = numbers([entry.get("width"), entry.get("height")], 2)
        if size is None or min(size) < 1:
            raise DataError(f"{where}: width and height are not positive numbers; download the file again")
        kept = {"file_name": name, "width": int(size[0]), "height": int(size[1])}
        kept |= {k: entry[k] for k in ("license", "flickr_url", "coco_url") if k in entry}
        if not images.add(entry["id"], kept) and images.get(entry["id"]) != kept:
            raise DataError(f"{where}.id is {entry['id']}, which another picture has; make the ids unique")
    if not len(images):
        raise DataError(f"{path}: images: missing or empty; download the file again")


def _facts(image: Mapping[str, Any], licences: Mapping[str, str]) -> dict[str, str]:
    """Licence and address of a picture as its data set lists them."""
    address = image.get("flickr_url") or image.get("coco_url")
    licence = licences.get(str(image.get("license")))
    facts = {"licence": licence, "address": str(address) if address else None}
    return {name: value for name, value in facts.items() if value}


def _licence(entry: Mapping[str, Any]) -> str:
    return " ".join(str(entry[k]) for k in ("name", "url") if entry.get(k))


class Ap10k(CocoLike):
    """AP-10K, to test on: `annotations/ap10k-<split>.json`, of animals under their names, and `data/*.jpg`."""

    name = "AP-10K"
    licence = "annotations CC BY 4.0; pictures collected from other sets, for research"
    address = "https://github.com/AlexTheBad/AP-10K"
    weight = 0.0
    joints = lexicon.AP_10K
    files = ("annotations/ap10k-*.json",)
    folders = ("data",)

    def phrase(self, category: str) -> str:
        return category.replace("_", " ").strip().lower() or "animal"


class HumanArt(CocoLike):
    """Human-Art, to test on: `annotations/<split>_humanart.json` and the folder `images/` beside it."""

    name = "Human-Art"
    licence = "for research, not commercial"
    address = "https://github.com/IDEA-Research/HumanArt"
    weight = 0.0
    joints = lexicon.COCO
    files = ("annotations/*_humanart.json",)
    folders = ("images",)

    def file(self, folder: Path, name: str) -> Path:
        return folder / name.partition("HumanArt/images/")[2] if "HumanArt/images/" in name else folder / name


READERS = (CocoKeypoints(), CrowdPose(), AiChallenger(), Ap10k(), HumanArt())
