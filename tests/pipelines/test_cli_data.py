"""`instructdiffusion data check`: what is recognised is counted, what is wrong is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "instructdiffusion.pipelines", "data", "check", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        timeout=300,
    )


@pytest.fixture
def clwd(tmp_path: Path) -> Path:
    """Two pairs and a marked picture without its clean one."""
    for folder, count in (("Watermarked_image", 3), ("Watermark_free_image", 2)):
        (tmp_path / "train" / folder).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / "train" / folder / f"{number}.jpg")
    return tmp_path


def test_a_data_set_is_counted_for_people(clwd: Path) -> None:
    ended = check(str(clwd))
    assert ended.returncode == 0, ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines()]
    assert "CLWD" in ended.stdout
    assert ["train", "2", "2", "1"] in rows
    assert "clean picture: missing on disk" in ended.stdout


def test_a_data_set_is_counted_for_machines(clwd: Path) -> None:
    found = json.loads(check(str(clwd), "--split", "train", "--json").stdout)
    assert (found["name"], found["task"]) == ("CLWD", "watermark")
    assert found["splits"] == {
        "train": {"pictures": 2, "examples": 2, "skipped": {"clean picture: missing on disk": 1}}
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{empty}"], "is no data set that is known here; docs/data.md"),
        (["{folder}/gone"], "is no folder"),
        (["{folder}", "--split", "dev"], "no split 'dev' of CLWD; it has train"),
    ],
)
def test_what_is_wrong_is_one_line_and_ends_with_three(
    arguments: list[str], said: str, clwd: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    ended = check(*(argument.format(folder=clwd, empty=empty) for argument in arguments))
    assert ended.returncode == 3, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert said in ended.stderr


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "GIER.json").write_text('[{"input": ')
    ended = check(str(tmp_path))
    assert ended.returncode == 3
    assert ended.stderr.startswith(f"error: {tmp_path}/GIER.json is no JSON in UTF-8, or was cut short")
