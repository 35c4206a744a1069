"""Long lists that are streamed and joined on disk, and the one lexicon of joints."""

from __future__ import annotations

from pathlib import Path

import published
import pytest
from drawings import COCO_JOINTS, coco, people, person, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructdiffusion.model.data import lexicon
from instructdiffusion.model.data.listing import entries, indexes
from instructdiffusion.model.data.readers import reader_for
from instructdiffusion.model.errors import DataError


def test_a_list_is_found_under_its_field_or_at_the_top(tmp_path: Path) -> None:
    assert list(entries(write(tmp_path / "a.json", {"x": 1, "images": [1, {"y": 2.5}]}), "images")) == [1, {"y": 2.5}]
    assert list(entries(write(tmp_path / "b.json", [1, 2]))) == [1, 2]
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf[3]")
    assert list(entries(tmp_path / "c.json")) == [3]
    with pytest.raises(DataError, match=r"none\.json is missing"):
        list(entries(tmp_path / "none.json"))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=5)), max_size=20))
def test_an_index_keeps_the_first_value_of_a_key_in_order(pairs: list[tuple[int, str]]) -> None:
    kept: dict[int, str] = {}
    with indexes(1) as (index,):
        for key, value in pairs:
            assert index.add(key, value) == (key not in kept)
            kept.setdefault(key, value)
        assert list(index.values()) == list(kept.values())
        assert len(index) == len(kept)
        assert all(index.get(key) == value and key in index for key, value in kept.items())
        assert index.get(99) is None


def test_ten_times_the_people_take_no_more_memory(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = coco(tmp_path / str(count))
        several = (person(i, 7, COCO_JOINTS, segmentation=[[1.5] * 60]) for i in range(count))
        write(folder / "annotations/person_keypoints_train2017.json", people(COCO_JOINTS, *several))
        return published.peak(reader_for(folder).name, folder, "train2017", count)

    assert peak(2000) < 1.5 * peak(200) + 200_000


@pytest.mark.parametrize("data_set", sorted(lexicon.ORDER))
def test_every_joint_has_its_mirror_in_the_same_data_set(data_set: str) -> None:
    names = lexicon.ORDER[data_set]
    assert len(set(names)) == len(names)
    assert {lexicon.mirror(name) for name in names} == set(names)
    assert all(lexicon.mirror(lexicon.mirror(name)) == name for name in names)
    assert all(lexicon.joint(name.replace(" ", "_").upper()) == name for name in names)


def test_data_sets_have_as_many_joints_as_their_papers_say() -> None:
    counts = {name: len(joints) for name, joints in lexicon.ORDER.items()}
    assert counts == {"COCO": 17, "CrowdPose": 14, "MPII": 16, "AIC": 14, "AP-10K": 17, "Human-Art": 21}
    assert len(lexicon.pairs(lexicon.COCO)) == 8
    assert lexicon.pairs(lexicon.AIC)[0] == ("left shoulder", "right shoulder")


def test_one_point_has_one_name_however_it_is_spelt() -> None:
    spellings = ("head_top", "top_head", "Head top", "head", "top-of-head")
    assert {lexicon.joint(name) for name in spellings} == {"top of the head"}
    assert lexicon.joint("left_shoulder") == lexicon.joint("Left Shoulder") == "left shoulder"
    assert not lexicon.UPPER & lexicon.LOWER
    assert {"left hip", "right ankle", "left toe", "pelvis"} <= lexicon.LOWER
    assert {"nose", "neck", "top of the head", "left wrist", "left front paw"} <= lexicon.UPPER
    with pytest.raises(DataError, match="joint 'third elbow' is in no data set"):
        lexicon.joint("third elbow")
