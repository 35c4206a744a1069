"""Exemplar painters, and what they are given: things cut out, their features and their names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from safetensors.torch import load_file, save_file

from instructdiffusion.model.data.photos import photographs
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.synthesis.captioners import captioner
from instructdiffusion.model.synthesis.cutouts import GRAY, LARGEST, Cutout, cut
from instructdiffusion.model.synthesis.features import features
from instructdiffusion.model.synthesis.inpainters import inpainter
from instructdiffusion.model.synthesis.paint_by_example import PaintByExample
from instructdiffusion.model.synthesis.painters import painter
from instructdiffusion.model.synthesis.regions import Region
from instructdiffusion.model.task import Image, Mask


def ellipse(shape: tuple[int, ...], middle: tuple[int, int], radii: tuple[int, int]) -> Mask:
    mask = np.zeros(shape[:2], np.uint8)
    return np.asarray(cv2.ellipse(mask, middle, radii, 0, 0, 360, 1, -1) > 0)


def disc(color: tuple[int, int, int], radii: tuple[int, int] = (20, 20)) -> Cutout:
    """A plain disc on plain gray."""
    mask = ellipse((60, 60), (30, 30), radii)
    return Cutout(np.where(mask[..., None], np.array(color, np.uint8), np.uint8(GRAY)), mask)


def field(middle: tuple[int, int] = (24, 24)) -> Region:
    """A dark disc on a light ramp."""
    ys, xs = np.mgrid[:48, :48]
    picture = np.stack([150 + ys, 150 + xs, 200 - ys], axis=-1).astype(np.uint8)
    mask = ellipse((48, 48), middle, (9, 9))
    return Region(np.where(mask[..., None], np.uint8(20), picture), mask, "hole")


def flower() -> Region:
    picture = photographs("test")[1]
    return Region(picture, ellipse(picture.shape, (308, 221), (137, 137)), "orange dahlia")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.paint_by_example(tmp_path_factory.mktemp("paint-by-example"))


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.captioner(tmp_path_factory.mktemp("blip2"))


def quick(folder: Path) -> PaintByExample:
    found = PaintByExample.load(str(folder))
    return PaintByExample(found.pipeline, found.name, steps=2)


def colour(picture: Image, mask: Mask) -> np.ndarray:
    return np.asarray(np.median(picture[mask], axis=0).astype(int))


def test_a_cutout_has_some_of_its_surroundings_and_is_no_larger_than_needed() -> None:
    region = flower()
    thing = cut(region)
    assert max(thing.mask.shape) == LARGEST
    left, top, right, bottom = thing.box
    assert min(left, top, thing.mask.shape[1] - right, thing.mask.shape[0] - bottom) >= 15
    assert np.abs(colour(thing.picture, thing.mask) - colour(region.picture, region.mask)).max() < 8


def test_a_thing_alone_is_in_the_middle_of_a_gray_square() -> None:
    alone = disc((200, 30, 30), (20, 8)).alone
    assert alone.mask.shape == (41, 41)
    assert alone.box == (0, 12, 41, 29)
    assert (alone.picture[~alone.mask] == GRAY).all()


def test_features_put_like_things_next_to_each_other() -> None:
    red, blue, dark_red, flat_red = (
        disc((200, 30, 30)),
        disc((30, 30, 200)),
        disc((180, 25, 35)),
        disc((200, 30, 30), (20, 6)),
    )
    rows = features("embedded").of([red, blue, dark_red, flat_red])
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
    to_red = rows @ rows[0]
    assert to_red[2] > to_red[1]  # colour counts
    assert to_red[2] > to_red[3]  # so does the outline


def test_features_of_a_network_are_its_vectors(tiny_clip: Path) -> None:
    found = features(str(tiny_clip))
    rows = found.of([disc((200, 30, 30)), disc((30, 30, 200))])
    assert rows.shape == (2, 24)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
    assert found.name.startswith(f"{tiny_clip.name}@sha256:")


@pytest.mark.parametrize("address", ["embedded", "paint-by-example"])
@pytest.mark.parametrize("middle", [(24, 24), (9, 38)])
def test_only_what_the_mask_covers_changes(address: str, middle: tuple[int, int], example: Path) -> None:
    region = field(middle)
    paints = quick(example) if address != "embedded" else painter("embedded", "opencv")
    picture, mask = paints.paint(region, cut(flower()), 5)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture[~mask], region.picture[~mask])
    assert (region.mask <= mask).all()
    assert mask.mean() < 0.4
    again, _ = paints.paint(region, cut(flower()), 5)
    assert np.array_equal(picture, again)


def test_a_blended_thing_is_where_the_old_one_was_and_keeps_its_shape() -> None:
    region = field()
    bar = disc((240, 240, 60), (20, 6))  # flat: it stands on the floor of the region
    picture, _ = painter("embedded", "opencv").paint(region, bar, 0)
    empty = inpainter("opencv").fill(region.picture, region.grown)
    shown = np.abs(picture.astype(int) - empty).sum(axis=-1) > 60
    left, top, width, height = cv2.boundingRect(shown.astype(np.uint8))
    assert region.box[0] - 1 <= left <= region.box[0] + 2
    assert abs(top + height - region.box[3]) <= 1
    assert 2 < width / height < 4.5


def test_a_blended_thing_has_no_seam() -> None:
    """What surrounds it takes the colours of its new surroundings; cut out plainly, it would show."""
    region, thing = field(), cut(flower())
    picture, mask = painter("embedded", "opencv").paint(region, thing, 0)
    rim = mask & ~region.mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    assert np.abs(picture[rim].astype(int) - region.picture[rim]).mean() < 12


def test_another_thing_and_another_seed_paint_another_picture(example: Path) -> None:
    paints, region = quick(example), field()
    one, mask = paints.paint(region, disc((200, 30, 30)), 1)
    assert not np.array_equal(one, paints.paint(region, disc((30, 200, 30)), 1)[0])
    assert not np.array_equal(one, paints.paint(region, disc((200, 30, 30)), 2)[0])
    ys, xs = np.nonzero(mask)
    assert mask.sum() == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)  # a box: the new thing may have a shape of its own


def test_weights_of_the_published_folder_are_found_by_their_old_names(example: Path, tmp_path: Path) -> None:
    for part in example.rglob("*"):
        if part.is_file():
            (tmp_path / part.relative_to(example)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / part.relative_to(example)).write_bytes(part.read_bytes())
    file = tmp_path / "image_encoder/model.safetensors"
    weights = {name.replace("model.", "model.vision_model.", 1): value for name, value in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    thing, region = disc((200, 30, 30)), field()
    assert np.array_equal(quick(tmp_path).paint(region, thing, 1)[0], quick(example).paint(region, thing, 1)[0])
    weights.pop("proj_out.weight")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 weights, proj_out\.weight first"):
        quick(tmp_path)


def test_a_painter_or_a_captioner_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose embedded or paint-by-example:PATH"):
        painter("magic", "opencv")
    with pytest.raises(ConfigError, match="no inpainter 'magic'"):
        painter("embedded", "magic")
    with pytest.raises(DataError, match="is no network that can be read"):
        painter(f"paint-by-example:{tmp_path}", "opencv")
    with pytest.raises(ConfigError, match="choose labels or blip2:PATH"):
        captioner("blip2")
    with pytest.raises(DataError, match="is no network that can be read"):
        captioner(f"blip2:{tmp_path}")


def test_blip2_says_what_it_sees_and_labels_say_what_is_known(blip: Path) -> None:
    says = captioner(f"blip2:{blip}")
    red, blue = says.phrase(disc((200, 30, 30)), "ball"), says.phrase(disc((30, 30, 200)), "ball")
    assert red
    assert red != blue
    assert red == says.phrase(disc((200, 30, 30)), "")
    assert says.name.startswith(f"blip2:{blip.name}@sha256:")
    assert captioner("labels").phrase(disc((200, 30, 30)), "ball") == "ball"
