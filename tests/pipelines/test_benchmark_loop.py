"""Benchmarks and the gate's evidence in a pipeline: parts side by side, joined, and held against the policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from drawings import picture
from kfp import dsl, local
from PIL import Image as Pillow
from safetensors.torch import save_file

from instructdiffusion.components.evidence import Evidence, gathered
from instructdiffusion.components.measure import NOTHING, Measure, merge, orders, reports, run
from instructdiffusion.components.policy import Policy, measured
from instructdiffusion.components.settings import NAMES
from instructdiffusion.model.endpoints import Still
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.pipelines import evidence_steps

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
    for field, named in {"data": "data", "split": "a split"}.items():
        with pytest.raises(ConfigError, match=f"{named} is named for faces, which is not measured"):
            orders(["semantic"], Measure.model_validate({field: {"faces": "x"}}))


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
    part = run(order, Still, tmp_path / "part", folder=lambda address: tmp_path).path
    assert merge([part], tmp_path / "all").facts["editing"]["data"].startswith("edits@sha256:")


def test_a_part_that_is_done_is_not_measured_again(tmp_path: Path) -> None:
    class Once(Still):
        def edit(self, *given: Any) -> Any:
            raise AssertionError("measured again")

    (order,) = orders(["restoration"], Measure(samples=2, size=32))
    first = run(order, Still, tmp_path / "part").digest
    assert run(order, Once, tmp_path / "part").digest == first


def test_networks_and_judge_of_an_order_measure_its_part(tiny_clip: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 24), "bias": torch.zeros(1)}, tmp_path / "aesthetic.safetensors")
    how = Measure(
        samples=1,
        size=32,
        clip=str(tiny_clip),
        aesthetic="s3://bucket/aesthetic.safetensors",
        judge="http://127.0.0.1:9/v1",
        judge_model="eyes",
    )
    for order in orders(["editing", "judged"], how):
        run(order, Still, tmp_path / "rows", file=lambda address: tmp_path / Path(address).name)
    found = merge([tmp_path / "rows"], tmp_path / "all").facts
    aesthetic = found["editing"]["values"]["aesthetic"]
    assert aesthetic["value"] is not None
    assert "aesthetic.safetensors@sha256:" in json.dumps(aesthetic["spec"])
    assert found["editing"]["values"]["clip_sim"]["value"] is not None
    assert "127.0.0.1:9/v1 can't be reached" in found["judged"]["values"]["overall"]["missing"]


def test_an_order_names_the_split_of_its_data(tmp_path: Path) -> None:
    for name in ("cat", "dog", "cow", "hen"):
        picture(tmp_path / "data/val" / name / "1.png")
    how = Measure(data={"classification": str(tmp_path / "data")}, split={"classification": "val"})
    (order,) = orders(["classification"], how)
    made = merge([run(order, Still, tmp_path / "rows").path], tmp_path / "all")
    assert made.facts["classification"]["n"] == 16


def test_a_judge_without_a_model_is_refused(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("measure: {judge: http://eyes/v1}\n")
    with pytest.raises(ConfigError, match="the judge at http://eyes/v1 needs judge_model"):
        Policy.load(policy)


def test_benchmarks_that_are_named_are_measured_with_the_data_and_tools_of_the_policy(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("measure: {clip: openai/clip, samples: 9, data: {editing: /edits, faces: /faces}}\n")
    told = evidence_steps.assign.python_func(
        policy=str(policy), benchmarks="editing", samples=2, parts=1, page=dsl.HTML(uri=str(tmp_path / "page"))
    )
    (order,) = map(json.loads, told)
    assert (order["clip"], order["data"], order["samples"]) == ("openai/clip", "/edits", 2)


@pytest.mark.parametrize(("given", "told"), [({"parts": 0}, "parts=0"), ({"samples": -1}, "samples=-1")])
def test_a_step_refuses_numbers_that_no_benchmark_can_be_measured_by(
    given: dict[str, int], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = dsl.HTML(uri=str(tmp_path / "page"))
    with pytest.raises(SystemExit) as ended:
        evidence_steps.assign.python_func(
            **{"policy": "", "benchmarks": "semantic", "samples": 1, "parts": 1, "page": page, **given}
        )
    assert ended.value.code == ConfigError.exit_code
    assert told in capsys.readouterr().out


def test_a_probe_refuses_a_seed_below_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, safety = dsl.Model(metadata={"name": "m"}), dsl.Artifact(uri=str(tmp_path / "safety"))
    with pytest.raises(SystemExit) as ended:
        evidence_steps.probe.python_func(
            model=model, policy="", seed=-1, work="", safety=safety, page=dsl.HTML(uri=str(tmp_path / "page"))
        )
    assert ended.value.code == ConfigError.exit_code
    assert "seed=-1" in capsys.readouterr().out


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
