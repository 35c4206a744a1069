"""Runs, the reporter and the registry against a real MLflow server."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from instructdiffusion.components.process import LOOPBACK, free_ports
from instructdiffusion.components.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from instructdiffusion.components.reporter import TrackingReporter
from instructdiffusion.components.servers import Server
from instructdiffusion.components.tracking import TrackedRun, Tracker
from instructdiffusion.components.training_node import monitored
from instructdiffusion.model.errors import ConfigError, DataError, ServiceError

PICTURE = np.zeros((8, 8, 3), np.uint8)
DIGEST = "sha256:" + "ab" * 32


def test_a_run_keeps_what_it_is_given(tracker: Tracker, name: str, tmp_path: Path) -> None:
    (tmp_path / "grid.txt").write_text("a grid")
    with tracker.open_run(name, tags={"stage": "adapt"}) as run:
        run.params({"optim": {"rate": 0.1, "steps": 5}, "name": "smoke"})
        run.metrics({"loss": 0.5, "rate": 0.1}, step=1)
        run.metrics({"loss": 0.25}, step=2)
        run.image("samples", PICTURE, step=2)
        run.image("grid", PICTURE)
        run.artifacts(tmp_path, "evaluation")
        run.dataset("train-64px", digest=DIGEST, source="s3://b/x", context="training", counts={"remove": 3})
    found = tracker.client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"optim.rate": "0.1", "optim.steps": "5", "name": "smoke"}
    assert found.data.metrics == {"loss": 0.25, "rate": 0.1}
    assert found.data.tags["stage"] == "adapt"
    assert [m.value for m in tracker.client.get_metric_history(run.run_id, "loss")] == [0.5, 0.25]
    assert {f.path for f in tracker.client.list_artifacts(run.run_id)} >= {"grid.png", "images", "evaluation"}
    assert found.inputs is not None
    dataset = found.inputs.dataset_inputs[0].dataset
    assert dataset.digest == "ab" * 16
    assert DIGEST in str(dataset.profile)


def test_a_run_with_the_same_key_is_resumed(tracker: Tracker, name: str) -> None:
    with pytest.raises(RuntimeError), tracker.open_run(name, key=name) as first:
        raise RuntimeError("cut off")
    assert tracker.client.get_run(first.run_id).info.status == "FAILED"
    with tracker.open_run(name, key=name) as second:
        assert second.run_id == first.run_id
        assert tracker.client.get_run(first.run_id).info.status == "RUNNING"
    assert tracker.open_run(name, key=f"{name}-other").run_id != first.run_id


def test_the_run_that_the_pipeline_engine_opened_is_joined(
    tracker: Tracker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = tracker.open_run(name)
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.run_id)
    assert tracker.open_run("inner").run_id == outer.run_id


def test_nodes_are_told_which_run_to_write_to_and_no_credentials(
    tracker: Tracker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")  # as the pipeline engine sets it
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    run = tracker.open_run(name)
    given = {"MLFLOW_TRACKING_URI": tracker.uri, "MLFLOW_RUN_ID": run.run_id, "MLFLOW_EXPERIMENT_ID": "7"}
    assert run.environment() == given
    assert "MLFLOW_TRACKING_URI" not in TrackedRun(run.client, "http://me:secret@mlflow:5000", "1").environment()


def test_a_tracker_that_is_down_costs_a_node_its_metrics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    with monitored({"MLFLOW_TRACKING_URI": address, "MLFLOW_RUN_ID": "1"}):
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    assert not thread.is_alive()


@pytest.mark.parametrize("environment", [{}, {"MLFLOW_RUN_ID": "1"}, {"MLFLOW_TRACKING_URI": "x", "LOCAL_RANK": "1"}])
def test_a_process_without_a_run_and_the_second_of_a_node_monitor_nothing(environment: dict[str, str]) -> None:
    with monitored(environment):
        assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try a request."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.mark.usefixtures("impatient")
def test_a_tracker_that_is_down_never_stops_a_training(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    port = free_ports(1)[0]
    dead = Tracker(f"http://user:passw0rd@127.0.0.1:{port}", "x")
    reporter = TrackingReporter(TrackedRun(dead.client, dead.uri, "0" * 32), interval=0, pause=0.01)
    seen: list[tuple[int, int, str]] = []
    reporter._on_progress = lambda *told: seen.append(told)
    reporter.metrics({"loss": 1.0}, step=1)
    reporter.progress(1, 10, "loss 1.0")
    reporter.metrics({"loss": 0.5}, step=2)
    assert reporter.close() == 2
    assert seen == [(1, 10, "loss 1.0")]
    warnings = [r.getMessage() for r in caplog.records if r.name.endswith("reporter")]
    assert len(warnings) == 2  # one for the outage, one for what was lost in the end
    assert str(port) in warnings[0]
    assert "passw0rd" not in caplog.text


@pytest.mark.usefixtures("impatient")
def test_what_an_outage_held_back_is_sent_later(tracker: Tracker, name: str, tmp_path: Path) -> None:
    run = tracker.open_run(name)
    dead = Tracker(f"http://127.0.0.1:{free_ports(1)[0]}", "x")
    reporter = TrackingReporter(TrackedRun(dead.client, dead.uri, run.run_id), interval=0, pause=0)
    reporter.metrics({"loss": 1.0}, step=1)
    Image.fromarray(PICTURE).save(tmp_path / "sheet.png")
    reporter.image("samples", tmp_path / "sheet.png", step=1)
    reporter._run = run  # the tracker answers again
    reporter.metrics({"loss": 0.5}, step=2)
    assert reporter.close() == 0
    history = tracker.client.get_metric_history(run.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 1.0), (2, 0.5)]
    (picture, _) = sorted(file.path for file in tracker.client.list_artifacts(run.run_id, "images"))
    assert picture.startswith("images/samples+step+1+")


def test_a_tracker_that_is_down_is_one_line(name: str) -> None:
    uri = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ServiceError, match="MLFLOW_TRACKING_URI") as caught:
        Tracker(uri, name).open_run(name)
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refusal_is_told_in_the_trackers_words(tracker: Tracker) -> None:
    with pytest.raises(ServiceError, match="refused") as caught:
        TrackedRun(tracker.client, tracker.uri, "0" * 32).metrics({"loss": 1.0}, 1)
    assert "\n" not in str(caught.value)


def test_the_same_weights_are_registered_once(tracker: Tracker, registry: Registry, name: str) -> None:
    run = tracker.open_run(name)
    assert registry.versions() == []
    first = registry.register("s3://b/model", digest=DIGEST, run_id=run.run_id, tags={"stage": "align"})
    again = registry.register("s3://b/model", digest=DIGEST, run_id=run.run_id)
    other = registry.register("s3://b/other", digest="sha256:cd", run_id=run.run_id)
    assert (first.number, again.number, other.number) == ("1", "1", "2")
    assert (first.source, first.run_id, first.tags["stage"]) == ("s3://b/model", run.run_id, "align")
    assert [version.number for version in registry.versions()] == ["2", "1"]


def test_an_artifact_of_a_run_can_be_registered(tracker: Tracker, registry: Registry, folder: Path) -> None:
    run = tracker.open_run("weights")
    run.artifacts(folder, "model")
    version = registry.register(f"runs:/{run.run_id}/model", digest=DIGEST, run_id=run.run_id)
    assert version.source == f"runs:/{run.run_id}/model"


def test_the_champion_moves_and_a_rollback_returns(tracker: Tracker, registry: Registry, name: str) -> None:
    assert registry.at(CHAMPION) is None  # no such model
    run = tracker.open_run(name)
    for number in range(3):
        registry.register(f"s3://b/{number}", digest=f"sha256:{number}", run_id=run.run_id, tags={"gate": "passed"})
    assert registry.at(CHAMPION) is None  # no such alias
    with pytest.raises(ConfigError, match="no previous version"):
        registry.rollback()
    registry.set_alias(CHALLENGER, "2")
    registry.promote("1")
    promoted = registry.promote("2")
    registry.promote("2")  # a repeat changes nothing
    assert promoted.aliases == (CHALLENGER, CHAMPION)
    assert numbers(registry) == {CHAMPION: "2", PREVIOUS: "1"}
    assert promoted.tags["replaces"] == "1"
    assert registry.rollback().number == "1"
    assert numbers(registry) == {CHAMPION: "1", PREVIOUS: None}
    assert "rolled_back_at" in registry.version("2").tags
    with pytest.raises(ConfigError):
        registry.rollback()


def promoted_one_by_one(tracker: Tracker, registry: Registry, name: str) -> None:
    """Two versions that the gate let pass, the second champion after the first."""
    run = tracker.open_run(name)
    for number in "12":
        tags = {"gate": "passed"}
        registry.register(f"s3://b/{number}", digest=f"sha256:{number}", run_id=run.run_id, tags=tags)
        registry.promote(number)


def test_a_rollback_that_was_killed_after_the_alias_moved_blames_nobody_else(
    tracker: Tracker, registry: Registry, name: str
) -> None:
    promoted_one_by_one(tracker, registry, name)
    registry.tag("2", {"rolled_back_at": "2026-01-01T12:00:00+00:00"})
    registry.set_alias(CHAMPION, "1")  # and here it was killed
    assert registry.rollback().number == "1"
    assert "rolled_back_at" not in registry.version("1").tags
    assert registry.version("2").tags["rolled_back_at"] == "2026-01-01T12:00:00+00:00"
    assert numbers(registry) == {CHAMPION: "1", PREVIOUS: None}


def test_a_rollback_to_what_the_gate_did_not_let_pass_is_refused_and_changes_nothing(
    tracker: Tracker, registry: Registry, name: str
) -> None:
    promoted_one_by_one(tracker, registry, name)
    for word, why in (("refused", "was refused by the gate"), (None, "has not been through the gate")):
        registry.tag("1", {"gate": word})
        with pytest.raises(ConfigError, match=f"version 1 {why}.*: instructdiffusion promote 1 --override REASON"):
            registry.rollback()
    assert numbers(registry) == {CHAMPION: "2", PREVIOUS: "1"}
    assert "rolled_back_at" not in registry.version("2").tags


def test_a_version_keeps_its_evaluation(tracker: Tracker, registry: Registry, name: str) -> None:
    run = tracker.open_run(name)
    number = registry.register("s3://b/m", digest=DIGEST, run_id=run.run_id).number
    with pytest.raises(DataError, match="no evaluation"):
        registry.evaluation(number)
    evaluation = {"tasks": {"remove": {"metric": "gain", "value": 9.5, "scores": [9.0, 10.0]}}}
    registry.put_evaluation(number, evaluation)
    assert registry.evaluation(number) == evaluation


def test_a_version_that_is_not_there_is_one_line(registry: Registry) -> None:
    with pytest.raises(ServiceError, match="refused"):
        registry.version("7")


def test_the_tracker_is_two_processes_on_this_machine_alone(tracking_server: Server) -> None:
    root = psutil.Process(tracking_server.process.pid)
    family = [root, *root.children(recursive=True)]
    assert len(family) == 2
    listening = [c.laddr.ip for p in family for c in p.connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert set(listening) == {LOOPBACK}


def numbers(registry: Registry) -> dict[str, str | None]:
    found = {alias: registry.at(alias) for alias in (CHAMPION, PREVIOUS)}
    return {alias: version.number if version else None for alias, version in found.items()}
