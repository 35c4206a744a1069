"""The report: one page with all in it, and everything from data escaped."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instructdiffusion.pipelines.answers import Answer, drawn, words
from instructdiffusion.pipelines.report import Contents, duration, render, span
from instructdiffusion.serving.schema import Joint, Joints, Region, Runs, png_of

VOID = {"meta", "link", "img", "br"}
TASKS = ("keypoint", "remove")


class Page(HTMLParser):
    """Reads a page: what is open, what it shows, where it points, which pictures it holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.pictures: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            assert values.get("alt"), values
            self.pictures.append(str(values["src"]))
        if tag in ("a", "link", "script"):
            self.links.append(str(values.get("href") or values.get("src")))
        if name := values.get("id"):
            self.ids.add(name)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def score(value: float) -> dict[str, Any]:
    return {
        "metric": "pck",
        "value": value,
        "low": value - 0.1,
        "high": value + 0.1,
        "floor": 0.0,
        "bound": 1.0,
        "n": 3,
    }


def picture(side: int = 16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)


def answer(task: str) -> Answer:
    png = png_of(picture())
    return Answer(task, "Remove the <b>dog</b>.", png, png, png, png, None, "a picture", "gain", 1.5, 0.2, "7")


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    sheets = {}
    for task in TASKS:
        sheets[task] = tmp_path / f"{task}.png"
        sheets[task].write_bytes(png_of(picture(64)))
    interval = {"value": 0.02, "low": 0.01, "high": 0.03}
    names = ("before", "aligned", "control", "gain", "aligned_over_before", "control_over_before")
    curve = [{"step": step, "loss": 1 / step, "learning_rate": 1e-4} for step in (1, 2, 3)]
    training = {"steps": 3, "triplets": 9, "triplets_per_second": 4.5, "processes": 2, "seconds": 61.0, "curve": curve}
    summary = {
        "tasks": {task: score(0.5) for task in TASKS},
        "alignment": {**dict.fromkeys(names, interval), "n": 20, "raised": True},
        "gate": {"promoted": True, "reason": "the alignment score rises & no task falls"},
        "served": [],
        "seconds": 321.0,
        "peak_gib": 3.21,
        "versions": {"python": "3.11.7", "instructdiffusion": "0.1.0"},
        "steps": [{"name": "train (align)", "seconds": 12.0}],
    }
    return Contents(
        summary=summary,
        champion={"tasks": {task: score(0.4) for task in TASKS}},
        challenger={"tasks": {task: score(0.5) for task in TASKS}},
        sheets=sheets,
        trainings={"train": training, "align": training},
        answers=[answer(task) for task in TASKS],
    )


def test_the_page_is_whole_and_needs_nothing_else(contents: Contents) -> None:
    page = Page(render(contents))
    assert page.open == []
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert [link for link in page.links if link.startswith("#") and link[1:] not in page.ids] == []
    assert [source[:40] for source in page.pictures if not source.startswith("data:image/")] == []


def test_every_picture_in_it_can_be_read(contents: Contents) -> None:
    for source in Page(render(contents)).pictures:
        kind, _, data = source.partition(";base64,")
        decoded = base64.b64decode(data, validate=True)
        if kind == "data:image/png":
            Image.open(io.BytesIO(decoded)).verify()
        else:
            assert decoded.lstrip().startswith(b"<?xml")


def test_it_shows_every_task_with_its_numbers(contents: Contents) -> None:
    text = " ".join("".join(Page(render(contents)).text).split())
    assert all(task in text for task in TASKS)
    assert "0.50 [0.40, 0.60]" in text
    assert "+0.100" in text
    assert "5 min 21 s" in text
    assert "train (align)" in text


def test_what_comes_from_data_can_not_become_markup(contents: Contents) -> None:
    text = render(contents)
    assert "<b>dog</b>" not in text
    assert "Remove the <b>dog</b>." in "".join(Page(text).text)


def test_a_refused_challenger_is_shown_as_refused(contents: Contents) -> None:
    gate = {"promoted": False, "reason": "remove is below the champion"}
    refused = replace(contents, summary={**contents.summary, "gate": gate})
    text = "".join(Page(render(refused)).text)
    assert "the champion stays" in text
    assert "remove is below the champion" in text


def test_a_run_without_champion_or_service_has_a_report_too(contents: Contents) -> None:
    text = "".join(Page(render(replace(contents, champion=None, answers=()))).text)
    assert "There was no champion" in text
    assert "Nothing was served." in text


def test_joints_and_regions_are_drawn_where_they_are() -> None:
    plain = np.full((64, 64, 3), 200, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[10:20, 30:50] = True
    counts = [30 * 64 + 10, *[10, 54] * 19, 10, 64 * 64 - (49 * 64 + 20)]
    region = Region(box=(30, 10, 50, 20), mask=Runs(size=(64, 64), counts=counts))
    assert (region.mask.pixels() == mask).all()
    for found, (left, top, right, bottom) in (
        (region, (30, 10, 50, 20)),
        (Joints(joints={"nose": Joint(x=8, y=50, confidence=0.9)}), (5, 45, 30, 55)),
    ):
        page = np.asarray(drawn(plain, found))
        ys, xs = np.nonzero((page != 200).any(-1))
        factor = page.shape[1] // 64
        assert left * factor - 4 <= xs.min() <= xs.max() <= right * factor + 4
        assert top * factor - 4 <= ys.min() <= ys.max() <= bottom * factor + 4


def test_results_are_told_in_words() -> None:
    assert words(None) == "a picture alone"
    assert words(Joints(joints={"nose": Joint(x=8, y=50, confidence=0.9)})) == "nose at 8, 50"
    region = Region(box=(0, 1, 1, 2), mask=Runs(size=(2, 2), counts=[1, 1, 2]))
    assert words(region) == "box 0, 1 to 1, 2; mask of 1 pixels"


def test_numbers_are_for_people() -> None:
    assert span({"value": 1, "low": 0.5, "high": 1.5}) == "1.00 [0.50, 1.50]"
    assert [duration(s) for s in (8.13, 200)] == ["8.1 s", "3 min 20 s"]
