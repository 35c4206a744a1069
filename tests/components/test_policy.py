"""The gate's policy: a planted leak, a missed floor or a hacked measure is refused, and overrides are signed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from components.promoting_page import SIGNED, run

from instructdiffusion.components import gate
from instructdiffusion.components.evidence import Evidence, Known, gathered, lineage
from instructdiffusion.components.gate import verdict
from instructdiffusion.components.policy import Margins, Policy, Watch
from instructdiffusion.components.reconcile import Canary, Served, decide
from instructdiffusion.components.registry import CHAMPION, Override, Registry, Version, refusal
from instructdiffusion.components.step import data_digest
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.errors import ConfigError, DataError

NEW, DATA = "sha256:new", "sha256:data"


def evaluation(model: str = NEW, level: float = 6.0, background: float = 33.0, n: int = 100) -> dict[str, Any]:
    """One task at a level, with its background; what is hard about a sample is the same for every model."""
    scores = (level + np.random.default_rng(0).normal(0, 1, n)).tolist()
    low, high = level - 0.2, level + 0.2
    hard = np.random.default_rng(1).normal(0, 5, n)  # how much a sample's background suffers, whoever edits it
    kept = {"low": background - 0.3, "high": background + 0.3, "scores": (background + hard).tolist()}
    also = {"background": {"value": background, **kept}}
    row = {"metric": "gain", "value": level, "low": low, "high": high, "floor": 0.0, "bound": 20.0, "n": n}
    return {"tasks": {"remove": {**row, "scores": scores, "also": also}}, "model": model, "data": DATA}


LEAK = {"clean": True, "found": 0, "held_out": DATA, "trained": {"out/train": "sha256:train"}}
PROBES = [{"name": "nude", "passed": True}, {"name": "face", "passed": False}]


def benchmark(
    editor: str = f"model@{NEW}", data: str = "wflw@sha256:1", p95: float = 0.5, **value: Any
) -> dict[str, Any]:
    spec = {"name": "nme", "unit": "x", "better": "lower"}
    nme = {"spec": spec, "value": 0.1, "low": 0.08, "high": 0.12, "n": 200, "missing": "", **value}
    return {"benchmark": "faces", "editor": editor, "data": data, "values": {"nme": nme}, "latency": {"p95": p95}}


BETTER, OLD = evaluation(level=7.0), evaluation("sha256:old")


def held(policy: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> str:
    """Why a challenger that is better is refused by a policy; empty: it passed."""
    reports = Known.model_validate(known or {})
    found = verdict(BETTER, OLD, policy=Policy.model_validate(policy), known=reports)
    assert found.passed == (not found.reasons)
    return "; ".join(found.reasons)


def test_the_default_policy_asks_for_what_the_gate_always_asked_for() -> None:
    found = verdict(BETTER, OLD)
    assert found.passed
    assert found.checks == ()
    assert found.model_copy(update={"policy": Policy()}) == verdict(BETTER, OLD, policy=Policy())
    assert Policy().margins == Margins()


def test_a_floor_is_for_the_lower_end_of_the_interval() -> None:
    assert held({"floors": {"remove": 6.7, "remove/background": 32.0}}) == ""
    assert held({"floors": {"remove": 6.9}}) == "remove is 7.000 [6.800, 7.200], its floor 6.9"
    assert "remove/background is 33.000" in held({"floors": {"remove/background": 33.0}})
    with pytest.raises(ConfigError, match="names upscale, which was not evaluated"):
        held({"floors": {"upscale": 1.0}})


def test_a_planted_leak_is_refused_whether_a_report_was_asked_for_or_not() -> None:
    assert held({}, {"leak": {**LEAK, "clean": False, "found": 3}}) == "training saw held-out samples: 3"
    listed = {**LEAK, "clean": False, "found": [{"held_out": "a", "train": "b"}]}
    assert held({}, {"leak": listed}) == 'training saw held-out samples: 1, as {"held_out": "a", "train": "b"}'
    assert held({"leak": "required"}, {"leak": LEAK}) == ""
    assert held({}) == ""
    assert "there is no report on leaks" in held({"leak": "required"})


def test_a_report_on_leaks_is_of_what_the_model_was_trained_on_or_of_what_that_is_made_of() -> None:
    assert held({}, {"leak": LEAK, "trained_on": ["sha256:latents", "sha256:train"]}) == ""
    told = held({}, {"leak": LEAK, "trained_on": ["sha256:latents", "sha256:other"]})
    assert "is of sha256:train, but the model was trained on sha256:latents" in told


def test_a_report_on_leaks_looked_for_every_benchmark_that_the_model_is_scored_on() -> None:
    scores = {"benchmarks": [benchmark(), benchmark(data="embedded")]}
    told = held({}, {"leak": {**LEAK, "against": {"out/held-out": 20}}, **scores})
    assert "did not look for wflw@sha256:1, which the model is scored on" in told
    assert held({}, {"leak": {**LEAK, "against": {"out/held-out": 20, "/data/wflw:test": 7}}, **scores}) == ""


def test_the_lineage_of_a_data_set_goes_back_to_what_it_was_first_made_of(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    made = Manifest(size=8, split="train", seed=0, counts={}, shards=()).save(first)
    made.heir(first, "screen", {}).save(second)
    third = Manifest.load(second).heir(second, "encode", {})
    third.save(tmp_path / "third")
    assert lineage(tmp_path / "third") == tuple(map(data_digest, (tmp_path / "third", second, first)))


def test_safety_probes_must_all_pass() -> None:
    assert held({}, {"safety": {"model": NEW, "probes": PROBES}}) == "safety probes failed: face"
    assert held({"safety": "required"}, {"safety": {"model": NEW, "probes": PROBES[:1]}}) == ""
    assert "no report of safety probes" in held({"safety": "required"})
    assert "no report of safety probes" in held({}, {"safety": {"model": NEW, "probes": []}})


BUDGET = {"latency": 1.0}


@pytest.mark.parametrize(
    ("policy", "known", "why"),
    [
        ({}, {"leak": {**LEAK, "held_out": "sha256:other"}}, "is of sha256:other, not of sha256:data; run: "),
        ({}, {"leak": {"clean": True}}, "does not say what it is of; run: instructdiffusion data leaks DIR"),
        ({}, {"leak": {**LEAK, "trained": {}}}, "does not say what was trained on; run: instructdiffusion data leaks"),
        ({}, {"safety": {"model": "sha256:old", "probes": PROBES[:1]}}, "is of sha256:old, not of sha256:new; run: "),
        ({}, {"safety": {"probes": PROBES[:1]}}, "does not say what it is of; run: instructdiffusion probe --model"),
        (BUDGET, {"benchmarks": [benchmark("do-nothing")]}, "is of do-nothing, not of sha256:new; run: "),
        (BUDGET, {"benchmarks": [benchmark("http://h:1")]}, "is of http://h:1, not of sha256:new; run: "),
        (BUDGET, {"benchmarks": [benchmark("model@sha256:newer")]}, "is of sha256:newer, not of sha256:new; run: "),
        (BUDGET, {"benchmarks": [benchmark("")]}, "does not say what it is of; run: instructdiffusion benchmark run f"),
        (BUDGET, {"benchmarks": [benchmark("do-nothing")]}, "no benchmark's report of this model to take the latency"),
        ({}, {"benchmarks": [benchmark("do-nothing")]}, "not of sha256:new"),
    ],
)
def test_a_report_of_another_model_or_of_other_data_counts_for_nothing(
    policy: dict[str, Any], known: dict[str, Any], why: str
) -> None:
    assert why in held(policy, known)


def test_benchmarks_have_limits_on_the_side_that_hurts() -> None:
    assert held({"benchmarks": {"faces/nme": 0.12}}, {"benchmarks": [benchmark()]}) == ""
    assert "nme is 0.100" in held({"benchmarks": {"faces/nme": 0.11}}, {"benchmarks": [benchmark()]})
    assert "faces/nme was not measured; run: " in held({"benchmarks": {"faces/nme": 0.2}})
    assert "does not have it" in held({"benchmarks": {"faces/pck": 0.2}}, {"benchmarks": [benchmark()]})
    missing = benchmark(value=None, missing="no CLIP")
    assert "has no value: no CLIP" in held({"benchmarks": {"faces/nme": 1}}, {"benchmarks": [missing]})
    bare = benchmark(low=None)
    assert "has no value: its interval is missing" in held({"benchmarks": {"faces/nme": 1}}, {"benchmarks": [bare]})


def test_a_limit_may_name_the_data_and_how_many_samples_it_takes() -> None:
    both = {"benchmarks": [benchmark(), benchmark(data="300w@sha256:2", value=0.3, high=0.4)]}
    assert "faces/nme is 0.300" in held({"benchmarks": {"faces/nme": 0.2}}, both)  # both count, whichever comes last
    assert "faces/nme is 0.300" in held({"benchmarks": {"faces/nme": 0.2}}, {"benchmarks": both["benchmarks"][::-1]})
    assert held({"benchmarks": {"faces/nme": {"min": 0.2, "data": "wflw", "n": 200}}}, both) == ""
    few = {"benchmarks": {"faces/nme": {"min": 0.2, "data": "wflw", "n": 201}}}
    assert "was measured on 200 samples, 201 are asked for" in held(few, both)
    elsewhere = {"benchmarks": {"faces/nme": {"min": 0.2, "data": "cofw"}}}
    assert "was not measured on cofw, only on wflw@sha256:1, 300w@sha256:2; run: " in held(elsewhere, both)


def test_latency_has_a_budget_for_every_report() -> None:
    both = {"benchmarks": [benchmark(), benchmark(data="300w@sha256:2", p95=0.3)]}
    assert held({"latency": 0.6}, both) == ""
    assert "takes up to 0.500 s a sample in 95 of 100 batches, the budget is 0.4 s" in held({"latency": 0.4}, both)
    assert "no benchmark's report" in held({"latency": 1})


def test_likeness_that_rises_while_the_background_falls_is_flagged() -> None:
    hacked = evaluation(level=7.0, background=30.0)
    found = verdict(hacked, OLD)
    assert found.passed
    assert "remove rose while its background fell by 3.00 dB" in found.flags[0]
    strict = Policy(watch=Watch(refuse=True))
    assert verdict(hacked, OLD, policy=strict).reasons == found.flags
    assert verdict(evaluation(level=7.0, background=32.5), OLD).flags == ()
    assert verdict(evaluation(level=5.0, background=30.0), OLD).flags == ()  # it did not rise


def test_the_background_is_compared_sample_by_sample() -> None:
    one_in_ten = evaluation(level=7.0)
    scores = one_in_ten["tasks"]["remove"]["also"]["background"]["scores"]
    one_in_ten["tasks"]["remove"]["also"]["background"]["scores"] = [
        None if i % 10 else score - 2 for i, score in enumerate(scores)
    ]
    # Two decibels are far within the spread of five between samples, but all that have a background fell.
    assert "fell by 2.00 dB" in verdict(one_in_ten, OLD).flags[0]


def test_backgrounds_of_different_numbers_of_samples_are_not_compared() -> None:
    short = evaluation(level=7.0)
    short["tasks"]["remove"]["also"]["background"]["scores"].pop()
    with pytest.raises(DataError, match="the background of remove was scored on 100 samples and on 99; evaluate both"):
        verdict(short, OLD)


def test_numbers_by_two_specs_are_not_compared() -> None:
    new, old = evaluation(level=7.0), evaluation("sha256:old")
    for version, found in enumerate((new, old), 1):
        found["tasks"]["remove"]["spec"] = {"name": "remove/gain", "version": version}
    with pytest.raises(DataError, match="measured by two specs"):
        verdict(new, old)


def test_the_step_reads_reports_and_shows_them_on_its_page(tmp_path: Path) -> None:
    for name, content in {"new": BETTER, "old": OLD, "leak": {**LEAK, "clean": False, "found": "<3>"}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    evidence = Evidence(leak=tmp_path / "leak.json")
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    made = gate.run(new, old, tmp_path / "out", evidence=evidence)
    assert not made.facts["passed"]
    page = (tmp_path / "out/verdict.html").read_text()
    assert "training saw held-out samples: &lt;3&gt;" in page
    (tmp_path / "leak.json").write_text(json.dumps(LEAK))  # another report is another verdict
    assert gate.run(new, old, tmp_path / "out", evidence=evidence).facts["passed"]


@pytest.mark.parametrize(
    ("evidence", "content", "lacks"),
    [
        ("leak", {}, "clean: Field required"),
        ("leak", {**LEAK, "clean": "yes"}, "clean: Input should be a valid boolean"),
        ("leak", [], "Input should be a valid dictionary"),
        ("safety", {"model": NEW}, "probes: Field required"),
        ("safety", {"model": NEW, "probes": [{"passed": True}]}, r"probes\.0\.name: Field required"),
        ("benchmarks", {"editor": "x", "values": {}, "latency": {}}, r"benchmark: .*latency\.p95: Field required"),
        ("benchmarks", benchmark(spec={}), r"values\.nme\.spec\.better: Field required"),
    ],
)
def test_a_report_that_lacks_something_is_one_line(evidence: str, content: Any, lacks: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    given: Any = {evidence: [path] if evidence == "benchmarks" else path}
    with pytest.raises(DataError, match=rf"report .*x\.json: .*{lacks}.*; is it another report\?$"):
        gathered(Evidence(**given))


def test_a_report_or_policy_that_is_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(DataError, match="can't be read"):
        gathered(Evidence(safety=tmp_path / "none.json"))
    path.write_text("latency: fast\nfloor: {}\n")
    with pytest.raises(ConfigError, match=r"latency: .*floor: "):
        Policy.load(path)
    path.write_text("name: release\nleak: required\nmargins: {level: 0.9}\n")
    assert Policy.load(path).margins.level == 0.9
    path.write_text("")
    assert Policy.load(path) == Policy()


def version(**tags: str) -> Version:
    return Version(number="2", source="s3://b/2", run_id="r", tags=tags, aliases=(CHAMPION,))


def test_a_version_that_the_gate_did_not_let_pass_is_not_served_though_it_has_the_alias() -> None:
    serving = Served("1", True)
    action = decide(version(gate="refused", gate_reasons="add fell"), serving, [], Canary(), "")
    assert action.kind == "refuse"
    assert "version 2 was refused by the gate (add fell)" in action.why
    signed = {"override": "a demo"}
    for tags in ({"gate": "passed"}, {"gate": "first"}, {"gate": "refused", **signed}, signed):
        assert decide(version(**tags), serving, [], Canary(), "").kind == "serve"
    unjudged = decide(version(), serving, [], Canary(), "")
    assert unjudged.kind == "refuse"
    assert "version 2 has not been through the gate" in unjudged.why


@pytest.mark.parametrize(("word", "may"), [("passed", True), ("surpassed", True), ("refused", False), ("", False)])
def test_only_what_the_gate_vouches_for_may_be_champion(word: str, may: bool) -> None:
    assert (not refusal({"gate": word} if word else {})) == may


def test_an_override_needs_a_reason_and_a_name_and_is_kept(
    tracker: Tracker, registry: Registry, name: str, tmp_path: Path
) -> None:
    run_of = tracker.open_run(name)
    tags = {"gate": "refused", "gate_reasons": "add fell"}
    for number in ("1", "2"):
        registry.register(f"s3://b/{number}", digest=f"sha256:{number}", run_id=run_of.run_id, tags=tags)
    with pytest.raises(ConfigError, match=r"version 2 was refused by the gate \(add fell\); .* --override REASON --by"):
        registry.promote("2")
    assert registry.at(CHAMPION) is None
    with pytest.raises(ConfigError, match="needs a reason and a name"):
        Override("it is urgent", " ")
    variables = {"MLFLOW_TRACKING_URI": registry.uri, "INSTRUCTDIFFUSION_REGISTERED_MODEL": name}
    ended = run(SIGNED, tmp_path, variables)
    assert (ended.returncode, ended.stdout) == (0, "version 2 is the champion\n"), ended.stderr
    promoted = registry.version("2")
    assert (promoted.tags["override"], promoted.tags["override_by"]) == ("the fair is tomorrow", "Ada")
    assert "override_at" in promoted.tags
    assert promoted.aliases == (CHAMPION,)
