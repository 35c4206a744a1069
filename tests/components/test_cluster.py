"""A training on a cluster: what the launcher does with a TrainJob, against an API server that the test drives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.api_server import NAMESPACE, ApiServer, api_server
from pydantic import BaseModel

from instructdiffusion.components import cluster, train
from instructdiffusion.components.launcher import Killed
from instructdiffusion.components.settings import Settings, Training
from instructdiffusion.components.trainjob import train_job
from instructdiffusion.model.errors import ConfigError, ServiceError

NAME, POD = "adapt-1a2b", "adapt-1a2b-node-0"
JOB = train_job(NAME, ["python", "-m", "x"], nodes=2, processes_per_node=1, image="x:1")
CHILD = """
import json, sys
from pathlib import Path
from instructdiffusion.components.cluster import launch
launch(json.loads(sys.argv[1]), logs=Path(sys.argv[2]), poll=0.05, on_line=lambda line: print(line, flush=True))
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with api_server(tmp_path) as running:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield running


class Heard:
    """What a launch tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []


def launch(logs: Path, **more: Any) -> Heard:
    heard = Heard()
    cluster.launch(JOB, logs=logs, on_line=heard.lines.append, on_event=heard.events.append, poll=0.01, **more)
    return heard


def test_a_job_is_submitted_followed_and_left_when_it_is_done(server: ApiServer, tmp_path: Path) -> None:
    def runs() -> None:
        server.pod(NAME)
        server.pod(NAME, node=1)
        server.says(POD, "loading", '{"progress": 1, "total": 2}', second=1)
        server.says(f"{NAME}-node-1", "of no interest", second=1)

    def ends() -> None:
        server.says(POD, '{"progress": 2, "total": 2}', second=2)
        server.condition(NAME, "Complete")

    server.course = [lambda: None, runs, lambda: None, ends]
    heard = launch(tmp_path / "logs")
    assert server.created[0]["spec"] == JOB["spec"]
    assert heard.lines == ["loading"]
    assert [event["progress"] for event in heard.events] == [1, 2]
    assert server.deleted == []
    assert (tmp_path / "logs" / "node-0.log").read_text().startswith("loading\n")


def test_the_job_is_owned_by_the_pod_that_started_it(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "step")
    monkeypatch.setenv("KFP_POD_UID", "u-1")
    server.course = [lambda: None, lambda: server.condition(NAME, "Complete")]
    launch(tmp_path)
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "step", "uid": "u-1"}
    assert server.created[0]["metadata"]["ownerReferences"] == [owner]


@pytest.mark.parametrize("races", [0, 2])
def test_a_pod_that_finds_its_job_becomes_one_of_its_owners_once(
    races: int, server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the job would go with the pod of the first try."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "step", "uid": "u-1"}
    known = {**JOB["metadata"], "uid": "old", "resourceVersion": "1", "ownerReferences": [owner]}
    server.jobs[NAME] = {**JOB, "metadata": known}
    monkeypatch.setenv("KFP_POD_NAME", "again")
    monkeypatch.setenv("KFP_POD_UID", "u-2")
    server.races = races
    server.course = [*[lambda: None] * (races + 2), lambda: server.condition(NAME, "Complete")]
    for _ in range(2):
        launch(tmp_path)
        assert known["ownerReferences"] == [owner, {**owner, "name": "again", "uid": "u-2"}]
    assert (server.created, server.deleted) == ([], [])


def test_a_pod_of_another_namespace_can_own_nothing_here(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "step")
    monkeypatch.setenv("KFP_POD_UID", "u-1")
    server.course = [lambda: None, lambda: server.condition(NAME, "Complete")]
    launch(tmp_path, namespace="elsewhere")
    assert "ownerReferences" not in server.created[0]["metadata"]


def child(logs: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CHILD, json.dumps(JOB), str(logs)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_launcher_that_was_killed_finds_its_job_again_and_repeats_no_line(server: ApiServer, tmp_path: Path) -> None:
    def runs() -> None:
        server.pod(NAME)
        server.says(POD, "loading", "step 1", second=1)

    server.course = [lambda: None, runs]
    first = child(tmp_path / "logs")
    assert first.stdout is not None
    assert [first.stdout.readline(), first.stdout.readline()] == ["loading\n", "step 1\n"]
    until = time.monotonic() + 60
    while not (tmp_path / "logs" / "at.json").is_file() and time.monotonic() < until:
        time.sleep(0.05)
    first.kill()
    first.communicate()

    def ends() -> None:
        server.says(POD, "step 2", second=2)
        server.condition(NAME, "Complete")

    server.course = [lambda: None, ends]
    assert launch(tmp_path / "logs").lines == ["step 2"]
    assert len(server.created) == 1


def test_a_training_whose_nodes_start_again_is_followed_on(server: ApiServer, tmp_path: Path) -> None:
    def runs() -> None:
        server.pod(NAME)
        server.says(POD, "step 1", second=1)

    def starts_again() -> None:
        server.pod(NAME, phase="Failed")
        server.pod(NAME, attempt=1)
        server.says(f"{POD}-1", "resumed", second=5)

    server.course = [lambda: None, runs, starts_again, lambda: server.condition(NAME, "Complete")]
    assert launch(tmp_path).lines == ["step 1", "resumed"]
    assert len(server.created) == 1


def test_a_cancelled_launcher_deletes_its_job(server: ApiServer, tmp_path: Path) -> None:
    def starts() -> None:
        server.pod(NAME)
        server.says(POD, "loading", second=1)

    server.course = [lambda: None, starts]
    running = child(tmp_path / "logs")
    assert running.stdout is not None
    assert running.stdout.readline() == "loading\n"
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode != 0
    assert server.deleted == [NAME]


def test_a_failure_names_the_node_that_ended_first_and_its_last_words(server: ApiServer, tmp_path: Path) -> None:
    def fails() -> None:
        later = {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:00:09Z"}
        first = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:05Z"}
        server.pod(NAME, 0, "Failed", terminated=later)
        server.pod(NAME, 1, "Failed", terminated=first)
        server.says(POD, "RuntimeError: Connection closed by peer", second=9)
        server.says(f"{NAME}-node-1", "step 3", "torch.OutOfMemoryError: no memory left", second=5)
        server.condition(NAME, "Failed", "JobFailed", "a pod failed")

    server.course = [lambda: None, fails]
    with pytest.raises(ServiceError) as caught:
        launch(tmp_path)
    told = str(caught.value)
    assert "node 1 ended with OOMKilled, exit code 137" in told
    assert not isinstance(caught.value, Killed)  # it would happen again
    assert "OutOfMemoryError: no memory left" in told
    assert "JobFailed: a pod failed" in told
    assert "\n" not in told
    assert NAME in server.jobs  # to be looked at


def test_a_node_that_was_taken_away_is_told_from_one_that_failed(server: ApiServer, tmp_path: Path) -> None:
    def taken() -> None:
        server.pod(NAME, 0, "Failed", terminated={"exitCode": 143, "finishedAt": "2026-01-01T00:00:05Z"})
        server.condition(NAME, "Failed", "JobFailed", "a pod failed")

    server.course = [lambda: None, taken]
    with pytest.raises(Killed, match="node 0 ended with exit code 143"):
        launch(tmp_path)


RANKS = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    exec(sys.argv[1])
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("ends", "kind", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", Killed, r"exit code 1: rank 1 ended with signal SIGKILL \("),
        ("raise ValueError('x is damaged')", ServiceError, r"rank 1 ended with exit code 1: ValueError: x is damaged"),
        ("raise RuntimeError('Connection closed by peer')", Killed, r"RuntimeError: Connection closed by peer"),
    ],
    ids=["killed", "failed", "lost a peer"],
)
def test_a_rank_that_was_killed_is_told_from_one_that_failed_by_what_torchrun_says(
    ends: str, kind: type[ServiceError], told: str, server: ApiServer, tmp_path: Path
) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--"]
    ended = subprocess.run([*torchrun, tmp_path / "ranks.py", ends], capture_output=True, text=True, timeout=120)

    def fails() -> None:
        stopped = {"exitCode": ended.returncode, "reason": "Error", "finishedAt": "2026-01-01T00:00:05Z"}
        server.pod(NAME, 0, "Failed", terminated=stopped)
        server.says(POD, *ended.stderr.splitlines(), second=5)
        server.condition(NAME, "Failed", "JobFailed", "a pod failed")

    server.course = [lambda: None, fails]
    with pytest.raises(ServiceError, match=told) as caught:
        launch(tmp_path)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("reason", "kind"), [("Error", Killed), ("OOMKilled", ServiceError)])
def test_a_node_that_only_lost_a_peer_is_not_the_one_to_blame(
    reason: str, kind: type[ServiceError], server: ApiServer, tmp_path: Path
) -> None:
    def fails() -> None:
        for node, second, why in ((0, 5, "Error"), (1, 9, reason)):
            ended = {"exitCode": 1, "reason": why, "finishedAt": f"2026-01-01T00:00:0{second}Z"}
            server.pod(NAME, node, "Failed", terminated=ended)
        server.says(POD, "RuntimeError: Connection closed by peer", second=5)
        cause = ("Root Cause (first observed failure):", "  rank      : 1 (local_rank: 0)", "  exitcode  : -9 (pid: 7)")
        server.says(f"{NAME}-node-1", *cause, second=9)
        server.condition(NAME, "Failed", "JobFailed", "a pod failed")

    server.course = [lambda: None, fails]
    with pytest.raises(ServiceError, match=r"node 1 ended with .*rank 1 ended with signal SIGKILL") as caught:
        launch(tmp_path)
    assert type(caught.value) is kind  # what has too little memory would have too little again


def test_a_failure_without_pods_tells_what_the_cluster_complains_of(server: ApiServer, tmp_path: Path) -> None:
    server.warn(NAME, "FailedCreate", "quota exceeded")
    server.warn("another", "Unhealthy", "not ours")
    server.course = [lambda: None, lambda: server.condition(NAME, "Failed", "DeadlineExceeded", "too long")]
    with pytest.raises(ServiceError, match=r"DeadlineExceeded: too long; FailedCreate: quota exceeded; see: kubectl"):
        launch(tmp_path)


def test_a_retry_replaces_a_job_that_failed(server: ApiServer, tmp_path: Path) -> None:
    server.jobs[NAME] = {**JOB, "metadata": {**JOB["metadata"], "uid": "old"}}
    server.condition(NAME, "Failed")
    server.course = [lambda: None, lambda: None, lambda: server.condition(NAME, "Complete")]
    launch(tmp_path)
    assert server.deleted == [NAME]
    assert len(server.created) == 1


@pytest.mark.parametrize(("made", "created"), [(True, 0), (False, 1)])
def test_a_complete_job_counts_only_with_what_it_made(
    made: bool, created: int, server: ApiServer, tmp_path: Path
) -> None:
    server.jobs[NAME] = {**JOB, "metadata": {**JOB["metadata"], "uid": "old"}}
    server.condition(NAME, "Complete")
    if not made:
        server.course = [lambda: None, lambda: None, lambda: server.condition(NAME, "Complete")]
    launch(tmp_path, made=lambda: made)
    assert len(server.created) == created


def test_what_keeps_the_pods_from_starting_is_told_once(server: ApiServer, tmp_path: Path) -> None:
    def waits() -> None:
        server.pod(NAME, phase="Pending")
        server.warn(POD, "FailedScheduling", "0/3 nodes have a GPU")

    server.course = [lambda: None, waits, lambda: None, lambda: None, lambda: server.condition(NAME, "Complete")]
    assert launch(tmp_path).lines == ["FailedScheduling: 0/3 nodes have a GPU"]


def test_an_image_that_can_not_be_pulled_ends_the_wait(server: ApiServer, tmp_path: Path) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "x:1 not found"}
    server.course = [lambda: None, lambda: server.pod(NAME, phase="Pending", waiting=waiting)]
    with pytest.raises(ServiceError, match="ImagePullBackOff: x:1 not found"):
        launch(tmp_path, patience=0.2)
    assert server.deleted == [NAME]


def test_a_cluster_that_is_away_for_a_while_is_asked_again(server: ApiServer, tmp_path: Path) -> None:
    def goes() -> None:
        server.refuses, server.refusals = 503, 3

    server.course = [lambda: None, goes, lambda: server.condition(NAME, "Complete")]
    launch(tmp_path)
    assert server.refusals == 0
    assert server.deleted == []


def test_a_cluster_that_stays_away_keeps_the_job(server: ApiServer, tmp_path: Path) -> None:
    def goes() -> None:
        server.refuses, server.refusals = 503, 10**6

    server.course = [lambda: None, goes]
    with pytest.raises(ServiceError, match="the training goes on: run the step again to follow it"):
        launch(tmp_path, patience=0.2)
    assert server.deleted == []


def test_a_job_that_someone_deleted_is_told(server: ApiServer, tmp_path: Path) -> None:
    server.course = [lambda: None, lambda: server.jobs.clear()]
    with pytest.raises(ServiceError, match="was deleted while it ran"):
        launch(tmp_path)


def test_missing_rights_are_one_line_with_the_fix(server: ApiServer, tmp_path: Path) -> None:
    server.refuses, server.refusals = 403, 1
    with pytest.raises(ServiceError, match=r"\(403\).*ServiceAccount .* in pipelines\.serviceAccounts of the chart"):
        launch(tmp_path)


def test_a_refused_job_is_told_in_the_clusters_words(server: ApiServer, tmp_path: Path) -> None:
    def refuse() -> None:
        server.refuses, server.refusals = 422, 1

    server.course = [refuse]
    with pytest.raises(ConfigError, match=rf"the cluster refuses to create TrainJob {NAME} .*: refused"):
        launch(tmp_path)


def test_no_cluster_is_one_line_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="set KUBECONFIG, or INSTRUCTDIFFUSION_BACKEND to local"):
        launch(tmp_path)


class Recipe(BaseModel):
    """Stands for a run's settings; what is trained is no matter of the launcher."""

    steps: int = 3


