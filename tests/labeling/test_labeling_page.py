"""docs/labeling.md: its commands run as they stand there, in their order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from labeling.annotating import Labels, Proposed, shell
from markdown_it import MarkdownIt

from instructdiffusion.labeling import screen
from instructdiffusion.labeling.rankings import read

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "labeling.md"
OURS = f'instructdiffusion() {{ "{sys.executable}" -m instructdiffusion.pipelines "$@"; }}'


def commands() -> list[str]:
    """Every line of the page's programs."""
    blocks = [token.content for token in MarkdownIt("commonmark").parse(PAGE.read_text()) if token.info == "sh"]
    return [line for block in blocks for line in block.splitlines() if line]


def test_every_command_runs_as_it_stands_in_their_order(labels: Labels, proposed: Proposed, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels").symlink_to(labels.folder)  # what the first command left
    (tmp_path / "out" / "candidates").symlink_to(proposed.folder)
    lines = [line for line in commands() if not line.startswith("make ")]
    script = "\n".join(["set -eu", OURS, *(f"echo '+ {line}'; {line}" for line in lines)])
    ended = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=shell(), capture_output=True, text=True, timeout=500
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = dict(part.split("\n", 1) for part in ended.stdout.split("+ ")[1:])
    assert (
        f"{labels.settings.label_url}/projects/" in told["instructdiffusion label open out/candidates --annotators 2"]
    )
    assert f"{labels.settings.label_url}/user/signup/?token=" in told["instructdiffusion label invite"]
    assert "0 of 3 prompts have 2 answers" in told["instructdiffusion label status out/candidates"]
    assert "closed" in told["instructdiffusion label close out/candidates --file out/rankings.jsonl"]
    assert read(tmp_path / "out" / "rankings.jsonl") == []
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("make label-studio", "instructdiffusion label serve"),  # which the other tests here run for real
        ("make demo RANK=label-studio", "instructdiffusion demo --rank label-studio"),
    ],
)
def test_make_runs_the_command_and_installs_the_server_before(line: str, runs: str) -> None:
    assert line in commands()
    parts = [*line.split(), "--dry-run", "--always-make"]
    told = subprocess.run(parts, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 0 < told.index("--requirement labeling/label-studio.txt") < told.index(runs)


@pytest.mark.parametrize("keys", screen.KEYS[:3])
def test_the_keys_are_told(keys: str) -> None:
    assert " ".join(f"`{key}`" for key in keys) in PAGE.read_text()


@pytest.mark.parametrize("defect", screen.DEFECTS.values())
def test_every_defect_is_told(defect: str) -> None:
    assert defect.lower() in PAGE.read_text()
