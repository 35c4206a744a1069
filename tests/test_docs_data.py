"""docs/data.md and the code say the same: its sources file and its commands work as they stand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import drawings
import published
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from instructdiffusion.model.data.pictures import MOST_PIXELS
from instructdiffusion.model.data.samples import NARROW
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.data.sources import Pairs, Scenes, Synthesis, packaged, sources_of
from instructdiffusion.pipelines.cli import app

PAGE = Path(__file__).parents[1] / "docs/data.md"


def blocks(language: str) -> list[str]:
    return [token.content for token in MarkdownIt("commonmark").parse(PAGE.read_text()) if token.info == language]


def test_a_data_set_is_built_at_once_and_in_parts_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, paper = blocks("yaml")
    assert sources_of(paper, "the page's") == packaged("paper")
    drawings.coco(tmp_path / "coco", drawings.person(1, 7, drawings.COCO_JOINTS))
    for split in ("train", "test"):
        published.gopro(tmp_path / "gopro", split=split)
    Path("sources.yaml").write_text(text.replace("/data/coco", "coco").replace("20000", "20"))
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    for line in lines:
        ended = CliRunner().invoke(app, [*shlex.split(line)[1:], *(["--workers", "1"] if " build " in line else [])])
        assert ended.exit_code == 0, ended.output
    assert len(lines) == 9
    assert json.loads(Path("out/leaks.json").read_text())["clean"] is True
    whole = Manifest.load(tmp_path / "out/mixture")
    assert Manifest.load(tmp_path / "out/joined").shards == whole.shards
    assert whole.sources["blurred"].counts == {"deblur": 12}
    assert whole.sources["people"].counts == {"keypoint": 1}
    assert sum(whole.sources["scenes"].counts.values()) == 20


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    page = " ".join(PAGE.read_text().split())
    assert f"more than {MOST_PIXELS // 1_000_000} million pixels" in page
    assert f"more than {NARROW} times as long as wide" in page


def test_every_field_of_a_source_is_explained() -> None:
    for field in (*Synthesis.model_fields, *Pairs.model_fields, *Scenes.model_fields):
        assert f"`{field}`" in PAGE.read_text()
