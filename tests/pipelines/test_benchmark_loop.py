"""Benchmarks and the gate's evidence in a pipeline: parts side by side, joined, and held against the policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import local
from PIL import Image as Pillow

from instructdiffusion.components.evidence import Evidence, gathered
from instructdiffusion.components.measure import NOTHING, Measure, merge, orders, reports, run
from instructdiffusion.components.policy import Policy, measured
from instructdiffusion.components.settings import NAMES
from instructdiffusion.model.endpoints import Still
from instructdiffusion.model.errors import ConfigError, DataError

TWO = Measure(samples=4, parts=2, size=32)


def test_each_part_of_each_benchmark_is_an_order() -> None:
    told = [json.loads(order) for order in orders(["semantic", "restoration"], TWO)]
    assert [(t["benchmark"], t["part"]) for t in told] == [
        ("restoration", 1),
        ("restoration", 2),
        ("semantic", 1),
        ("semantic", 2),
    ]
    assert orders([], Measure()) == [NOTHING]
    with pytest.raises(ConfigError, match="no benchmark 'x'"):
        orders(["x"], TWO)
    with pytest.raises(ConfigError, match="data is named for faces, which is not measured"):
        orders(["semantic"], Measure(data={"faces": "/data"}))


def test_a_policy_names_the_benchmarks_to_measure() -> None:
    policy = Policy.model_validate({"benchmarks": {"faces/nme": 0.1, "restoration/psnr": 1, "restoration/ssim": 0.5}})
    assert measured(policy) == ["faces", "restoration"]


def test_parts_are_put_together_by_benchmark_and_a_missing_one_is_named(tmp_path: Path) -> None:
    told = orders(["restoration", "semantic"], TWO)
    parts = [run(order, Still, tmp_path / str(at)).path for at, order in enumerate([*told, NOTHING])]
    made = merge(parts, tmp_path / "all")
    assert {name: report["n"] for name, report in made.facts.items()} == {"restoration": 4, "semantic": 4}
    assert [path.parent.name for path in reports(made.path)] == ["restoration", "semantic"]
    known = gathered(Evidence(benchmarks=reports(made.path)))
    assert [(r.benchmark, r.model, r.data) for r in known.benchmarks] == [
        ("restoration", "do-nothing", "embedded"),
        ("semantic", "do-nothing", "embedded"),
    ]
    assert merge([parts[-1]], tmp_path / "none").facts == {}
    with pytest.raises(DataError, match=r"part 2/2 in .*restoration is not finished"):
        merge(parts[:1], tmp_path / "half")


def test_a_report_names_its_data_as_the_address_that_the_policy_gave(tmp_path: Path) -> None:
    Pillow.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    sample = {"key": "1", "source": "red.png", "instruction": "Remove the dog.", "target": "red.png"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample))
    (order,) = orders(["editing"], Measure(data={"editing": "s3://bucket/edits"}))
    part = run(order, Still, tmp_path / "part", data=lambda address: tmp_path).path
    assert merge([part], tmp_path / "all").facts["editing"]["data"].startswith("edits@sha256:")


def test_a_part_that_is_done_is_not_measured_again(tmp_path: Path) -> None:
    class Once(Still):
        def edit(self, *given: Any) -> Any:
            raise AssertionError("measured again")

    (order,) = orders(["restoration"], Measure(samples=2, size=32))
    first = run(order, Still, tmp_path / "part").digest
    assert run(order, Once, tmp_path / "part").digest == first


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_loop_runs_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instructdiffusion.pipelines.catalog import benchmark

    for name in ("store_endpoint", "tracking_uri"):
        monkeypatch.delenv(NAMES[name], raising=False)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    made = benchmark(benchmarks="restoration", samples=2, parts=2, work=str(tmp_path / "work"))
    (report,) = reports(Path(made.outputs["benchmarks"].path))
    assert json.loads(report.read_text())["n"] == 2
    (page,) = (tmp_path / "root").glob("*/merge/page")
    assert "psnr" in page.read_text()
