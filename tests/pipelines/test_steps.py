"""Bodies of steps, called as the executor calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from instructdiffusion.model.config import Run
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.recipes import paper
from instructdiffusion.model.synthesis.write import synthesize
from instructdiffusion.model.weights import BASE
from instructdiffusion.pipelines import data_steps, model_steps


@pytest.mark.parametrize(("steps", "due"), [(0, paper().optim.steps), (7, 7)])
def test_a_train_step_takes_as_many_steps_as_it_is_told_or_as_its_recipe_says(
    steps: int, due: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster that is not there, so that it ends when all is ready."""
    monkeypatch.setenv("INSTRUCTDIFFUSION_BACKEND", "cluster")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    given = {}
    for name, kind, file in (("latents", dsl.Dataset, "manifest.json"), ("model", dsl.Model, "editor.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
        given[name] = kind(uri=str(tmp_path / name), metadata={"digest": name})
    made = {name: dsl.Artifact(uri=str(tmp_path / name)) for name in ("trained", "training", "page", "metrics")}
    told = {"recipe": "paper", "name": "train", "steps": steps, "seed": 3, "work": str(tmp_path / "work")}
    with pytest.raises(SystemExit):
        model_steps.train.python_func(**given, **made, **told)
    (kept,) = (tmp_path / "work").glob("jobs/*/run.json")
    run = Run.model_validate_json(kept.read_text())
    assert (run.optim.steps, run.optim.batch_size, run.seed) == (due, 3072, 3)


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
