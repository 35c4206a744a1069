"""The pipeline as a graph: it compiles, comes back from its file, and documents itself."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, components

from instructdiffusion.pipelines import graph
from instructdiffusion.pipelines.demo import FULL, QUICK

FLOW = (
    *("fetch", "synthesize", "filter", "encode", "train", "evaluate", "propose", "rank", "collect"),
    *("compare", "seat", "gate", "promote", "package", "deploy"),
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


def test_every_step_of_the_flow_is_in_the_graph(compiled: dict[str, Any]) -> None:
    names = {task["componentRef"]["name"].removeprefix("comp-") for task in tasks(compiled).values()}
    assert [step for step in FLOW if step not in names] == []


def test_what_was_compiled_loads_back(file: Path) -> None:
    loaded = components.load_component_from_file(str(file))
    assert set(loaded.component_spec.inputs) == set(graph.end_to_end.component_spec.inputs)


def test_every_parameter_is_documented_and_has_a_default(compiled: dict[str, Any]) -> None:
    for name, parameter in compiled["root"]["inputDefinitions"]["parameters"].items():
        assert parameter.get("description"), name
        assert "defaultValue" in parameter, name


def test_every_parameter_of_every_step_is_documented() -> None:
    for step in FLOW:
        component = getattr(graph, step)
        text = inspect.getdoc(component.python_func) or ""
        for name in inspect.signature(component.python_func).parameters:
            assert f"{name}:" in text, f"{step}: {name}"


def test_the_demo_asks_for_parameters_that_there_are(compiled: dict[str, Any]) -> None:
    assert {*FULL, *QUICK} <= compiled["root"]["inputDefinitions"]["parameters"].keys()


def test_no_step_installs_anything_when_it_starts(compiled: dict[str, Any]) -> None:
    assert "pip install" not in json.dumps(compiled["deploymentSpec"])


def test_steps_that_touch_a_service_are_never_taken_from_a_cache(compiled: dict[str, Any]) -> None:
    acting = ("seat", "gate", "promote", "package", "deploy")
    for place, task in tasks(compiled).items():
        name = task["componentRef"]["name"].removeprefix("comp-").rstrip("-0123456789")
        cached = task.get("cachingOptions", {}).get("enableCache", False)
        if not name.startswith(("align", "condition")):
            assert cached == (name not in acting), place


def test_package_and_deploy_run_only_where_there_is_a_champion(compiled: dict[str, Any]) -> None:
    acting = [place for place in tasks(compiled) if place.endswith(("/package", "/deploy"))]
    assert len(acting) == 2
    assert all("condition" in place for place in acting)


def test_the_control_takes_the_same_steps_as_the_alignment(compiled: dict[str, Any]) -> None:
    arms = [body["dag"]["tasks"] for name, body in compiled["components"].items() if name.startswith("comp-align")]
    assert len(arms) == 2
    assert arms[0].keys() == arms[1].keys() == {"rank", "collect", "encode", "train", "propose"}
    calls = [t for t in tasks(compiled).values() if t["componentRef"]["name"].startswith("comp-align")]
    differ = {
        name
        for name, given in calls[0]["inputs"]["parameters"].items()
        if given != calls[1]["inputs"]["parameters"][name]
    }
    assert differ == {"annotator", "name"}
