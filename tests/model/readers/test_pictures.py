"""Pictures from outside: whatever they are stored as, they come out as uint8 RGB or as one line that names the file."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from drawings import picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from instructdiffusion.model.data.pictures import decode, load, load_map, size_of
from instructdiffusion.model.errors import DataError


def test_a_picture_turned_by_its_camera_is_shown_upright(tmp_path: Path) -> None:
    drawn = Pillow.new("RGB", (40, 20), "white")
    drawn.paste((255, 0, 0), (0, 0, 20, 20))  # red is on the left as stored, on top when turned
    exif = Pillow.Exif()
    exif[0x0112] = 6
    drawn.save(tmp_path / "a.png", exif=exif)
    turned = load(tmp_path / "a.png")
    assert turned.shape == (40, 20, 3)
    assert turned[5, 10].tolist() == [255, 0, 0]


def test_a_picture_whose_annotations_know_it_as_stored_is_not_turned(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.new("RGB", (40, 20), "white").save(tmp_path / "a.jpg", exif=exif)
    assert load(tmp_path / "a.jpg", size=(40, 20)).shape == (20, 40, 3)
    assert load(tmp_path / "a.jpg", size=(20, 40)).shape == (40, 20, 3)
    with pytest.raises(DataError, match=r"a\.jpg is 40 x 20 where its annotations say 30 x 30"):
        load(tmp_path / "a.jpg", size=(30, 30))


def test_print_colours_become_rgb(tmp_path: Path) -> None:
    Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    red = load(tmp_path / "red.jpg")[4, 4]
    assert red[0] > 200
    assert red[1] < 60
    assert red[2] < 60


def test_sixteen_bits_become_eight_without_turning_white(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Pillow.fromarray(values).save(tmp_path / "deep.png")
    assert load(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floats_become_eight_bits_and_nan_is_refused(tmp_path: Path) -> None:
    Pillow.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert load(tmp_path / "a.tif")[0, :, 1].tolist() == [0, 128, 255]
    Pillow.fromarray(np.array([[0.0, np.nan]], np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"b\.tif holds NaN"):
        load(tmp_path / "b.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_see_through_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    clear = Pillow.new("RGBA", (4, 4), (0, 0, 0, 0))
    if mode == "P":
        palette = Pillow.new("P", (4, 4), 0)
        palette.save(tmp_path / "a.png", transparency=0)
    else:
        clear.convert(mode).save(tmp_path / "a.png")
    assert (load(tmp_path / "a.png") == 255).all()


def test_a_picture_of_one_pixel_is_fine(tmp_path: Path) -> None:
    assert load(picture(tmp_path / "a.png", (1, 1))).shape == (1, 1, 3)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_picture_that_was_cut_short_is_refused_by_name(tmp_path: Path, ending: str) -> None:
    path = picture(tmp_path / f"cut.{ending}", (200, 200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"cut\.{ending} is broken"):
        load(path)


def test_what_is_no_picture_or_not_there_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"page\.jpg is broken or of an unknown format"):
        load(tmp_path / "page.jpg")
    with pytest.raises(DataError, match=r"none\.jpg is missing"):
        load(tmp_path / "none.jpg")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    body = zlib.compress(b"")
    data = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + data)
    for read in (load, size_of):
        with pytest.raises(DataError, match=r"bomb\.png"):
            read(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="64 x 48, more than 100 pixels"):
        load(picture(tmp_path / "a.png"), most_pixels=100)


def test_a_map_keeps_its_numbers_whatever_palette_it_has(tmp_path: Path) -> None:
    values = np.array([[0, 91, 255]], np.uint8)
    indexed = Pillow.fromarray(values).convert("L").convert("P")
    indexed.putpalette([value for i in range(256) for value in (255 - i, 7, i)])
    indexed.save(tmp_path / "a.png")
    assert load_map(tmp_path / "a.png").tolist() == np.asarray(indexed).tolist()
    deep = np.array([[0, 846, 65535]], np.uint16)
    for name in ("a.tif", "c.png"):
        Pillow.fromarray(deep).save(tmp_path / name)
        assert load_map(tmp_path / name).tolist() == deep.tolist()
    with pytest.raises(DataError, match=r"b\.png holds RGB pixels"):
        load_map(picture(tmp_path / "b.png"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says what it skips
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damage_anywhere_gives_a_picture_or_a_line_that_names_it(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]))
    file = io.BytesIO()
    Pillow.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(file, kind)
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        shown = decode(bytes(content), "it.bin", most_pixels=10_000)
    except DataError as error:
        assert "it.bin" in str(error)  # noqa: PT017 (either outcome is right)
    else:
        assert shown.dtype == np.uint8
        assert shown.shape[2] == 3
