"""A model's card says everything, or there is none and the gaps are listed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from instructdiffusion.model.card import About, Facts, card, gaps
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.evaluate import Evaluation
from instructdiffusion.model.metrics import Spec, measured, missing
from instructdiffusion.model.metrics.value import NO_SAMPLES, mean
from instructdiffusion.model.scoring import Report
from instructdiffusion.model.weights import BASE, model_digest

ABOUT = About(
    name="Nano", licence="Apache-2.0", intended_use="Trying things.", limits="64 pixels.", contact="ml@example.org"
)


def report(editor: str) -> Report:
    values = {
        "psnr": measured(
            Spec(name="psnr", unit="dB"), [20.0, 22.0], mean, floor=[15.0, 15.0], bound=[30.0], resamples=20
        ),
        "clip_sim": missing(Spec(name="clip_sim", unit="x"), "no CLIP was named"),
    }
    return Report(
        benchmark="editing", editor=editor, data="embedded", split="", n=2, values=values, slices={}, latency={}
    )


@pytest.fixture
def facts() -> Facts:
    """The embedded base's own facts."""
    evaluation = Evaluation.model_validate_json((BASE / "evaluation.json").read_text())
    manifest = Manifest.model_validate({**json.loads((BASE / "manifest.json").read_text()), "seed": 1})
    found = report(f"base@{evaluation.model}")
    return Facts(evaluation.model, ABOUT, {"sha256:train": manifest}, evaluation, [found])


def test_a_card_names_use_limits_data_and_every_score_with_its_measure(facts: Facts) -> None:
    assert gaps(facts) == []
    text = card(facts)
    for told in ("# Nano", "Trying things.", "64 pixels.", "Apache-2.0", "scikit-image data: CC0", "| remove | gain |"):
        assert told in text
    assert "missing: no CLIP was named" in text
    psnr = facts.benchmarks[0].values["psnr"].spec
    assert f"`{psnr.digest[7:19]}`: `{psnr.model_dump_json(exclude_defaults=True)}`" in text
    assert "21.000" in text
    assert "| 30.000 (of 1) | 2 |" in text


def test_there_is_no_card_with_a_gap_and_every_gap_is_listed(facts: Facts) -> None:
    with pytest.raises(DataError) as refused:
        card(Facts(facts.model, About(name="Nano"), {}))
    told = str(refused.value)
    for gap in ("about.limits is empty", "about.intended_use is empty", "no manifest", "no evaluation was given"):
        assert gap in told
    assert "\n" not in told


def test_numbers_of_another_model_or_of_the_training_data_are_no_facts(facts: Facts) -> None:
    assert facts.evaluation is not None
    assert "the evaluation is of" in gaps(replace(facts, model="sha256:" + "0" * 64))[0]
    assert "another model" in gaps(replace(facts, benchmarks=[report("base@sha256:other")]))[0]
    seen = {facts.evaluation.data: facts.data["sha256:train"]}
    assert "which the model was trained on" in gaps(replace(facts, data=seen))[0]
    unlicensed = facts.data["sha256:train"].model_copy(update={"licences": ()})
    assert gaps(replace(facts, data={"sha256:t": unlicensed})) == ["data sha256:t has no licences"]
    fewer = {name: score for name, score in facts.evaluation.tasks.items() if name != "add"}
    partly = facts.evaluation.model_copy(update={"tasks": fewer})
    assert gaps(replace(facts, evaluation=partly)) == ["add was not evaluated"]
    told = partly.model_copy(update={"missing": {"add": NO_SAMPLES}})
    assert gaps(replace(facts, evaluation=told)) == ["add was not evaluated (there are no samples)"]


def test_the_embedded_base_is_the_model_that_its_own_scores_are_of(facts: Facts) -> None:
    assert model_digest(None) == facts.evaluation.model  # type: ignore[union-attr]


def test_a_models_digest_is_that_of_its_networks_and_settings(tiny_folder: Path) -> None:
    before = model_digest(tiny_folder)
    (tiny_folder / "README.md").write_text("A card.")
    assert model_digest(tiny_folder) == before
    settings = tiny_folder / "editor.json"
    settings.write_text(settings.read_text() + "\n")
    assert model_digest(tiny_folder) != before


def test_what_people_tell_of_a_model_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "about.yaml"
    path.write_text("name: Nano\nlimits: |\n  64 pixels.\n")
    assert About.load(path).limits == "64 pixels.\n"
    path.write_text("purpose: fun\n")
    with pytest.raises(ConfigError, match=r"purpose: .*; known are name, licence, intended_use, limits, contact"):
        About.load(path)
