"""The page at `/`, used as a visitor uses it: in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import opened
from PIL import Image as Pillow
from playwright.sync_api import expect

from instructdiffusion.components import deploy

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

LOADED = "image => image.complete && image.naturalWidth > 0"


@pytest.fixture(scope="module")
def page(deployment: deploy.Deployment) -> Iterator[Page]:
    with opened(1280, 900) as (page, hosts):
        page.goto(deployment.address)
        yield page
        assert hosts == {urlsplit(deployment.address).netloc}  # nothing comes from elsewhere


def test_an_example_is_edited_by_keyboard_and_what_was_found_is_told(page: Page) -> None:
    page.get_by_role("button", name="referring").click()
    page.locator("#examples button").first.click()
    expect(page.locator("#instruction")).not_to_have_value("")
    page.locator("#instruction").press("Enter")
    page.wait_for_selector("#compare:not([hidden])")
    assert page.locator("#after").evaluate(LOADED)
    assert page.locator("#source").evaluate(LOADED)
    told = page.locator("#result").inner_text()
    assert "understood as referring" in told
    assert "model 7" in told


def test_the_example_that_was_chosen_last_is_edited_however_late_its_picture_comes(page: Page) -> None:
    late: list[Route] = []
    page.route("**/examples/**", lambda route: late.append(route))
    page.reload()
    page.locator("#examples button").last.click()
    instruction = page.locator("#instruction").input_value()
    page.locator("#instruction").press("Enter")
    expect(page.locator("#go")).to_be_disabled()
    for request in reversed(late):  # that of the first example, which every visitor gets, comes last
        request.continue_()
    expect(page.locator("#call")).to_contain_text(f"referring-{page.locator('#examples button').count() - 1}.png")
    expect(page.locator("#call")).to_contain_text(instruction)
    page.unroute("**/examples/**")


def test_the_whole_source_shows_whatever_its_form(page: Page, tmp_path: Path) -> None:
    Pillow.fromarray(np.full((40, 160, 3), 90, np.uint8)).save(tmp_path / "wide.png")
    page.locator("#file").set_input_files(tmp_path / "wide.png")
    expect(page.locator("#source")).to_have_js_property("naturalWidth", 160)
    inside = "e => [e.clientWidth <= e.parentElement.clientWidth, e.clientHeight <= e.parentElement.clientHeight]"
    assert page.locator("#source").evaluate(inside) == [True, True]


def test_what_the_service_refuses_is_told_in_its_own_line(page: Page) -> None:
    page.get_by_text("Options").click()
    page.locator("input[name=steps]").fill("51")
    page.locator("#instruction").fill("Remove the noise.")
    page.locator("#go").click()
    expect(page.locator("#result")).to_contain_text("the limit is 50")
    assert page.locator("#result").inner_text().startswith("steps: 51, the limit is 50")