def test_the_train_step_trains_on_the_cluster_when_the_settings_say_so(server: ApiServer, tmp_path: Path) -> None:
    data, model, out = tmp_path / "data", tmp_path / "model", tmp_path / "work" / "train"
    for folder, name in ((data, "manifest.json"), (model, "editor.json")):
        folder.mkdir()
        (folder / name).write_text("{}")

    def trains() -> None:
        arguments = server.created[0]["spec"]["trainer"]["args"]
        for option in ("--data", "--model"):  # nodes see the volume alone
            copy = Path(arguments[arguments.index(option) + 1])
            assert copy.is_relative_to(out)
            assert any(copy.iterdir())
        (out / "model").mkdir()
        (out / "model" / "weights").write_text("trained")
        (out / "training.json").write_text("{}")
        server.condition(server.created[0]["metadata"]["name"], "Complete")

    server.course = [lambda: None, trains]
    asked = Training(nodes=2, processes=4, resources={"nvidia.com/gpu": "4"}, node_selector={"gpu": "yes"})
    settings = Settings(backend="cluster", training=asked)
    weights = train.run(Recipe(), data, out, model=model, settings=settings)
    assert (weights / "weights").read_text() == "trained"
    spec = server.created[0]["spec"]
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"]) == (2, 4)
    assert spec["trainer"]["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "4"}
    assert "image" not in spec["trainer"]  # the runtime's
    assert not (out / "inputs").exists()
    assert train.run(Recipe(), data, out, model=model, settings=settings) == weights
    assert len(server.created) == 1
    assert NAMESPACE == "vision"
