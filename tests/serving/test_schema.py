"""What goes over the wire, and what is refused before a model sees it."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image
from instructdiffusion.serving.schema import (
    LIMITS,
    MAX_SIDE,
    EditResponse,
    Joint,
    Joints,
    Region,
    Runs,
    TooLarge,
    found_of,
    pixels_of,
    png_of,
    read_picture,
)


def encoded(picture: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_png_comes_back_as_it_was_sent(picture: Image) -> None:
    assert np.array_equal(read_picture(png_of(picture)), picture)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_other_formats_keep_the_size(kind: str, picture: Image) -> None:
    assert read_picture(encoded(PIL.Image.fromarray(picture), kind)).shape == picture.shape


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA"])
def test_every_8_bit_picture_becomes_rgb(mode: str, picture: Image) -> None:
    read = read_picture(encoded(PIL.Image.fromarray(picture).convert(mode)))
    assert read.shape == picture.shape
    assert read.dtype == np.uint8


def test_a_photograph_taken_sideways_is_turned_upright(picture: Image) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was turned by a quarter
    read = read_picture(encoded(PIL.Image.fromarray(picture), exif=exif))
    assert np.array_equal(read, np.rot90(picture, -1))


def test_a_small_file_that_unfolds_to_a_huge_picture_is_refused_unread() -> None:
    bomb = encoded(PIL.Image.new("1", (20_000, 20_000)))
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge, match=r"^image: .* pixels, the limit"):
        read_picture(bomb)


@pytest.mark.parametrize(
    ("size", "limit"),
    [((8, 40), "16 to 8192"), ((MAX_SIDE + 1, 20), "16 to 8192"), ((5000, 5000), "16777216")],
)
def test_a_size_out_of_range_is_refused_with_the_limit(size: tuple[int, int], limit: str) -> None:
    with pytest.raises(DataError, match=f"^image: {size[0]} x {size[1]}.*{limit}"):
        read_picture(encoded(PIL.Image.new("L", size)))


def test_too_many_bytes_are_refused_with_the_limit() -> None:
    with pytest.raises(TooLarge, match=f"limit is {LIMITS.max_bytes}"):
        read_picture(b"x" * (LIMITS.max_bytes + 1))


def test_a_picture_cut_short_is_refused(picture: Image) -> None:
    with pytest.raises(DataError, match="damaged or cut short"):
        read_picture(png_of(picture)[:-60])


def test_a_picture_is_measured_by_its_header_alone(picture: Image) -> None:
    assert pixels_of(png_of(picture)[:-60]) == 48 * 80


def test_16_bit_samples_are_refused_rather_than_clipped() -> None:
    with pytest.raises(DataError, match="8 bits per channel"):
        read_picture(encoded(PIL.Image.fromarray(np.full((20, 20), 40_000, np.uint16))))


def test_a_mask_reads_back_from_its_runs() -> None:
    mask = Runs(size=(2, 3), counts=[1, 2, 3]).pixels()
    assert mask.tolist() == [[False, True, False], [True, False, False]]


def test_runs_that_do_not_fit_the_size_are_refused() -> None:
    with pytest.raises(DataError, match="runs of 5 pixels"):
        Runs(size=(2, 3), counts=[5]).pixels()


def test_what_was_found_is_typed() -> None:
    assert found_of({}) is None
    joints = found_of({"joints": {"nose": {"x": 1.0, "y": 2.0, "confidence": 0.5}}})
    assert joints == Joints(joints={"nose": Joint(x=1, y=2, confidence=0.5)})
    region = found_of({"box": [0, 0, 2, 2], "mask": {"size": [2, 2], "counts": [0, 4]}})
    assert isinstance(region, Region)
    assert region.mask.pixels().all()


def test_an_answer_survives_the_wire(picture: Image) -> None:
    sent = EditResponse(
        picture=PIL.Image.fromarray(picture),
        task="keypoint",
        found=Joints(joints={}),
        seed=3,
        seconds=0.5,
        model_version="7",
    )
    got = EditResponse.model_validate_json(sent.model_dump_json())
    assert np.array_equal(np.asarray(got.picture), picture)
    assert got.found == sent.found
