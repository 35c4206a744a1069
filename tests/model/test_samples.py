"""From an example to triplets: what is asked about stays in the picture, and chance comes from the seed alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import drawings
import numpy as np
import published
import pytest

from instructdiffusion.model.data.readers import Example, Reader, reader_for
from instructdiffusion.model.data.samples import Unusable, safe_key, triplets_of
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.tasks import EVERY, TASKS, understand

Make = Callable[[Path], Path]


def coco(root: Path) -> Path:
    return drawings.coco(root, drawings.person(1, 7, drawings.COCO_JOINTS))


def refcoco(root: Path) -> Path:
    return drawings.refer(root, drawings.ref(1, 1, "the red house"))


MADE: dict[str, tuple[Make, str]] = {
    "keypoint": (coco, "train2017"),
    "segmentation": (drawings.stuff, "train2017"),
    "referring": (refcoco, "train"),
    "deblur": (published.gopro, "train"),
    "denoise": (published.sidd, "train"),
    "watermark": (published.clwd, "train"),
    "edit": (published.gier, "train"),
    "remove": (published.gqa, "train"),
}
every_kind = pytest.mark.parametrize("task", MADE)


def examples(task: str, root: Path) -> tuple[Reader, list[Example]]:
    make, split = MADE[task]
    folder = make(root)
    reader = reader_for(folder)
    return reader, list(reader.examples(folder, split))


def made(task: str, root: Path, *, copies: int = 1, seed: int = 0, size: int = 64, train: bool = True) -> list[Triplet]:
    reader, found = examples(task, root)
    return [
        triplet
        for example in found
        for triplet in triplets_of(example, reader, source="s", size=size, seed=seed, train=train, copies=copies)
    ]


@every_kind
def test_an_example_becomes_a_triplet_of_its_task_that_says_where_it_comes_from(task: str, tmp_path: Path) -> None:
    reader, found = examples(task, tmp_path)
    triplets = made(task, tmp_path)
    assert len({triplet.key for triplet in triplets}) == len(triplets) == len(found)
    for triplet, example in zip(triplets, found, strict=True):
        assert triplet.source.shape == triplet.target.shape == (64, 64, 3)
        assert triplet.ask.task == task
        assert re.fullmatch(r"s-[\w-]+", triplet.key)
        known = {"dataset": reader.name, "source": "s", "example": example.key, "picture": example.picture}
        assert triplet.provenance.items() >= {**known, "seed": 0}.items()
        assert triplet.provenance["licence"]
        json.dumps(triplet.provenance)
        EVERY[task].check(triplet.label)


@every_kind
def test_the_answer_is_painted_as_the_task_reads_it(task: str, tmp_path: Path) -> None:
    for triplet in made(task, tmp_path, train=False):
        score = EVERY[task].score(triplet.target, triplet.source, triplet.label, triplet.ask)
        if task != "watermark":  # whose two pictures are the same here
            assert score[EVERY[task].metric.name] > min(0.8, EVERY[task].metric.bar)


@every_kind
def test_a_copy_is_the_same_in_any_order_and_another_seed_gives_another(task: str, tmp_path: Path) -> None:
    reader, found = examples(task, tmp_path)

    def bytes_of(seed: int, copy: int) -> bytes:
        how = {"source": "s", "size": 64, "train": True, "copies": 6}
        triplet = [*triplets_of(found[-1], reader, seed=seed, **how)][copy]  # type: ignore[arg-type]
        return triplet.source.tobytes() + triplet.target.tobytes() + triplet.ask.instruction.encode()

    assert bytes_of(1, 4) == bytes_of(1, 4)
    if task != "remove":  # of which there is one instruction, and no mirror
        assert len({bytes_of(seed, copy) for seed in (1, 2) for copy in range(6)}) > 1


def test_source_and_target_are_cut_at_the_same_place(tmp_path: Path) -> None:
    for triplet in made("deblur", tmp_path, copies=4):
        difference = triplet.source.astype(int) - triplet.target
        assert np.abs(difference - 9).max() <= 1


def test_noise_is_not_taken_away_by_making_the_picture_smaller(tmp_path: Path) -> None:
    reader, (example, *_) = examples("denoise", tmp_path)
    (triplet,) = triplets_of(example, reader, source="s", size=64, seed=0)
    large, small = example.source(), triplet.source
    places = np.lib.stride_tricks.sliding_window_view(large[..., 0], (4, 4))
    inside = (small[:4, :4, 0], small[:4, :4, 0][:, ::-1])  # as it is, or mirrored
    assert any((places == corner).all(axis=(2, 3)).any() for corner in inside)


def test_a_mirror_turns_the_words_of_an_instruction_too(tmp_path: Path) -> None:
    folder = published.pix2pix(tmp_path)
    reader = reader_for(folder)
    (example,) = reader.examples(folder, "train")
    seen = set()
    for triplet in triplets_of(example, reader, source="s", size=32, seed=0, copies=20):
        side = "left" if triplet.target[:, :8].mean() > 128 else "right"
        assert triplet.ask.instruction == f"add a dog on the {side}"
        seen.add(side)
    assert seen == {"left", "right"}


def test_what_a_phrase_names_is_never_cut(tmp_path: Path) -> None:
    for triplet in made("referring", tmp_path, copies=8):
        # 16 of 48 rows, and as many columns: whole in every crop.
        assert triplet.label["mask"].mean() == pytest.approx((16 / 48) ** 2, rel=0.1)


def test_an_example_whose_picture_is_broken_says_so(tmp_path: Path) -> None:
    reader, found = examples("deblur", tmp_path)
    broken = next(tmp_path.rglob("sharp/000000.png"))
    broken.write_bytes(broken.read_bytes()[:90])
    with pytest.raises(Unusable, match=r"000000\.png") as caught:
        list(triplets_of(found[0], reader, source="s", size=64, seed=0))
    assert caught.value.reason == "picture: missing or broken"


def test_keys_hold_nothing_that_a_shard_would_take_for_an_ending() -> None:
    assert safe_key("s", "train-7") == "s-train-7"
    assert safe_key("s", "train-7", 2) == "s-train-7-2"
    strange = ["a.b/c", "a.b c", "ä", "a" * 300, "a" * 301]
    assert len({safe_key("s", key) for key in strange}) == len(strange)
    assert all(re.fullmatch(r"[\w-]{1,140}", safe_key("s", key), re.ASCII) for key in strange)


def test_an_edit_is_asked_in_its_own_words_and_scored_by_its_target(tmp_path: Path) -> None:
    task = EVERY["edit"]
    for triplet in made("edit", tmp_path, train=False):
        assert triplet.ask.instruction in ("brighten the middle", "add light")
        arguments = (triplet.source, triplet.label, triplet.ask)
        assert task.score(triplet.target, *arguments)["gain"] > task.metric.bar
        assert task.score(triplet.source, *arguments)["gain"] == 0
        gray = np.full_like(triplet.source, 128)
        assert task.score(gray, *arguments)["background"] < task.also[0].bar
        assert task.read(triplet.target, triplet.source, triplet.ask)["box"] == pytest.approx([21, 21, 43, 43], abs=2)


def test_an_edit_lacking_its_words_or_target_is_refused_by_name() -> None:
    label = {"target": np.zeros((8, 8, 3), np.uint8), "instruction": "x"}
    for key in label:
        with pytest.raises(DataError, match=f"edit label needs '{key}'"):
            EVERY["edit"].ask({k: v for k, v in label.items() if k != key}, Random(0))


def test_no_scene_is_composed_for_an_edit_in_free_words() -> None:
    assert EVERY.keys() - TASKS.keys() == {"edit", "colorize", "brighten", "dehaze"}
    assert understand("brighten the middle") is None
