"""Damaged and clean pictures in the folders that GoPro, REDS, SIDD and CLWD publish."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import published
import pytest
from PIL import Image as Pillow

from instructdiffusion.model.data.readers import Reader, reader_for, readers
from instructdiffusion.model.data.readers.restoration import TILE, starts
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image
from instructdiffusion.model.tasks import TASKS


def write(path: Path, seed: int, size: tuple[int, int] = (12, 8)) -> Image:
    """Write a picture of noise (width x height) and return its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path)
    return pixels


def gopro(root: Path) -> Reader:
    for number in (47, 48):
        for kind, seed in (("blur", 1), ("blur_gamma", 2), ("sharp", 3)):
            write(root / f"train/GOPR0372_07_00/{kind}/{number:06d}.png", seed * number)
    write(root / "test/GOPR0384_11_00/blur_gamma/000001.png", 5)
    write(root / "test/GOPR0384_11_00/sharp/000001.png", 6)
    return readers()["GoPro"]


def reds(root: Path) -> Reader:
    for name in ("train/train_blur", "train/train_sharp", "val_blur", "val_sharp"):
        write(root / name / "000/00000000.png", 7)
    write(root / "train/train_blur/001/00000099.png", 8)
    write(root / "train/train_sharp/001/00000099.png", 9)
    return readers()["REDS"]


def sidd(root: Path, size: tuple[int, int] = (20, 10)) -> Reader:
    scene = "0001_001_S6_00100_00060_3200_L"
    (root / "Scene_Instances.txt").write_text(f"{scene}\n")
    for number in ("010", "011"):  # as in Medium; Small leaves the scene out of the file's name
        write(root / f"Data/{scene}/0001_NOISY_SRGB_{number}.PNG", 10, size)
        write(root / f"Data/{scene}/0001_GT_SRGB_{number}.PNG", 11, size)
    write(root / "Data/0002_001_S6_00100_00020_3200_N/NOISY_SRGB_010.PNG", 12, size)
    write(root / "Data/0002_001_S6_00100_00020_3200_N/GT_SRGB_010.PNG", 13, size)
    return readers()["SIDD"]


def clwd(root: Path) -> Reader:
    for folder in ("Watermarked_image", "Watermark_free_image"):
        for number in (1, 2, 10):
            write(root / f"train/{folder}/{number}.jpg", number)
    write(root / "train/Mask/1.png", 3)
    return readers()["CLWD"]


EVERY = pytest.mark.parametrize("make", [gopro, reds, sidd, clwd])


@EVERY
def test_a_data_set_is_recognised_and_its_target_is_the_labels_clean_picture(make: object, tmp_path: Path) -> None:
    reader = make(tmp_path)  # type: ignore[operator]
    assert reader_for(tmp_path) is reader
    for split in reader.splits(tmp_path):
        found = list(reader.examples(tmp_path, split))
        assert found
        assert len({example.key for example in found}) == len(found)
        for example in found:
            source, target, label = example.loaded()
            assert source.shape == label["clean"].shape
            assert target is label["clean"]
            TASKS[example.task].check(label)
        counts = reader.counts(tmp_path, split)
        assert (counts.examples, dict(counts.skipped)) == (len(found), {})


def test_gopro_pairs_blur_with_sharp(tmp_path: Path) -> None:
    first, second = gopro(tmp_path).examples(tmp_path, "train")
    assert (first.key, first.task, first.picture) == (
        "train-GOPR0372_07_00-000047",
        "deblur",
        "gopro/train/GOPR0372_07_00/000047",
    )
    assert second.key == "train-GOPR0372_07_00-000048"
    blurred = write(tmp_path / "same.png", 1 * 47)
    source, target, _ = first.loaded()
    np.testing.assert_array_equal(source, blurred)
    assert target is not None
    assert not np.array_equal(target, source)


def test_gopro_takes_the_gamma_corrected_blur_where_that_alone_is_there(tmp_path: Path) -> None:
    (only,) = gopro(tmp_path).examples(tmp_path, "test")
    np.testing.assert_array_equal(only.source(), write(tmp_path / "same.png", 5))


def test_reds_names_scenes_and_frames(tmp_path: Path) -> None:
    reader = reds(tmp_path)
    assert reader.splits(tmp_path) == ("train", "val")
    assert [e.key for e in reader.examples(tmp_path, "train")] == ["train-000-00000000", "train-001-00000099"]
    assert [e.picture for e in reader.examples(tmp_path, "val")] == ["reds/val/000/00000000"]


def test_clwd_leaves_masks_alone(tmp_path: Path) -> None:
    assert [e.key for e in clwd(tmp_path).examples(tmp_path, "train")] == ["train-1", "train-10", "train-2"]


def test_sidd_finds_the_names_of_small_and_of_medium(tmp_path: Path) -> None:
    assert [e.key for e in sidd(tmp_path).examples(tmp_path, "train")] == [
        "train-0001_001_S6_00100_00060_3200_L-010-0-0",
        "train-0001_001_S6_00100_00060_3200_L-011-0-0",
        "train-0002_001_S6_00100_00020_3200_N-010-0-0",
    ]


