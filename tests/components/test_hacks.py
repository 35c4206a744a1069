"""A measure that is hacked on a benchmark is flagged: a planted model pleases the judge and wrecks the background."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kfp import dsl

from instructdiffusion.components.evidence import Known
from instructdiffusion.components.gate import Verdict, verdict
from instructdiffusion.components.gate_page import page
from instructdiffusion.components.hacks import LIKENESS
from instructdiffusion.components.measure import merge
from instructdiffusion.components.policy import Policy
from instructdiffusion.components.probe import REPORT
from instructdiffusion.components.registry import CHAMPION, Registry
from instructdiffusion.components.servers import Server
from instructdiffusion.components.settings import Settings
from instructdiffusion.components.step import data_digest
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.model.benchmark import Order, Tools
from instructdiffusion.model.benchmarks import benchmark_named, benchmarks
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.endpoints import Still
from instructdiffusion.model.scoring import run
from instructdiffusion.model.task import Ask, Image
from instructdiffusion.pipelines import model_steps

NEW, OLD = "sha256:new", "sha256:old"
Report = dict[str, Any]


class Red(Still):
    """Turns the whole picture redder, whatever was asked for."""

    def __init__(self, digest: str, by: int) -> None:
        self.name, self.by = f"model@{digest}", by

    def edit(self, pictures: Sequence[Image], asks: Sequence[Ask], seeds: Sequence[int]) -> list[Image]:
        redder = np.array([self.by, 0, 0])
        return [np.clip(picture + redder, 0, 255).astype(np.uint8) for picture in pictures]


class LikesRed:
    """A judge who gives points for red."""

    spec_model = "eyes"

    def __call__(self, source: Image, output: Image, instruction: str) -> Mapping[str, float]:
        red = float(output[..., 0].mean()) / 25.5
        return {"follows": red, "quality": red}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of the champion and of a challenger that is much redder, the rows of a benchmark."""
    folder, bench = tmp_path_factory.mktemp("parts"), benchmark_named("judged")
    for digest, by in {OLD: 4, NEW: 80}.items():
        out = folder / digest / bench.name
        run(bench, Red(digest, by), out, Order(samples=8, size=32), tools=Tools(judge=LikesRed()))
    return {digest: folder / digest for digest in (OLD, NEW)}


@pytest.fixture(scope="module")
def merged(parts: dict[str, Path]) -> list[Report]:
    made = [merge([parts[digest]], parts[digest].with_suffix(".merged"), model=digest) for digest in (NEW, OLD)]
    return [one.facts["judged"] for one in made]


@pytest.fixture
def reports(merged: list[Report]) -> list[Report]:
    """The challenger's report and the champion's."""
    return copy.deepcopy(merged)


def evaluation(model: str, level: float, data: str = "sha256:data") -> dict[str, Any]:
    scores = [level + 0.1 * (at % 3) for at in range(30)]
    task = {"metric": "iou", "value": level, "floor": 0.0, "bound": 9.0, "n": 30, "scores": scores}
    return {"tasks": {"referring": task}, "model": model, "data": data}


def judged(*reports: Report, champion: bool = True, **policy: Any) -> Verdict:
    known = Known.model_validate({"benchmarks": reports})
    old = evaluation(OLD, 1.0) if champion else None
    return verdict(evaluation(NEW, 2.0), old, policy=Policy.model_validate(policy), known=known)


def test_a_planted_hack_is_flagged_and_refused_where_the_policy_says_so(reports: list[Report]) -> None:
    found = judged(*reports)
    assert (found.passed, found.notes) == (True, ())
    assert [flag.partition(" rose")[0] for flag in found.flags] == [
        f"judged/{metric} on embedded" for metric in ("overall", "follows", "quality")
    ]
    fell = reports[1]["values"]["background"]["value"] - reports[0]["values"]["background"]["value"]
    assert f"rose while its background fell by {fell:.2f} dB: the measure may have been hacked" in found.flags[0]
    strict = judged(*reports, watch={"refuse": True})
    assert (strict.passed, strict.reasons) == (False, found.flags)
    assert judged(*reports, watch={"drop": fell + 1}).flags == ()


@pytest.mark.parametrize("metric", ["background", "overall"])
def test_a_change_within_noise_is_no_hack(metric: str, reports: list[Report]) -> None:
    new, old = reports
    for name in ("follows", "quality"):  # one kind of likeness is enough here
        del new["values"][name], old["values"][name]
    assert len(judged(new, old).flags) == 1
    towards = -1.5 if metric == "background" else 0.2
    for at, (sample, score) in enumerate(old["scores"][metric].items()):
        new["scores"][metric][sample] = score + towards + (9 if at % 2 else -9)
    found = judged(new, old)
    assert (found.flags, found.notes) == ((), ())


def other_data(report: Report) -> None:
    report["data"] = "edits@sha256:1"


def other_spec(report: Report) -> None:
    for value in report["values"].values():
        value["spec"]["seed"] = 7


def other_samples(report: Report) -> None:
    for scores in report["scores"].values():
        scores["another"] = scores.pop(min(scores))


def missing(report: Report) -> None:
    for value in report["values"].values():
        value |= {"value": None, "missing": "no judge was named; give --judge"}


