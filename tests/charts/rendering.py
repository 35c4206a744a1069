"""The chart, rendered by Helm's own library in this process, and questions about what it made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parents[2] / "charts" / "instructdiffusion"
PROFILES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "profiles").glob("*.yaml"))}
SCENARIOS = {path.stem: path for path in sorted((CHART / "ci").glob("*.yaml"))}  # PROFILE-WHAT.yaml, on its profile
RELEASE, NAMESPACE = "idf", "ml"
Object = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """A pod that an object makes: its labels and its specification."""

    name: str  # Kind/name
    component: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def containers(self) -> list[Object]:
        """All of them, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm merges two files: maps by key, all else replaced."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def values_of(scenario: str) -> dict[str, Any]:
    """The values of a scenario, on top of its profile's."""
    return merged(PROFILES[scenario.partition("-")[0]], yaml.safe_load(SCENARIOS[scenario].read_text()))


def rendered(values: Mapping[str, Any]) -> dict[str, str]:
    """Text by template."""
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(dict(values), name=RELEASE, namespace=NAMESPACE)


def objects_of(values: Mapping[str, Any]) -> list[Object]:
    """Every object that is installed, the pods of `helm test` included."""
    texts = [text for path, text in sorted(rendered(values).items()) if path.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def kind(objects: list[Object], name: str) -> list[Object]:
    """The objects of a kind."""
    return [o for o in objects if o["kind"] == name]


def named(objects: list[Object], kind_name: str, name: str) -> Object:
    """The one object of a kind and name."""
    (found,) = [o for o in kind(objects, kind_name) if o["metadata"]["name"] == name]
    return found


def workloads(objects: list[Object]) -> Iterator[Workload]:
    """Every pod that the objects make, those of a training and of the service included."""
    for o in objects:
        spec, labels = o.get("spec", {}), {}
        if o["kind"] in {"Deployment", "StatefulSet"}:
            labels, spec = spec["template"]["metadata"]["labels"], spec["template"]["spec"]
        elif o["kind"] == "TrainingRuntime":
            template = spec["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
            labels, spec = template["metadata"]["labels"], template["spec"]
        elif o["kind"] == "ServingRuntime":
            labels = spec["labels"]
        elif o["kind"] == "Pod":
            labels = o["metadata"]["labels"]
        else:
            continue
        name = f"{o['kind']}/{o['metadata']['name']}"
        yield Workload(name, labels["app.kubernetes.io/component"], labels, spec)


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels have all that a selector asks for."""
    return selector.items() <= labels.items()
