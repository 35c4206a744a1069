"""docs/filtering.md and the code say the same: its commands and its policy work as they stand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.quality import scores
from instructdiffusion.model.quality.policy import Policy, Rule
from instructdiffusion.pipelines.cli import app

PAGE = Path(__file__).parents[1] / "docs/filtering.md"


def blocks(language: str) -> list[str]:
    return [token.content for token in MarkdownIt("commonmark").parse(PAGE.read_text()) if token.info == language]


def run(line: str) -> str:
    ended = CliRunner().invoke(app, shlex.split(line)[1:])
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_the_commands_of_the_page_filter_report_and_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    said = {line: run(line) for line in lines}
    assert len(lines) == 5
    manifest = Manifest.load(Path("out/kept"))
    assert 0 < manifest.total < 40
    assert any(f"{manifest.total} of 40 triplets are in out/kept" in text for text in said.values())
    page = Path("out/report.html").read_text()
    for told in ("rejected by shows", "remove: source and target", "scikit-image data", "at least 0.004"):
        assert told in page
    assert page.count("data:image/svg+xml") >= 4
    assert len(list(Path("out/audit/pictures").iterdir())) == 12
    found = json.loads(run(f"{lines[-1]} --json"))
    assert (found["judged"], found["left"], found["precision"]) == (0, 12, None)
    assert "precision unknown" in said[lines[-1]]


def test_the_policy_of_the_page_is_one() -> None:
    (text,) = blocks("yaml")
    assert [rule.name for rule in Policy.read(text).rules] == ["shows", "gone", "natural", "untouched"]
    for field in Rule.model_fields:
        assert f"`{field}`" in PAGE.read_text() or field in ("name", "score", "missing", "options")


def test_every_score_is_on_the_page_and_in_the_list() -> None:
    listed = run("instructdiffusion data scores")
    for name in scores():
        assert f"`{name}`" in PAGE.read_text()
        assert f"{name}: " in listed


def test_a_gallery_is_made_of_good_pictures(tiny_clip: Path, tmp_path: Path) -> None:
    run(f"instructdiffusion synthesize {tmp_path}/good --triplets 12 --size 32")
    out = tmp_path / "gallery.safetensors"
    assert "5 pictures are in" in run(
        f"instructdiffusion data gallery {tmp_path}/good {out} --network {tiny_clip} --limit 5"
    )
    assert out.is_file()