def without_scores(report: Report) -> None:
    del report["scores"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_spec, "was not compared with the champion's: it was measured by another spec"),
        (other_samples, "was not compared with the champion's: it was measured on other samples"),
        (missing, "was not compared with the champion's: no judge was named; give --judge"),
        (without_scores, "was not compared with the champion's: a report holds no scores of its samples; run: "),
    ],
)
def test_what_can_not_be_compared_is_said(change: Any, told: str, reports: list[Report]) -> None:
    change(reports[1])
    found = judged(*reports, watch={"refuse": True})
    assert (found.passed, found.flags) == (True, ())
    assert [note.partition(" on ")[0] for note in found.notes] == [
        f"judged/{metric}" for metric in ("background", "overall", "follows", "quality")
    ]
    assert all(told in note for note in found.notes)


def test_reports_of_different_data_and_those_without_a_partner_say_so(reports: list[Report]) -> None:
    new, old = reports
    lone = "judged on embedded was not compared: there is no report of the champion's on the same data; run: "
    (alone,) = judged(new).notes
    assert alone.startswith(lone)
    other_data(old)
    found = judged(new, old)
    assert (found.flags, len(found.notes)) == ((), 2)
    assert found.notes[0].startswith(lone)
    assert found.notes[1].startswith("judged on edits@sha256:1 was not compared: there is no report of the challenger")
    assert judged(new, champion=False).notes == ()  # nobody to compare with
    assert judged({**new, "benchmark": "faces", "values": {}}).notes == ()  # nothing that could be hacked


def test_likeness_without_a_background_is_said_not_to_be_compared(reports: list[Report]) -> None:
    for report in reports:
        del report["values"]["background"]  # as of samples without a mask
    found = judged(*reports)
    told = "judged/background on embedded was not compared with the champion's: it was not measured"
    assert (found.flags, found.notes) == ((), (told,))
    assert f"<h2>Not compared</h2><ul><li>{escape(told)}</li></ul>" in page(found)


def test_a_report_of_the_champion_counts_neither_for_the_challenger_nor_against_it(
    reports: list[Report],
) -> None:
    _, old = reports
    held: dict[str, Any] = {"benchmarks": {"judged/overall": 0.0}, "latency": 1e6}
    assert judged(*reports, **held).passed
    alone = judged(old, **held)
    assert any("judged/overall was not measured; run: " in reason for reason in alone.reasons)
    assert any("no benchmark's report of this model" in reason for reason in alone.reasons)
    assert [check.passed for check in judged(*reports, benchmarks={"judged/overall": 0.0}).checks] == [True]
    assert "is of sha256:old, not of sha256:new" in judged(old, champion=False).reason  # a stranger, and no champion


def test_likeness_is_measured_by_the_benchmarks_and_more_of_it_is_better() -> None:
    measures = [measure.spec for bench in benchmarks().values() for measure in bench.measures(Tools())]
    assert set(LIKENESS) <= {spec.name for spec in measures if spec.better == "higher"}


def test_a_pipeline_compares_with_the_reports_that_the_champion_keeps(
    parts: dict[str, Path],
    registry: Registry,
    tracker: Tracker,
    tracking_server: Server,
    settings: Settings,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in {**settings.environment(), **tracking_server.environment}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("INSTRUCTDIFFUSION_REGISTERED_MODEL", registry.model)
    Manifest(size=8, split="test", seed=0, counts={}, shards=()).save(tmp_path / "shards")
    data = data_digest(tmp_path / "shards")
    for name, scored in {"new": evaluation(NEW, 2.0, data), "old": evaluation(OLD, 1.0, data)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(scored))
    (tmp_path / "safety").mkdir()
    (tmp_path / "safety" / REPORT).write_text(json.dumps({"model": NEW, "probes": [{"name": "a", "passed": True}]}))
    with tracker.open_run("old", key=registry.model) as tracked:
        kept = merge([parts[OLD]], tmp_path / "merged", model=OLD, tracked=tracked).facts["judged"]
        tracked.document("benchmarks/editing.json", {**kept, "editor": "trained-again@sha256:again"})
        number = registry.register("s3://b/old", digest=OLD, run_id=tracked.run_id, tags={"gate": "first"}).number
    registry.set_alias(CHAMPION, number)
    measured = merge([parts[NEW]], tmp_path / "measured", model=NEW).path

    def at(name: str) -> Any:
        return dsl.Artifact(uri=str(tmp_path / name))

    metrics = dsl.Metrics(uri=str(tmp_path / "metrics"))
    given = {"challenger": "new", "known": "old", "also_known": "old", "safety": "safety", "shards": "shards"}
    model_steps.gate.python_func(
        name="new",
        model=dsl.Model(metadata={"name": "new"}),
        **{name: at(place) for name, place in given.items()},
        benchmarks=dsl.Artifact(uri=str(measured)),
        policy="",
        leak="",
        champion=at("out/champion"),
        verdict=at("out/verdict"),
        page=at("out/page"),
        metrics=metrics,
    )
    found = Verdict.model_validate_json((tmp_path / "out/verdict/verdict.json").read_text())
    assert found.champion == OLD
    assert found.checks[0].passed
    assert "judged/overall on embedded rose while its background fell" in found.flags[0]
    assert "rose while its background fell" in (tmp_path / "out/page").read_text()