def test_tiles_cover_a_large_photograph(tmp_path: Path) -> None:
    size = (TILE + 30, 2 * TILE)
    noisy = write(tmp_path / "Data/one/NOISY_SRGB_010.PNG", 1, size)
    clean = write(tmp_path / "Data/one/GT_SRGB_010.PNG", 2, size)
    covered = np.zeros(noisy.shape[:2], bool)
    tiles = list(readers()["SIDD"].examples(tmp_path, "train"))
    for example in tiles:
        left, top = (int(part) for part in example.key.split("-")[-2:])
        source, target, _ = example.loaded()
        np.testing.assert_array_equal(source, noisy[top : top + TILE, left : left + TILE])
        np.testing.assert_array_equal(target, clean[top : top + TILE, left : left + TILE])
        covered[top : top + TILE, left : left + TILE] = True
    assert len(tiles) == 4
    assert covered.all()
    assert readers()["SIDD"].counts(tmp_path, "train").pictures == 1


@pytest.mark.parametrize(("length", "wanted"), [(1, [0]), (512, [0]), (513, [0, 1]), (1024, [0, 512])])
def test_the_last_tile_ends_with_the_picture(length: int, wanted: list[int]) -> None:
    assert starts(length) == wanted


def spoilt(root: Path) -> Reader:
    """Three good pairs, and one for each thing that can be wrong with a pair."""
    reader = clwd(root)
    marked, free = root / "train/Watermarked_image", root / "train/Watermark_free_image"
    write(marked / "20.jpg", 1)  # its clean picture is missing
    write(marked / "21.jpg", 1)
    write(free / "21.jpg", 1, (13, 8))
    (marked / "22.jpg").write_bytes(b"\xff\xd8 not a picture")
    write(free / "22.jpg", 1)
    write(marked / "23.jpg", 1)
    (free / "23.jpg").write_bytes(b"")
    return reader


def test_pairs_that_are_none_are_counted_by_reason(tmp_path: Path) -> None:
    counts = spoilt(tmp_path).counts(tmp_path, "train")
    assert counts.examples == 3
    assert dict(counts.skipped) == {
        "clean picture: another size than the damaged one": 1,
        "clean picture: broken or far too large": 1,
        "clean picture: missing on disk": 1,
        "damaged picture: broken or far too large": 1,
    }
    assert len(list(spoilt(tmp_path).examples(tmp_path, "train"))) == 3


def test_a_picture_that_was_cut_short_is_named_when_loaded_and_the_others_are_fine(tmp_path: Path) -> None:
    reader = clwd(tmp_path)
    cut = tmp_path / "train/Watermark_free_image/10.jpg"
    write(tmp_path / "train/Watermarked_image/10.jpg", 1, (200, 200))
    write(cut, 2, (200, 200))
    cut.write_bytes(cut.read_bytes()[:-2000])
    good, bad, other = reader.examples(tmp_path, "train")
    with pytest.raises(DataError, match=r"10.jpg is broken"):
        bad.loaded()
    assert good.loaded()
    assert other.loaded()


@pytest.mark.parametrize(
    ("make", "gone"),
    [
        (gopro, "train/GOPR0372_07_00/blur"),
        (reds, "train/train_sharp/001"),
        (clwd, "train/Watermark_free_image"),
    ],
)
def test_a_missing_folder_is_named(make: object, gone: str, tmp_path: Path) -> None:
    reader = make(tmp_path)  # type: ignore[operator]
    shutil.rmtree(tmp_path / gone)
    shutil.rmtree(tmp_path / "train/GOPR0372_07_00/blur_gamma", ignore_errors=True)
    with pytest.raises(DataError, match=f"{gone} is missing"):
        list(reader.examples(tmp_path, "train"))


def test_an_unknown_split_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'dev' of REDS; it has train, val"):
        next(iter(reds(tmp_path).examples(tmp_path, "dev")))


def test_one_pixel_a_gray_one_and_one_with_alpha_are_pictures_too(tmp_path: Path) -> None:
    reader = readers()["GoPro"]
    for name, mode in (("000001", "L"), ("000002", "RGBA"), ("000003", "I;16")):
        for kind in ("blur", "sharp"):
            (tmp_path / f"train/scene/{kind}").mkdir(parents=True, exist_ok=True)
            Pillow.new(mode, (1, 1), 200 if mode != "RGBA" else (1, 2, 3, 0)).save(
                tmp_path / f"train/scene/{kind}/{name}.png"
            )
    assert [e.loaded()[2]["clean"].shape for e in reader.examples(tmp_path, "train")] == [(1, 1, 3)] * 3


def test_a_folder_of_any_length_is_read_in_the_same_memory(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        root = tmp_path / str(count)
        for folder in ("Watermarked_image", "Watermark_free_image"):
            write(root / f"train/{folder}/0.jpg", 1)
            for number in range(1, count):
                os.link(root / f"train/{folder}/0.jpg", root / f"train/{folder}/{number}.jpg")
        return published.peak("CLWD", root, "train", count)

    assert peak(6000) < peak(200) + 1_500_000
