"""What annotators see, and that what they answer there is read as they meant it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructdiffusion.labeling import screen
from instructdiffusion.model.errors import ConfigError, DataError

COUNTS = range(1, screen.MOST + 1)
SHOWN = ("a", "b", "c")


@pytest.mark.parametrize("count", COUNTS)
def test_a_screen_has_the_source_and_every_edit_with_its_defects(count: int) -> None:
    tree = ET.fromstring(screen.config(count))
    pictures = {image.get("name"): image.get("value") for image in tree.iter("Image")}
    assert pictures == {"source": "$source_image", **{f"edit_{n}": f"$edit_{n}" for n in range(1, count + 1)}}
    choices = {group.get("name"): [c.get("alias") for c in group] for group in tree.iter("Choices")}
    assert choices.pop("best") == [*(f"edit_{n}" for n in range(1, count + 1)), "none"]
    assert choices == {f"defects_{n}": [*screen.DEFECTS] for n in range(1, count + 1)}


@pytest.mark.parametrize("count", COUNTS)
def test_every_choice_has_a_key_of_its_own_and_every_answer_a_picture(count: int) -> None:
    tree = ET.fromstring(screen.config(count))
    keys = [choice.get("hotkey") for choice in tree.iter("Choice")]
    assert all(keys)
    assert len(keys) == len(set(keys)) == count + 1 + count * len(screen.DEFECTS)
    images = {image.get("name") for image in tree.iter("Image")}
    assert {group.get("toName") for group in tree.iter("Choices")} <= images


@pytest.mark.parametrize("count", COUNTS)
def test_no_data_goes_by_a_name_that_the_page_overwrites(count: int) -> None:
    used = {node.get("value", "")[1:] for node in ET.fromstring(screen.config(count)).iter() if "$" in str(node.attrib)}
    assert used == {"instruction", screen.SOURCE, *(f"edit_{n}" for n in range(1, count + 1))}
    assert "source" not in used


@pytest.mark.parametrize("count", COUNTS)
def test_no_style_rule_is_lost_to_the_page_s_sanitizer(count: int) -> None:
    style = ET.fromstring(screen.config(count)).findtext("Style") or ""
    assert ">" not in style
    assert style.count("{") == style.count("}") == style.count("\n") - 1  # a rule a line


@pytest.mark.parametrize("count", [0, screen.MOST + 1])
def test_more_edits_than_a_screen_has_room_for_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="propose 1 to 6"):
        screen.config(count)


@given(data=st.data(), count=st.integers(1, screen.MOST))
def test_an_answer_is_read_as_it_was_meant(data: st.DataObject, count: int) -> None:
    shown = data.draw(st.permutations([f"edit-{n}" for n in range(count)]))
    best = data.draw(st.none() | st.sampled_from(shown))
    ticks = st.lists(st.sampled_from([*screen.DEFECTS]), unique=True, min_size=1)
    defects = data.draw(st.dictionaries(st.sampled_from(shown), ticks))
    read = screen.read(screen.answer(best, shown, defects), shown)
    assert read == (best, {edit: tuple(names) for edit, names in defects.items()})


def choice(name: str, *chosen: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": "source", "type": "choices", "value": {"choices": [*chosen]}}


@pytest.mark.parametrize(
    "result",
    [
        [],
        [choice("best")],
        [choice("best", "edit_4")],
        [choice("best", "edit_1", "edit_2")],
        [choice("best", "Edit 1")],
        [choice("defects_1", "artifact")],
        [choice("best", "edit_1"), choice("defects_4", "artifact")],
        [choice("best", "edit_1"), choice("defects_1", "ugly")],
        [choice("best", "edit_1"), choice("mood", "good")],
        [{"from_name": "best", "type": "rating", "value": {"rating": 4}}],
        [{"value": {"choices": ["edit_1"]}}],
        ["edit_1"],
        [{"from_name": "best", "value": None}],
    ],
)
def test_an_answer_that_the_screen_does_not_offer_is_refused(result: list[Any]) -> None:
    with pytest.raises(DataError):
        screen.read(result, SHOWN)
