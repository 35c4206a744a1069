"""How sure an answer is, and when it says that nothing was found."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from instructdiffusion.model.task import Ask, Image
from instructdiffusion.model.tasks import TASKS
from instructdiffusion.serving.reading import answer_of
from instructdiffusion.serving.schema import Joints, Nothing, Region


def edited(task: str, strength: float) -> tuple[Any, Image]:
    """An edit whose paint is of this strength, 1 being the truth; and its source."""
    from instructdiffusion.model.editor import Edit

    rng = Random(1)
    source, label = TASKS[task].toy(rng)
    ask = TASKS[task].ask(label, rng)
    return edit_of(source, TASKS[task].paint(source, label, ask), strength, ask, Edit), source


def edit_of(source: Image, target: Image, strength: float, ask: Ask | None, kind: Any) -> Any:
    paint = source + strength * (target.astype(np.float32) - source)
    output = paint.clip(0, 255).round().astype(np.uint8)
    found = TASKS[ask.task].read(output, source, ask) if ask else {}
    return kind(output, ask, found, 0, 0.1)


@pytest.mark.parametrize("task", ["segmentation", "referring", "remove", "recolour"])
def test_a_region_painted_as_it_should_be_is_sure_and_a_faint_one_less_so(task: str) -> None:
    found, sure = answer_of(*edited(task, 1.0))
    assert isinstance(found, Region)
    assert sure is not None
    assert sure > 0.7
    _, faint = answer_of(*edited(task, 0.5))
    assert faint is not None
    assert faint < sure


def test_joints_painted_as_they_should_be_are_found() -> None:
    found, confidence = answer_of(*edited("keypoint", 1.0))
    assert isinstance(found, Joints)
    assert confidence == pytest.approx(np.mean([j.confidence for j in found.joints.values()]), abs=1e-3)


@pytest.mark.parametrize("task", ["keypoint", "segmentation", "referring", "remove", "add"])
def test_a_picture_that_did_not_change_holds_nothing_for_sure(task: str) -> None:
    assert answer_of(*edited(task, 0.0)) == (Nothing(), 1.0)


def test_a_restored_picture_and_a_plain_edit_have_nothing_to_find() -> None:
    from instructdiffusion.model.editor import Edit

    assert answer_of(*edited("denoise", 1.0)) == (None, None)
    source = np.zeros((64, 64, 3), np.uint8)
    assert answer_of(edit_of(source, source, 1.0, None, Edit), source) == (None, None)
