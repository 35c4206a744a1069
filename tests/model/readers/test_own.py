"""A folder of one's own triplets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import published
import pytest

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.readers import reader_for
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.data.sources import DataSet, Sources
from instructdiffusion.model.errors import DataError


def test_triplets_of_ones_own_are_recognised_and_built(tmp_path: Path) -> None:
    root = published.own_triplets(
        tmp_path / "mine",
        published.own_line(1, licence="CC0"),
        published.own_line(2, instruction=["whiten", "make it white"]),
    )
    assert reader_for(root).name == "Triplet folder"
    order = Order(Sources(sources=(DataSet(name="mine", path=str(root), split="train"),)), size=32, seed=0)
    build(order, tmp_path / "out", workers=1)
    one, two = read_triplets(tmp_path / "out")
    assert (one.ask.instruction, one.ask.task, one.provenance["licence"]) == ("make it white", "edit", "CC0")
    assert two.ask.instruction in ("whiten", "make it white")
    assert one.source.max() == 90
    assert one.target.min() == 255


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("{", "line: no JSON"),
        ("[]", "line: no object"),
        (published.own_line(instruction=" "), "instruction: empty or not UTF-8"),
        (published.own_line(instruction=None), "instruction: empty or not UTF-8"),
        (published.own_line(source="../1.png"), "source: missing, or leads out of the folder"),
        (published.own_line(target=3), "target: missing, or leads out of the folder"),
        (published.own_line(source="before/9.png"), "picture: missing on disk"),
        (published.own_line(2, instruction="again"), "target: given twice"),
    ],
)
def test_what_is_wrong_with_a_line_is_counted_by_its_reason(wrong: Any, reason: str, tmp_path: Path) -> None:
    root = published.own_triplets(tmp_path, published.own_line(2), wrong)
    counts = reader_for(root).counts(root, "train")
    assert (counts.examples, counts.skipped) == (1, {reason: 1})


def test_a_line_may_name_its_split(tmp_path: Path) -> None:
    root = published.own_triplets(tmp_path, published.own_line(1), published.own_line(2, split="val"))
    reader = reader_for(root)
    assert reader.splits(root) == ("train", "val")
    assert [e.key for e in reader.examples(root, "val")] == ["after-2"]
    with pytest.raises(DataError, match="no split 'test' of Triplet folder; it has train, val"):
        next(reader.examples(root, "test"))
