"""The Roles allow what the code calls, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from charts.rendering import CHART, Object, kind, named

COMPONENTS = CHART.parents[1] / "components" / "instructdiffusion" / "components"
CALL = re.compile(r"\.((?:create|get|delete|list|read|patch|replace|watch)_namespaced_\w+)\b")
VERBS = {"read": "get", "replace": "update"}  # the client's words for the API's
RESOURCES = {"pod": "pods", "pod_log": "pods/log", "event": "events", "deployment": "deployments"}


def called(custom: str) -> set[tuple[str, str]]:
    """(resource, verb) of every call in the modules that name a custom resource."""
    modules = [path for path in COMPONENTS.glob("*.py") if f'"{custom}"' in path.read_text()]
    if not modules:
        pytest.skip(f"no module speaks of {custom}")
    return {right for path in modules for right in rights(path, custom)}


def rights(path: Path, custom: str) -> set[tuple[str, str]]:
    """What a module's calls need."""
    found = set()
    for call in CALL.findall(path.read_text()):
        verb, _, what = call.partition("_namespaced_")
        found.add((custom if what == "custom_object" else RESOURCES[what], VERBS.get(verb, verb)))
    return found


def allowed(objects: list[Object], name: str) -> set[tuple[str, str]]:
    """(resource, verb) of a Role; a rule for named objects or with a wildcard would be another matter."""
    rules = named(objects, "Role", name)["rules"]
    assert all("resourceNames" not in rule for rule in rules)
    return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def test_a_step_may_do_what_following_a_training_calls(evaluation: list[Object]) -> None:
    assert allowed(evaluation, "idf-step") == called("trainjobs")


def test_the_reconciler_may_do_what_it_calls(evaluation: list[Object]) -> None:
    assert allowed(evaluation, "idf-reconciler") == called("inferenceservices")


def test_no_right_reaches_beyond_the_namespace(objects: list[Object]) -> None:
    assert [o["kind"] for o in objects if o["kind"].startswith("Cluster")] == []
    assert "*" not in str([o["rules"] for o in kind(objects, "Role")])


def test_an_account_of_kubeflow_pipelines_in_the_releases_namespace_gets_the_same_rights(
    production: list[Object],
) -> None:
    subjects = named(production, "RoleBinding", "idf-step")["subjects"]
    assert [(s["name"], s["namespace"]) for s in subjects] == [("idf-step", "ml"), ("pipeline-runner", "ml")]
