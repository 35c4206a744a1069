"""docs/kubeflow.md and the code say the same: its commands run, its tables are whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ran
from fakes.pipelines_server import PipelinesServer, pipelines_server
from markdown_it import MarkdownIt

from instructdiffusion.components.settings import Training
from instructdiffusion.pipelines.compiling import Cluster
from instructdiffusion.pipelines.parameters import COUNTS, NAMES, PRESETS, TEXTS

PAGE = Path(__file__).parents[1] / "docs" / "kubeflow.md"


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text()


@pytest.fixture
def server() -> Iterator[PipelinesServer]:
    with pipelines_server("tops3cret") as running:
        yield running


def commands(text: str) -> list[str]:
    """Every line of the page's programs, in their order."""
    blocks = [token.content for token in MarkdownIt("commonmark").parse(text) if token.info == "sh"]
    return [line for block in blocks for line in block.splitlines() if line]


def test_every_command_runs_as_it_stands_in_their_order(text: str, server: PipelinesServer, tmp_path: Path) -> None:
    environment = {
        "INSTRUCTDIFFUSION_PIPELINES_HOST": server.address,
        "INSTRUCTDIFFUSION_PIPELINES_TOKEN": "tops3cret",
    }
    server.course = [{"state": "RUNNING"}, {"state": "SUCCEEDED"}]
    lines = commands(text)
    for line in lines:
        ended = ran(line, tmp_path, **environment)
        assert ended.exit_code == 0, f"{line}\n{ended.stderr}"
    assert len(lines) == 8
    assert len(server.runs) == 4
    assert {path.stem for path in (tmp_path / "out/pipelines").iterdir()} == {*NAMES}


@pytest.mark.parametrize("name", [*NAMES])
def test_every_pipeline_is_explained(name: str, text: str) -> None:
    assert f"| `{name}.yaml` |" in text


@pytest.mark.parametrize("name", sorted({*COUNTS, *TEXTS, *PRESETS}))
def test_every_parameter_and_preset_is_explained(name: str, text: str) -> None:
    assert f"`{name}`" in text


@pytest.mark.parametrize(
    "name", sorted(({*Cluster.model_fields} - {"training"}) | {f"training.{name}" for name in Training.model_fields})
)
def test_every_setting_of_the_cluster_is_explained_with_its_default(name: str, text: str) -> None:
    row = re.search(rf"^\|[^|\n]*`{re.escape(name)}`[^|\n]*\|[^|\n]+\|([^|\n]+)\|$", text, re.MULTILINE)
    assert row is not None
    fields = Training.model_fields if name.startswith("training.") else Cluster.model_fields
    default = fields[name.removeprefix("training.")].default
    if default and isinstance(default, str | int):
        assert f"`{default}`" in row[1]


def test_every_step_has_a_page_that_is_explained(text: str) -> None:
    from instructdiffusion.pipelines import data_steps, evidence_steps, model_steps, release_steps, source_steps

    steps = {
        name
        for module in (data_steps, source_steps, model_steps, evidence_steps, release_steps)
        for name, value in vars(module).items()
        if hasattr(value, "python_func")
    }
    table = text.partition("## What you see")[2].partition("## Parameters")[0]
    assert sorted(name for name in steps if not re.search(rf"^\| ([a-z, ]+, )?{name}[ ,]", table, re.MULTILINE)) == []
