"""Bodies of steps, called as the executor calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from instructdiffusion.model.config import Run
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.recipes import paper, paper_align
from instructdiffusion.model.synthesis.write import synthesize
from instructdiffusion.model.weights import BASE
from instructdiffusion.pipelines import data_steps, model_steps


@pytest.mark.parametrize(
    ("name", "steps", "due", "batch"),
    [
        ("train", 0, paper().optim.steps, 3072),
        ("train", 7, 7, 3072),
        ("align", 0, paper_align().optim.steps, 64),  # of the same size
        ("control", 7, 7, 64),
    ],
)
def test_a_train_step_takes_its_stage_s_recipe_and_as_many_steps_as_it_is_told_or_as_that_says(
    name: str, steps: int, due: int, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster that is not there, so that it ends when all is ready."""
    monkeypatch.setenv("INSTRUCTDIFFUSION_BACKEND", "cluster")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("INSTRUCTDIFFUSION_TRAINING", json.dumps({"settings": ["optim.micro_batch=8", "seed=9"]}))
    given = {}
    for what, kind, file in (("latents", dsl.Dataset, "manifest.json"), ("model", dsl.Model, "editor.json")):
        (tmp_path / what).mkdir()
        (tmp_path / what / file).write_text("{}")
        given[what] = kind(uri=str(tmp_path / what), metadata={"digest": what})
    made = {what: dsl.Artifact(uri=str(tmp_path / what)) for what in ("trained", "training", "page", "metrics")}
    told = {"recipe": "paper", "name": name, "steps": steps, "seed": 3, "work": str(tmp_path / "work")}
    with pytest.raises(SystemExit):
        model_steps.train.python_func(**given, **made, **told)
    (kept,) = (tmp_path / "work").glob("jobs/*/run.json")
    run = Run.model_validate_json(kept.read_text())
    assert (run.optim.steps, run.optim.batch_size, run.seed) == (due, batch, 3)
    assert run.optim.micro_batch == 8  # what suits the cluster's nodes; what the run is told goes before


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("step", "given", "told"),
    [
        ("synthesize", {"name": "held-out", "triplets": 20_000}, "held_out=20000: input should be less than or equal"),
        ("synthesize", {"name": "prompts", "triplets": 20_000}, "prompts=20000: input should be less than or equal"),
        ("synthesize", {"name": "prompts", "triplets": 1, "seed": -1}, "seed=-1: input should be greater"),
        ("propose", {"shards": "prompts", "edits": 17}, "edits=17: input should be less than or equal to 16"),
        ("train", {"name": "align", "recipe": "base", "steps": 1}, "recipe=base: input should be 'adapt'"),
        ("train", {"name": "control", "recipe": "align", "steps": -1}, "align_steps=-1: input should be greater"),
        ("train", {"name": "train", "recipe": "papre", "steps": -1}, "recipe=papre: input should be 'adapt'"),
    ],
)
def test_a_step_refuses_what_is_out_of_range_by_the_name_that_the_pipeline_has_for_it(
    step: str, given: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called = {"synthesize": data_steps.synthesize, "propose": data_steps.propose, "train": model_steps.train}[step]
    whole = {"seed": 0, "size": 64, "even": True, "split": "test", "work": str(tmp_path), **given}
    for name in called.component_spec.inputs:
        if name in ("latents", "model", "shards"):
            whole[name] = dsl.Artifact(uri=str(tmp_path), metadata={"name": given.get(name, name), "digest": "x"})
    for name in called.component_spec.outputs:
        whole[name] = dsl.Artifact(uri=str(tmp_path / name))
    wanted = {*called.component_spec.inputs, *called.component_spec.outputs}
    with pytest.raises(SystemExit) as ended:
        called.python_func(**{name: value for name, value in whole.items() if name in wanted})
    assert ended.value.code == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"].startswith(told)


def test_an_encode_step_that_is_tried_again_finds_what_the_first_try_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INSTRUCTDIFFUSION_STORE_ENDPOINT", raising=False)
    synthesize(tmp_path / "shards", split="train", counts={"remove": 2}, size=64, seed=0, workers=1)
    about: Any = {"name": "train", "digest": "sha256:1"}
    given = {
        "shards": dsl.Dataset(uri=str(tmp_path / "shards"), metadata=about),
        "model": dsl.Model(uri=str(BASE), metadata=about),
    }
    for name in ("first", "second"):
        made = {kind: dsl.Artifact(uri=str(tmp_path / name / kind)) for kind in ("latents", "page")}
        data_steps.encode.python_func(**given, work=str(tmp_path / "work"), **made)
        assert len(Latents.open(tmp_path / name / "latents")) == 2
    first, second = (tmp_path / name / "latents" / "latents-00000.safetensors" for name in ("first", "second"))
    assert first.samefile(second)


def test_a_train_step_tells_the_last_loss_there_is_though_the_last_steps_were_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a training that was done before: the first call ends when all is ready, on a cluster that is not there."""
    for name in ("INSTRUCTDIFFUSION_STORE_ENDPOINT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INSTRUCTDIFFUSION_BACKEND", "cluster")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    (tmp_path / "latents").mkdir()
    (tmp_path / "latents/manifest.json").write_text(
        Manifest(size=64, split="train", seed=0, counts={}, shards=()).model_dump_json()
    )
    given: dict[str, Any] = {
        "latents": dsl.Dataset(uri=str(tmp_path / "latents"), metadata={"digest": "a"}),
        "model": dsl.Model(uri=str(BASE), metadata={"digest": "b"}),
        **{name: dsl.Artifact(uri=str(tmp_path / name)) for name in ("trained", "training", "page")},
        "metrics": dsl.Metrics(uri=str(tmp_path / "metrics")),
    }
    given |= {"recipe": "train", "name": "train", "steps": 2, "seed": 3, "work": str(tmp_path / "work")}
    with pytest.raises(SystemExit):
        model_steps.train.python_func(**given)
    (out,) = (tmp_path / "work").glob("jobs/*")
    (out / "model").mkdir()
    inputs = json.loads((out / "inputs.json").read_text())
    (out / "DONE").write_text(json.dumps({"inputs": inputs, "digest": digest_of(out / "model")}))
    told = {"steps": 2, "triplets": 8, "triplets_per_second": 4.0, "processes": 1, "seconds": 2.0}
    curve = [{"step": 1, "loss": 0.5, "waiting": 0.0}, {"step": 2, "waiting": 0.0}]
    (out / "training.json").write_text(json.dumps({**told, "curve": curve}))
    model_steps.train.python_func(**given)
    assert json.loads((tmp_path / "metrics").read_text())["loss"] == 0.5
    assert (tmp_path / "page").read_text().count("<figure") == 1  # the curve of what there is
