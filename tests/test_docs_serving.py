"""docs/serving.md and the code say the same: its commands and programs run as they stand, its tables are whole.

With SCREENSHOTS=docs/images it also renews the picture of the page at `/`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import opened
from markdown_it import MarkdownIt
from PIL import Image

from instructdiffusion.components.process import claim_port
from instructdiffusion.serving.client import Client
from instructdiffusion.serving.schema import EditRequest, EditResponse
from instructdiffusion.serving.settings import NAMES, Settings

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
WRITTEN = "3000"  # the port on the page


def blocks(language: str) -> list[str]:
    return [t.content for t in MarkdownIt("commonmark").parse(PAGE.read_text()) if t.info == language]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with a photograph, and the port of the service that the page's first command started there."""
    folder, port = tmp_path_factory.mktemp("served"), str(claim_port(0, "", ""))
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    (line,) = blocks("sh")[0].splitlines()
    program, *arguments = shlex.split(line.replace(WRITTEN, port))
    assert program == "instructdiffusion"
    command = [sys.executable, "-m", "instructdiffusion.pipelines", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True) as service:
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                client.wait_ready(300)
            yield folder, port
        finally:
            os.killpg(service.pid, signal.SIGTERM)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def ran(command: list[str], folder: Path) -> str:
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_call_is_answered(there: tuple[Path, str]) -> None:
    folder, port = there
    lines = [line for block in blocks("sh")[1:] for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        told = ran(["bash", "-c", line.replace(WRITTEN, port)], folder)
        answer = json.loads((folder / "answer.json").read_text() if line.endswith("answer.json") else told)
        assert "error" not in answer, line


def test_every_program_runs(there: tuple[Path, str]) -> None:
    folder, port = there
    first, second = (block.replace(WRITTEN, port) for block in blocks("python"))
    assert ran([sys.executable, "-c", first], folder)
    assert Image.open(folder / "edited.png").size == (80, 64)
    read = "import json\nprint(len(picture), json.loads(rest[1])['seed'])\n"
    told = ran([sys.executable, "-c", second + read], folder)
    assert told.split() == ["2", "1"]


def test_the_picture_is_what_a_visitor_sees(there: tuple[Path, str], tmp_path: Path) -> None:
    with opened(1280, 940) as (page, _):
        page.goto(f"http://127.0.0.1:{there[1]}")
        page.locator("#examples button").last.click()
        page.locator("#instruction").press("Enter")
        page.wait_for_selector("#result .say")
        kept = Path(os.environ.get("SCREENSHOTS") or tmp_path) / "serving.png"
        page.screenshot(path=kept)
        assert "understood as referring" in page.locator("#result").inner_text()
    assert kept.stat().st_size > 50_000


def test_the_tables_name_every_field_and_setting_with_its_default() -> None:
    text = PAGE.read_text()
    rows = dict(re.findall(r"^\| `(INSTRUCTDIFFUSION_SERVING_\w+)` \|.*\| (\S+) \|$", text, re.MULTILINE))
    assert rows.keys() == set(NAMES.values())
    for field, name in NAMES.items():
        default = Settings.model_fields[field].default
        assert rows[name] == (f"`{default}`" if default else "none"), name
    for field in (*EditRequest.model_fields, *EditResponse.model_fields):
        assert f"`{field}`" in text, field
