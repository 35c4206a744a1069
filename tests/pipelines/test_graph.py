"""The pipeline as a graph: it compiles, comes back from its file, and documents itself."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, components

from instructdiffusion.pipelines import data_steps, evidence_steps, graph, model_steps, release_steps
from instructdiffusion.pipelines.parameters import FULL, QUICK

FLOW = (
    *("fetch", "synthesize", "filter", "encode", "train", "evaluate", "propose", "rank", "collect"),
    *("compare", "seat", "assign", "probe", "measure", "merge", "gate", "promote", "package", "deploy"),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "pipeline.yaml"
    compiler.Compiler().compile(graph.end_to_end, str(path))
    return path


@pytest.fixture(scope="module")
def compiled(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(file.read_text())
    return document


def tasks(compiled: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task of the graph and of the graphs in it, by its name and where it stands."""
    graphs = {"root": compiled["root"], **compiled["components"]}
    return {
        f"{place}/{name}": task
        for place, body in graphs.items()
        if "dag" in body
        for name, task in body["dag"]["tasks"].items()
    }


def step(compiled: dict[str, Any], task: dict[str, Any]) -> str:
    """The step that a task runs; empty where it runs a graph."""
    label = compiled["components"][task["componentRef"]["name"]].get("executorLabel", "")
    return str(label).removeprefix("exec-").rstrip("-0123456789")


def test_every_step_of_the_flow_is_in_the_graph(compiled: dict[str, Any]) -> None:
    names = {step(compiled, task) for task in tasks(compiled).values()}
    assert [name for name in FLOW if name not in names] == []


def test_the_whole_is_made_of_the_stages(compiled: dict[str, Any]) -> None:
    inside = compiled["root"]["dag"]["tasks"]
    assert {"data", "train", "align", "release"} <= inside.keys()
    assert {step(compiled, task) for task in inside.values()} == {"", "evaluate", "seat", "assign"}


def test_what_was_compiled_loads_back(file: Path) -> None:
    loaded = components.load_component_from_file(str(file))
    assert set(loaded.component_spec.inputs) == set(graph.end_to_end.component_spec.inputs)


def test_every_parameter_is_documented_and_has_a_default(compiled: dict[str, Any]) -> None:
    for name, parameter in compiled["root"]["inputDefinitions"]["parameters"].items():
        assert parameter.get("description"), name
        assert "defaultValue" in parameter, name


@pytest.mark.parametrize("name", [*FLOW, "load", "summarize"])
def test_every_parameter_of_every_step_is_documented(name: str) -> None:
    homes = (data_steps, model_steps, evidence_steps, release_steps)
    component = next(getattr(home, name) for home in homes if hasattr(home, name))
    text = inspect.getdoc(component.python_func) or ""
    for parameter in inspect.signature(component.python_func).parameters:
        assert re.search(rf"^ +([\w, ]+, )?{parameter}(, [\w, ]+)?: ", text, re.MULTILINE), parameter


def test_every_step_leaves_a_page_to_look_at(compiled: dict[str, Any]) -> None:
    for name, component in compiled["components"].items():
        if "executorLabel" in component:
            made = component["outputDefinitions"]["artifacts"].values()
            assert "system.HTML" in {artifact["artifactType"]["schemaTitle"] for artifact in made}, name


def test_the_demo_asks_for_parameters_that_there_are(compiled: dict[str, Any]) -> None:
    assert {*FULL, *QUICK} <= compiled["root"]["inputDefinitions"]["parameters"].keys()


def test_no_step_installs_anything_when_it_starts(compiled: dict[str, Any]) -> None:
    assert "pip install" not in json.dumps(compiled["deploymentSpec"])


def test_steps_that_touch_a_service_or_read_what_may_change_are_never_taken_from_a_cache(
    compiled: dict[str, Any],
) -> None:
    acting = ("plan", "seat", "assign", "gate", "promote", "package", "deploy")
    for place, task in tasks(compiled).items():
        cached = task.get("cachingOptions", {}).get("enableCache", False)
        if name := step(compiled, task):
            assert cached == (name not in acting), place


def test_package_and_deploy_run_only_where_there_is_a_champion(compiled: dict[str, Any]) -> None:
    acting = [place for place in tasks(compiled) if place.endswith(("/package", "/deploy"))]
    assert len(acting) == 2
    assert all("condition" in place for place in acting)


def test_a_condition_asks_for_what_the_local_runner_can_find(compiled: dict[str, Any]) -> None:
    # Of any other name it finds nothing, warns, and leaves the branch out.
    conditions = [task["triggerPolicy"]["condition"] for task in tasks(compiled).values() if "triggerPolicy" in task]
    assert len(conditions) == 1
    assert re.fullmatch(r"inputs\.parameter_values\['pipelinechannel--enter-Output'\] != ''", conditions[0])


def test_the_control_takes_the_same_steps_as_the_alignment(compiled: dict[str, Any]) -> None:
    arms = [body["dag"]["tasks"] for name, body in compiled["components"].items() if name.startswith("comp-tune")]
    assert len(arms) == 2
    assert arms[0].keys() == arms[1].keys() == {"rank", "collect", "train", "propose"}
    calls = [t for t in tasks(compiled).values() if t["componentRef"]["name"].startswith("comp-tune")]
    differ = {
        name
        for name, given in calls[0]["inputs"]["parameters"].items()
        if given != calls[1]["inputs"]["parameters"][name]
    }
    assert differ == {"annotator", "name"}


def test_every_pipeline_in_a_pipeline_takes_a_parameter() -> None:
    """kfp's local runner hands artifacts to those alone that do."""
    spec = json_format.MessageToDict(graph.end_to_end.pipeline_spec)
    inner = [
        task
        for body in (spec["root"], *spec["components"].values())
        for task in body.get("dag", {}).get("tasks", {}).values()
        if "dag" in spec["components"][task["componentRef"]["name"]]
    ]
    assert len(inner) > 5
    assert all(task["inputs"]["parameters"] for task in inner)


def test_a_training_runs_the_recipe_that_was_asked_for(compiled: dict[str, Any]) -> None:
    for stage in ("train", "align"):
        call = compiled["root"]["dag"]["tasks"][stage]
        assert call["inputs"]["parameters"]["recipe"] == {"componentInputParameter": "recipe"}
    trainings = [task for task in tasks(compiled).values() if step(compiled, task) == "train"]
    assert len(trainings) == 3
    assert all(task["inputs"]["parameters"]["recipe"] == {"componentInputParameter": "recipe"} for task in trainings)
