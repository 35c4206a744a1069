"""The docs and the code say the same: links lead somewhere, and what there is to use is named."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

from instructdiffusion.components.settings import NAMES
from instructdiffusion.model.data.photos import photographs
from instructdiffusion.model.tasks import TASKS
from instructdiffusion.pipelines.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def tokens(page: Path) -> list[Token]:
    """Parse a page; inline tokens follow the block they belong to."""
    blocks = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    return [token for block in blocks for token in (block, *(block.children or []))]


def links(page: Path) -> list[str]:
    """Where a page points: the targets of its links and pictures."""
    targets = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(page)]
    return [str(target) for target in targets if target]


def anchors(page: Path) -> set[str]:
    """The anchors that a forge derives from a page's headings; a repeated one is numbered."""
    parsed, seen, found = tokens(page), Counter[str](), set()
    for token, text in pairwise(parsed):
        if token.type == "heading_open":
            slug = re.sub(r"[^\w\- ]", "", text.content.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def dead(page: Path, target: str) -> str | None:
    """Say what is wrong with a link; None when it leads somewhere, or out of the repository."""
    parts = urlsplit(target)
    if parts.scheme:
        return None
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not file.is_relative_to(ROOT) or not file.exists():
        return f"{target}: no such file"
    if parts.fragment and parts.fragment not in anchors(file):
        return f"{target}: no such heading"
    return None


def commands() -> list[str]:
    """Every command that `--help` lists, with its group before it."""

    def walk(command: Any, path: str) -> list[str]:
        if (inner := getattr(command, "commands", None)) is None:
            return [path]
        shown = [(name, sub) for name, sub in inner.items() if not sub.hidden]
        return [line for name, sub in shown for line in walk(sub, f"{path} {name}")]

    return walk(typer.main.get_command(app), "instructdiffusion")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [problem for target in links(page) if (problem := dead(page, target))] == []


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_is_named_in_the_docs(task: str) -> None:
    assert any(f"`{task}`" in page.read_text() for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("command", commands())
def test_every_command_is_explained(command: str) -> None:
    assert f"`{command}" in (ROOT / "docs/running.md").read_text()


@pytest.mark.parametrize("setting", sorted(NAMES.values()))
def test_every_setting_is_explained(setting: str) -> None:
    assert f"`{setting}`" in (ROOT / "docs/running.md").read_text()


def test_the_program_in_the_readme_runs(tmp_path: Path) -> None:
    program = next(token.content for token in tokens(ROOT / "README.md") if token.info == "python")
    Image.fromarray(photographs("test")[-1]).save(tmp_path / "photo.jpg")
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    with Image.open(tmp_path / "answer.png") as answer, Image.open(tmp_path / "photo.jpg") as photo:
        assert answer.size == photo.size


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    assert dead(ROOT / "README.md", "docs/no-such-page.md")
    assert dead(ROOT / "README.md", "docs/architecture.md#no-such-heading")
    assert dead(ROOT / "docs/architecture.md", "../../outside.md")
