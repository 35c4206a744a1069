"""What steps record of themselves, and the summary that is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from instructdiffusion.components.settings import NAMES
from instructdiffusion.model.errors import DataError
from instructdiffusion.pipelines import release_steps
from instructdiffusion.pipelines.inside import Surroundings, inside
from instructdiffusion.pipelines.pages import page
from instructdiffusion.pipelines.summary import summary


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a run on a cluster, without store and tracker."""
    for name in ("store_endpoint", "tracking_uri"):
        monkeypatch.delenv(NAMES[name], raising=False)
    monkeypatch.setenv(NAMES["records"], str(tmp_path / "runs"))
    monkeypatch.setenv(NAMES["run_id"], "run-1")


def fails() -> None:
    with pytest.raises(SystemExit), inside("encode (train)"):
        raise DataError("shard 3 is damaged; delete it")


def test_a_summary_lists_steps_in_their_order_and_what_failed() -> None:
    with inside("synthesize (train)"):
        pass
    fails()
    made = summary("data", "FAILED", "Task failed", Surroundings())
    assert [(row[0], row[2]) for row in made["tables"][0][1:]] == [
        ("synthesize (train)", "done"),
        ("encode (train)", "failed"),
    ]
    assert made["facts"]["failed: encode (train)"] == "shard 3 is damaged; delete it"
    assert "shard 3 is damaged" in page(**made)


def test_a_step_that_was_tried_again_counts_by_its_last_try() -> None:
    fails()
    with inside("encode (train)"):
        pass
    made = summary("data", "SUCCEEDED", "", Surroundings())
    assert [row[2] for row in made["tables"][0][1:]] == ["done"]
    assert made["title"] == "data: succeeded"


def test_a_run_that_died_before_its_first_step_has_a_summary_too() -> None:
    made = summary("data", "FAILED", "no node has a GPU", Surroundings())
    assert made["facts"]["error"] == "no node has a GPU"
    assert "no node has a GPU" in page(**made)


def shown(step: Any, tmp_path: Path, **arguments: Any) -> str:
    """The page that a step leaves."""
    artifact = dsl.HTML(uri=str(tmp_path / "page.html"))
    step.python_func(**arguments, page=artifact)
    return Path(artifact.path).read_text()


def test_a_wrong_setting_is_told_by_the_summary_and_does_not_cost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAMES["backend"], "clusters")
    status = dsl.PipelineTaskFinalStatus(
        state="FAILED",
        pipeline_job_resource_name="run",
        pipeline_task_name="plan",
        error_code=2,
        error_message="plan: exit code 2",
    )
    text = shown(release_steps.summarize, tmp_path, pipeline="data", status=status)
    assert "data: failed" in text
    assert "plan: exit code 2" in text
    assert NAMES["backend"] in text


def test_on_a_cluster_no_bento_is_made_and_it_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAMES["backend"], "cluster")
    text = shown(release_steps.package, tmp_path, version="2", work=str(tmp_path / "work"))
    assert "KServe mounts the version" in text
    assert not (tmp_path / "work").exists()


def test_a_record_that_can_not_be_written_fails_no_step(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with inside("synthesize (train)"):
        pass


def test_a_page_escapes_what_comes_from_data() -> None:
    text = page("<script>", {"caption": "<b>bold</b>"}, notes=["a & b"])
    assert "<script>" not in text
    assert "&lt;b&gt;bold" in text
