"""The commands of docs/installing.md do what they say, as far as that shows without a cluster."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from charts.rendering import CHART, merged

ROOT = CHART.parents[1]
PAGE = (ROOT / "docs" / "installing.md").read_text()
COMMANDS = [
    *re.findall(r"^    ((?:helm|kubectl|docker|bentoml|python|BENTOML_HOME=\S+) .+)$", PAGE, re.MULTILINE),
    *re.findall(r"`((?:helm|kubectl) [^`]+ [^`]+)`", PAGE),
]
NAME, PLACE = "instructdiffusion", "kubeflow"  # the release and the namespace that the page uses


def options(words: list[str], name: str) -> list[str]:
    """What is given for an option, in order."""
    return [words[i + 1] for i, word in enumerate(words) if word == name]


def objects(values: dict[str, Any]) -> dict[str, set[str]]:
    """Names by kind, in lower case, of what the page's release is made of."""
    found: dict[str, set[str]] = {}
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name=NAME, namespace=PLACE)
    for path, text in texts.items():
        for o in yaml.safe_load_all(text) if path.endswith(".yaml") else ():
            if o:
                found.setdefault(o["kind"].lower(), set()).add(o["metadata"]["name"])
    return found


@pytest.fixture(scope="module")
def installed() -> dict[str, set[str]]:
    """What the evaluation profile makes, and what a cluster makes of that."""
    made = objects(yaml.safe_load((CHART / "profiles/evaluation.yaml").read_text()))
    made["pvc"] = made["persistentvolumeclaim"] | {f"data-{name}-0" for name in made["statefulset"]}
    made["inferenceservice"] = {"instructdiffusion"}  # the reconciler's
    return made


def test_the_page_has_commands_of_every_kind() -> None:
    programs = {command.split()[0].partition("=")[0] for command in COMMANDS}
    assert programs == {"helm", "kubectl", "docker", "python", "BENTOML_HOME"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("helm ")])
def test_what_helm_is_told_renders(command: str) -> None:
    words = shlex.split(command)
    assert NAME in words
    if "--namespace" in words:
        assert options(words, "--namespace") == [PLACE]
    if "charts/instructdiffusion" not in words:
        assert words[1] in {"test", "get", "history", "rollback", "uninstall", "template"}
        return
    files = options(words, "--values")
    if "--reuse-values" in words:
        files = ["charts/instructdiffusion/profiles/evaluation.yaml"]
    values: dict[str, Any] = {}
    for file in files:
        values = merged(values, yaml.safe_load((ROOT / file).read_text()))
    for expression in options(words, "--set"):
        values = merged(values, helm_python.parse_set_string(expression))
    assert objects(values)["configmap"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("kubectl ")])
def test_what_kubectl_is_asked_for_exists(command: str, installed: dict[str, set[str]]) -> None:
    words = shlex.split(command)
    assert options(words, "--namespace") == [PLACE]
    verb, *rest = words[3:]
    assert verb in {"create", "get", "delete", "logs", "exec", "port-forward", "patch", "annotate"}
    if verb in {"create", "annotate"} or rest[0] == "pods":  # of Secrets that a team brings along
        return
    slashed = [tuple(word.split("/", 1)) for word in rest if "/" in word and not word.startswith("-")]
    plain = [word for word in rest if not word.startswith("-")]
    for kind, name in slashed or [(plain[0], name) for name in plain[1:] if name.startswith(("instruct", "data-"))]:
        assert name in installed[kind], command


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("docker build")])
def test_what_is_built_is_a_target_that_the_chart_names(command: str) -> None:
    words = shlex.split(command)
    (file,), (target,), (tag,) = (options(words, f"--{name}") for name in ("file", "target", "tag"))
    assert re.search(rf"^FROM .+ AS {target}$", (ROOT / file).read_text(), re.MULTILINE)
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert tag.endswith(f"/instructdiffusion-{target}:{version}")


def test_everything_that_is_said_to_stay_is_kept(installed: dict[str, set[str]]) -> None:
    stays = PAGE[PAGE.index("## Uninstalling") :]
    assert all(name in stays for name in installed["secret"] | installed["pvc"])


def test_every_image_of_the_dockerfile_is_pinned_and_runs_as_the_charts_user() -> None:
    file = ROOT / "components" / "Dockerfile"
    text = file.read_text()
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", text, re.MULTILINE)
    assert re.fullmatch(r"3\.11\.\d+-slim-\w+", python)
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    names = [stage.split("\n", 1)[0].partition(" AS ")[2] for stage in stages]
    assert names == ["wheel", "base", "step", "train"]
    for stage in stages[2:]:
        assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE) == ["10001:10001"]
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources)
    ignored = Path(f"{file}.dockerignore").read_text().splitlines()
    copied = {s for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for s in line.split()[:-1]}
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
