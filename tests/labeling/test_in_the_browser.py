"""An annotator at work: Chromium, a real Label Studio, and no mouse.

With SCREENSHOTS=docs/images it also renews the picture of the page that explains this.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from browser import opened
from labeling.annotating import PASSWORD, Labels, Proposed
from labeling.proposed import propose

from instructdiffusion.components import label_round

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTH, HEIGHT = 1440, 900
SEEN = """() => [...document.querySelectorAll('.ie-row img')].map(image => {
    const box = image.getBoundingClientRect()
    return {natural: image.naturalWidth, shown: box.width, ...box.toJSON()}
})"""
LOADED = """count => {
    const images = [...document.querySelectorAll('.ie-row img')]
    return images.length === count && images.every(image => image.complete && image.naturalWidth > 0)
}"""
SCROLLS = """() => {
    const over = []
    for (let node = document.querySelector('.ie'); node; node = node.parentElement)
        if (node.scrollHeight > node.clientHeight + 1 && node.clientHeight > 0
            && getComputedStyle(node).overflowY !== 'visible') over.push(node.className)
    return document.documentElement.scrollHeight > innerHeight ? [...over, 'page'] : over
}"""
UNDONE = "() => document.querySelectorAll('.ie input:checked').length === 0"


@pytest.fixture
def shown(tmp_path: Path) -> Proposed:
    """Four edits each of three prompts, at the size of real ones."""
    best = propose(tmp_path, {"remove": 2, "segmentation": 1}, size=256, seed=5)
    return Proposed(tmp_path / "candidates", best)


def log_in(page: Page, address: str, email: str) -> None:
    """From the address of a round, by way of the form, with the keyboard."""
    page.goto(address)
    for _ in range(20):
        if page.evaluate("document.activeElement.name") == "email":
            break
        page.keyboard.press("Tab")
    page.keyboard.type(email)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")


def press(page: Page, *keys: str) -> int:
    """Press keys, the last of which sends the answer; returns the task that it is of."""
    with page.expect_response(lambda r: r.request.method == "POST" and "/annotations" in r.url) as caught:
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(200)
    assert caught.value.ok
    found = re.search(r"/tasks/(\d+)/", caught.value.url)
    assert found is not None
    return int(found[1])


def test_an_annotator_ranks_with_the_keyboard_alone(labels: Labels, shown: Proposed, tmp_path: Path) -> None:
    state = label_round.open_round(shown.folder, labels.settings)
    keys = {task: key for key, task in labels.tasks(state).items()}
    with labels.annotator("cleo"), opened(WIDTH, HEIGHT) as (page, hosts):  # the account is there, the page knows none
        log_in(page, state.addresses[0], "cleo@example.org")
        answered: list[str] = []
        for pressed in (["2", "e", "Control+Enter"], ["0", "Control+Enter"], ["Control+Space"]):
            page.wait_for_function(LOADED, arg=5)
            page.wait_for_function(UNDONE)
            assert_all_is_seen(page)
            if not answered:
                picture(page, tmp_path)
            answered.append(keys.pop(press(page, *pressed)))
        assert hosts == {urlsplit(labels.settings.label_url).netloc}

    rankings = {r.key: r for r in label_round.status_of_round(shown.folder, labels.settings).rankings}
    first, second, third = answered
    places = shown.round.shown(next(p for p in shown.round.prompts if p.key == first))
    assert rankings[first].edits == (places[1],)
    assert rankings[first].defects == {places[0]: ("not_followed",)}
    assert rankings[second].rejected
    assert third not in rankings
    assert {r.annotator for r in rankings.values()} == {"cleo@example.org"}


def assert_all_is_seen(page: Page) -> None:
    """Source and edits are whole on the screen, large enough, and there is nothing to scroll to."""
    for box in page.evaluate(SEEN):
        assert box["natural"] == 256
        assert box["shown"] > 200
        assert min(box["left"], box["top"]) >= 0
        assert box["right"] <= WIDTH
        assert box["bottom"] <= HEIGHT
    assert page.evaluate(SCROLLS) == []


def picture(page: Page, tmp_path: Path) -> None:
    """The screen with an edit picked, as the docs show it; then as it was."""
    page.keyboard.press("2")
    page.wait_for_timeout(1000)
    kept = Path(os.environ.get("SCREENSHOTS") or tmp_path) / "labeling.png"
    page.screenshot(path=kept)
    assert kept.stat().st_size > 50_000
    page.keyboard.press("2")  # once more takes it back
    page.wait_for_function(UNDONE)
