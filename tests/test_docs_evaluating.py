"""docs/evaluating.md and the code say the same: its commands run as they stand, its tables are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import ran
from markdown_it import MarkdownIt

from instructdiffusion.components.evidence import BenchmarkReport
from instructdiffusion.components.policy import Policy
from instructdiffusion.components.tools import Addresses
from instructdiffusion.model.benchmark import Tools
from instructdiffusion.model.benchmarks import benchmarks
from instructdiffusion.model.tasks import TASKS
from instructdiffusion.model.weights import BASE, model_digest

PAGE = Path(__file__).parents[1] / "docs" / "evaluating.md"


def blocks(language: str) -> list[str]:
    return [t.content for t in MarkdownIt("commonmark").parse(PAGE.read_text()) if t.info == language]


def lines() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


def evaluation(model: str, level: float) -> dict[str, Any]:
    noise = np.random.default_rng(0).normal(0, 0.1, 40)
    tasks = {}
    for name, task in TASKS.items():
        scores = (level + noise).tolist()
        row = {
            "unit": "x",
            "bar": 0.5,
            "value": level,
            "low": level - 0.05,
            "high": level + 0.05,
            "n": 40,
            "slices": {},
        }
        also = {other.name: {**row, "value": 30.0, "low": 29.0, "high": 31.0} for other in task.also}
        tasks[name] = {**row, "metric": task.metric.name, "floor": 0.0, "bound": 1.0, "scores": scores, "also": also}
    rest = {"autoencoder": [40, 39, 41], "guidance": {}, "seconds": 1.0, "model": model, "data": "sha256:held-out"}
    return {"tasks": tasks, **rest}


@pytest.fixture
def papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and all the papers that the page's commands name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/editor.json").write_text("{}")
    digest = model_digest(tmp_path / "model")
    for name, content in {"new": evaluation(digest, 0.8), "old": evaluation("sha256:old", 0.6)}.items():
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "evaluation.json").write_text(json.dumps(content))
    leak, safety = blocks("json")[1:]
    (tmp_path / "leak.json").write_text(leak.replace("sha256:...", "sha256:held-out", 1))
    (tmp_path / "safety.json").write_text(safety.replace("sha256:...", digest))
    (tmp_path / "policy.yaml").write_text(blocks("yaml")[-1])
    (tmp_path / "train.json").write_text((BASE / "manifest.json").read_text())
    about = ("name", "licence", "intended_use", "limits", "contact")
    (tmp_path / "about.yaml").write_text("".join(f"{name}: something\n" for name in about))
    return tmp_path


def test_every_command_of_the_page_runs(papers: Path) -> None:
    assert len(lines()) == 10
    for line in lines():
        ended = ran(line, Path())
        assert ended.exit_code == 0, (line, ended.output)
    found = json.loads((papers / "out/restoration/benchmark.json").read_text())
    assert BenchmarkReport.model_validate(found).model == model_digest(None)
    assert found["values"]["psnr"]["bound"] > found["values"]["psnr"]["floor"]
    still = json.loads((papers / "out/still/benchmark.json").read_text())
    assert still["values"]["psnr"]["value"] == found["values"]["psnr"]["floor"]
    assert json.loads((papers / "out/detection/benchmark.json").read_text())["n"] == 4
    assert "<h2>Policy release</h2>" in (papers / "out/gate/verdict.html").read_text()
    assert (papers / "card.md").read_text().startswith("# something")
    assert f"`{model_digest(None)}`" in (papers / "base.md").read_text()


def test_a_leak_and_a_gap_end_the_commands_of_the_page(papers: Path) -> None:
    leak = json.loads((papers / "leak.json").read_text())
    (papers / "leak.json").write_text(json.dumps({**leak, "clean": False, "found": ["3.jpg", "4.jpg"]}))
    (papers / "about.yaml").write_text("name: something\n")
    judged = ran(next(line for line in lines() if " gate " in line), Path())
    assert judged.exit_code == 1
    assert 'refused: training saw held-out samples: 2, as "3.jpg"' in judged.stdout
    refused = ran(next(line for line in lines() if " card " in line), Path())
    assert refused.exit_code == 3
    assert "no model card: about.licence is empty; about.intended_use is empty" in refused.stderr
    assert not (papers / "card.md").exists()


def test_the_page_lists_every_benchmark_metric_and_field_of_a_policy() -> None:
    text = PAGE.read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", text, re.MULTILINE)
    assert {name: about for name, about in rows if name in benchmarks()} == {
        name: benchmark.about for name, benchmark in benchmarks().items()
    }
    metrics = {m.spec.name for benchmark in benchmarks().values() for m in benchmark.measures(Tools())}
    assert sorted(name for name in {*metrics, *Policy.model_fields} if f"`{name}`" not in text) == []


def test_the_page_shows_how_a_pipeline_is_told_networks_and_judge() -> None:
    policy = Policy.model_validate(yaml.safe_load(blocks("yaml")[0]))
    assert (policy.measure.judge_model, policy.measure.split) == ("NAME", {"classification": "val"})
    options = {f"--{name.replace('_', '-')}" for name in Addresses.model_fields}
    assert sorted(option for option in options if option not in PAGE.read_text()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("benchmark run semantics --out x", "no benchmark 'semantics'; choose one of"),
        ("benchmark run semantic --out x --part first", "--part 'first': write it as 1/4"),
        ("benchmark run semantic --out x --model do-nothing --url http://h", "one of them at a time"),
        ("benchmark run judged --out x --judge http://h/v1", "the judge at http://h/v1 needs judge_model"),
        ("benchmark merge x", "holds no part of a benchmark"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: str, told: str, papers: Path) -> None:
    ended = ran(f"instructdiffusion {arguments}", Path())
    assert ended.exit_code in (2, 3)
    assert told in ended.stderr
