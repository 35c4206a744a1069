"""MPII Human Pose: people and their joints in a Matlab file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from instructdiffusion.model.data import lexicon
from instructdiffusion.model.data.listing import entries
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.people import MISSING, NO_JOINTS, Joints, People, fit, numbers, within
from instructdiffusion.model.data.readers.walk import Skip, first_folder
from instructdiffusion.model.errors import DataError


class Mpii(People):
    """MPII Human Pose 1.0: `mpii_human_pose_v1_u12_1.mat` (or its conversion `annot/<split>.json`) and `images/`.

    The Matlab file names pictures to train on; its test pictures have no joints. The conversion splits them into train
    and valid, and is preferred when it is there. Both count pixels from one, as Matlab does.
    """

    name = "MPII"
    licence = "annotations BSD-2-Clause; pictures are frames of videos, for research"
    address = "http://human-pose.mpi-inf.mpg.de"
    joints = lexicon.MPII
    matlab = "mpii_human_pose_v1_u12_1.mat"

    def recognises(self, folder: Path) -> bool:
        return bool(self.splits(folder))

    def splits(self, folder: Path) -> tuple[str, ...]:
        converted = tuple(s for s in ("train", "valid", "trainval") if (folder / "annot" / f"{s}.json").is_file())
        return converted or (("train",) if self._matlab(folder) else ())

    def _matlab(self, folder: Path) -> Path | None:
        places = (folder, folder / "mpii_human_pose_v1_u12_2", folder / "annot", folder / "annotations")
        return next((p / self.matlab for p in places if (p / self.matlab).is_file()), None)

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        images = first_folder(folder, "images", "mpii_human_pose_v1/images")
        converted = folder / "annot" / f"{split}.json"
        matlab = self._matlab(folder)
        if converted.is_file():
            yield from self._converted(converted, split, images)
        elif matlab is not None:
            yield from self._native(matlab, split, images)

    def _converted(self, path: Path, split: str, images: Path) -> Iterator[Example | Skip]:
        for number, entry in enumerate(entries(path)):
            key = f"{split}-{number}"
            if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
                yield Skip("image: missing", key)
                continue
            points, seen = entry.get("joints"), entry.get("joints_vis")
            if not fit(points, len(self.joints)) or not fit(seen, len(self.joints)):
                yield Skip(f"joints: not {len(self.joints)}, each with joints_vis", key)
                continue
            joints = {
                name: (xy[0] - 1, xy[1] - 1, True)
                for name, point, there in zip(self.joints, points, seen, strict=True)
                if there and (xy := numbers(point, 2))
            }
            yield self._someone(key, images, entry["image"], joints, entry.get("center"), entry.get("scale"))

    def _native(self, path: Path, split: str, images: Path) -> Iterator[Example | Skip]:
        release = _matlab_release(path)
        listed: list[Any] = _listed(release.annolist)
        trains: list[Any] = _listed(release.img_train)
        if len(listed) != len(trains):
            raise DataError(
                f"{path}: RELEASE.img_train has {len(trains)} entries for {len(listed)} pictures in annolist"
            )
        for place, (entry, train) in enumerate(zip(listed, trains, strict=True)):
            name = getattr(getattr(entry, "image", None), "name", None)
            if train != 1:
                continue
            if not isinstance(name, str):
                yield Skip("image.name: missing", f"{split}-{place}")
                continue
            for number, person in enumerate(_listed(getattr(entry, "annorect", None))):
                joints = self._points(person)
                where, scale = getattr(person, "objpos", None), getattr(person, "scale", None)
                center = [getattr(where, "x", None), getattr(where, "y", None)]
                yield self._someone(f"{split}-{place}-{number}", images, name, joints, center, scale)

    def _points(self, person: Any) -> Joints:
        joints: Joints = {}
        for point in _listed(getattr(getattr(person, "annopoints", None), "point", None)):
            xy = numbers([getattr(point, "x", None), getattr(point, "y", None)], 2)
            place = numbers([getattr(point, "id", None)], 1)
            if xy and place and place[0] in range(len(self.joints)):
                seen = str(getattr(point, "is_visible", "")) == "1"
                joints[self.joints[int(place[0])]] = (xy[0] - 1, xy[1] - 1, seen)
        return joints

    def _someone(self, key: str, images: Path, name: str, joints: Joints, center: Any, scale: Any) -> Example | Skip:
        """A person given by centre and scale: the height is 200 pixels times the scale."""
        at, height = numbers(center, 2), numbers([scale], 1)
        if not joints:
            return Skip(NO_JOINTS, key)
        if at is None or height is None or height[0] <= 0:
            return Skip("objpos, scale: not finite numbers", key)
        path = within(images, name)
        if path is None or not path.is_file():
            return Skip(MISSING, key)
        reach = 100 * height[0]
        x, y = at[0] - 1, at[1] - 1 + 15 * height[0]  # the centre is high on the body: feet would be cut off
        return self.person(key, f"mpii/{name}", path, None, joints, (x - reach, y - reach, x + reach, y + reach), {})


def _matlab_release(path: Path) -> Any:
    """The one structure in MPII's Matlab file."""
    from scipy.io import loadmat

    try:
        release = loadmat(str(path), struct_as_record=False, squeeze_me=True, variable_names=["RELEASE"])["RELEASE"]
    except Exception as error:  # scipy raises whatever the damage leads to
        raise DataError(f"{path} is no Matlab file of MPII, or was cut short; download it again") from error
    for field in ("annolist", "img_train"):
        if not hasattr(release, field):
            raise DataError(f"{path}: RELEASE.{field} is missing; download it again")
    return release


def _listed(value: Any) -> list[Any]:
    """Matlab's one or many as a list; an empty array is none."""
    if value is None:
        return []
    return list(value.ravel()) if isinstance(value, np.ndarray) else [value]


READERS = (Mpii(),)
