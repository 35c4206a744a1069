"""A browser for the tests of what people look at: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

SHOWN = ("blob", "data")  # pictures that a page holds itself


@contextmanager
def opened(width: int, height: int) -> Iterator[tuple[Page, set[str]]]:
    """A page of that size, and the hosts that it asked for anything; skips where there is no browser."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium; apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page, hosts = browser.new_page(viewport={"width": width, "height": height}), set[str]()
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        page.on("request", lambda r: hosts.add(urlsplit(r.url).netloc) if urlsplit(r.url).scheme not in SHOWN else None)
        yield page, hosts
        browser.close()
