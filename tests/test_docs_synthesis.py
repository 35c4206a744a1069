"""docs/synthesis.md and the code say the same: its sources file is built and filtered as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import published
import pytest
from markdown_it import MarkdownIt
from stable import tiny_stable_diffusion
from typer.testing import CliRunner

from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.synthesis import degrade, gather, guessed, pairs, replacement
from instructdiffusion.model.synthesis.prompt_to_prompt import twins
from instructdiffusion.model.synthesis.regions import LEAST, MOST
from instructdiffusion.pipelines.cli import app

PAGE = Path(__file__).parents[1] / "docs/synthesis.md"
pytest.importorskip("ai_edge_litert", reason="pip install 'instructdiffusion[detectors]'")


def test_the_sources_of_the_page_are_built_and_filtered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokens = MarkdownIt("commonmark").parse(PAGE.read_text())
    (text, things), (commands,) = ([t.content for t in tokens if t.info == language] for language in ("yaml", "sh"))
    published.phrasecut(tmp_path / "phrasecut")
    published.phrasecut_of_things(tmp_path / "things")
    published.photographs_with_captions(tmp_path / "photos")
    published.prompts(tmp_path / "prompts")
    tiny_stable_diffusion(tmp_path / "stable-diffusion")
    Path("synthesis.yaml").write_text(text.replace("/models/", f"{tmp_path}/"))
    twins(f"{tmp_path}/stable-diffusion").steps = 2  # loaded once
    Path("things.yaml").write_text(things)
    for line in commands.splitlines():
        ended = CliRunner().invoke(app, [*shlex.split(line)[1:], *(["--workers", "1"] if " build " in line else [])])
        assert ended.exit_code == 0, ended.output
    found = Manifest.load(Path("out/good")).sources
    assert found["guessed"].counts["keypoint"] == 1
    assert found["edits"].counts == {"add": 2, "remove": 2}
    assert found["swaps"].counts == {"replace": 1}
    assert found["styles"].counts == {"edit": 2}
    assert found["damage"].counts == {"deblur": 2, "denoise": 2, "watermark": 2}


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    page = " ".join(PAGE.read_text().split())
    assert re.search(rf"less than\s+{LEAST:.0%} or more than {MOST:.0%}".replace("%", " %"), page)
    assert f"less than {gather.SMALLEST} pixels wide and high" in page
    assert f"one of the {replacement.CHOSEN_FROM} nearest" in page
    assert f"drawn between {pairs.SHARES[0]} and {pairs.SHARES[1]}" in page
    for likeness, name in (
        ("two pictures", "image"),
        ("picture and its caption", "before"),
        ("in captions", "direction"),
    ):
        assert f"{likeness} | {pairs.LEAST[f'clip_{name}']} |" in page
    assert f"JPEG on top of {10 * degrade.COMPRESSED:g} in 10" in page
    assert f"At most {guessed.MOST} things of a photograph" in page
    assert f"a logo on {10 * degrade.LOGOS:g} in 10" in page
