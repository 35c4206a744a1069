"""Runs on a server of Kubeflow Pipelines: the command and kfp's own client against a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.pipelines_server import PipelinesServer, pipelines_server

from instructdiffusion.model.errors import ConfigError, DataError, ServiceError
from instructdiffusion.pipelines.compiling import Cluster, compile_all
from instructdiffusion.pipelines.submitting import Server, order

TOKEN = "tops3cret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled pipelines."""
    out = tmp_path_factory.mktemp("compiled")
    compile_all(out, Cluster(), "quick")
    return out


@pytest.fixture
def server() -> Iterator[PipelinesServer]:
    with pipelines_server(TOKEN) as running:
        yield running


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "instructdiffusion.pipelines", "submit", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "INSTRUCTDIFFUSION_PIPELINES_TOKEN": TOKEN, **environment},
        timeout=300,
    )


def step(name: str, state: str, error: str = "", id: str = "") -> dict[str, object]:
    """A task as the server tells of it; its id is its name unless told."""
    task = {"task_id": id or name, "display_name": name, "state": state}
    return {**task, **({"error": {"code": 13, "message": error}} if error else {})}


def test_a_run_is_started_with_what_was_asked_for(server: PipelinesServer, folder: Path) -> None:
    ended = command(
        *("end-to-end", "--host", server.address, "--compiled", str(folder), "--set", "train_steps=7"),
        *("--experiment", "mine", "--service-account", "step", "--fresh", "--json"),
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    run = server.runs[told["run"]]
    assert run["runtime_config"]["parameters"] == {"train_steps": 7}
    assert run["service_account"] == "step"
    assert server.experiments[run["experiment_id"]]["display_name"] == "mine"
    assert told["address"] == f"{server.address}/#/runs/details/{told['run']}"
    assert '"enableCache": true' not in json.dumps(run["pipeline_spec"])
    assert TOKEN not in ended.stdout + ended.stderr


def test_a_second_run_is_put_into_the_same_experiment(server: PipelinesServer, folder: Path) -> None:
    client, wanted = Server(server.address, TOKEN), order("data", folder, {})
    client.submit(wanted, experiment="mine")
    client.submit(wanted, experiment="mine")
    assert len(server.runs) == 2
    assert len(server.experiments) == 1


def test_a_watched_run_tells_each_change_once(server: PipelinesServer, folder: Path) -> None:
    client, heard = Server(server.address, TOKEN), list[tuple[str, str]]()
    run = client.submit(order("data", folder, {}))
    helpers = [step(name, "RUNNING") for name in ("root", "fetch-driver", "executor", "executor(0)")]
    first = {"state": "RUNNING", "run_details": {"task_details": [step("fetch", "RUNNING"), *helpers]}}
    last = {"state": "SUCCEEDED", "run_details": {"task_details": [step("fetch", "SUCCEEDED")]}}
    server.course = [first, first, last]
    assert client.watch(run, lambda name, state: heard.append((name, state)), poll=0.01) == "SUCCEEDED"
    assert heard == [("fetch", "RUNNING"), ("", "RUNNING"), ("fetch", "SUCCEEDED"), ("", "SUCCEEDED")]


def test_steps_of_one_name_are_told_apart_in_whatever_order_the_server_lists_them(
    server: PipelinesServer, folder: Path
) -> None:
    client, heard = Server(server.address, TOKEN), list[tuple[str, str]]()
    run = client.submit(order("data", folder, {}))
    alone = [step("train", "RUNNING", id="a")]
    both = [step("train", "RUNNING", id="b"), step("train", "SUCCEEDED", id="a")]
    last = [step("train", "SUCCEEDED", id="a"), step("train", "SUCCEEDED", id="b")]
    server.course = [{"state": "RUNNING", "run_details": {"task_details": details}} for details in (alone, both)]
    server.course += [{"state": "SUCCEEDED", "run_details": {"task_details": last}}]
    client.watch(run, lambda name, state: heard.append((name, state)), poll=0.01)
    assert [change for change in heard if change[0]] == [
        ("train", "RUNNING"),
        ("train 2", "RUNNING"),
        ("train", "SUCCEEDED"),
        ("train 2", "SUCCEEDED"),
    ]


def test_a_step_that_failed_is_told_though_another_of_its_name_succeeded(server: PipelinesServer, folder: Path) -> None:
    client = Server(server.address, TOKEN)
    run = client.submit(order("data", folder, {}))
    details = [step("train", "FAILED", "the volume is full", id="a"), step("train", "SUCCEEDED", id="b")]
    server.course = [{"state": "FAILED", "run_details": {"task_details": details}}]
    with pytest.raises(ServiceError, match="step train: the volume is full"):
        client.watch(run, lambda name, state: None, poll=0.01)


def test_a_server_that_is_away_for_a_while_is_asked_again(server: PipelinesServer, folder: Path) -> None:
    client, heard = Server(server.address, TOKEN), list[tuple[str, str]]()
    run = client.submit(order("data", folder, {}))
    server.course, server.away = [{"state": "RUNNING"}, {"state": "SUCCEEDED"}], 3
    assert client.watch(run, lambda name, state: heard.append((name, state)), poll=0.01) == "SUCCEEDED"
    assert heard == [("", "RUNNING"), ("", "SUCCEEDED")]
    assert server.away == 0


@pytest.mark.parametrize(("token", "told"), [(TOKEN, r"\(503\)"), ("another", "INSTRUCTDIFFUSION_PIPELINES_TOKEN")])
def test_a_run_that_can_not_be_watched_any_more_goes_on_and_the_line_says_where(
    token: str, told: str, server: PipelinesServer, folder: Path
) -> None:
    client = Server(server.address, TOKEN)
    run = client.submit(order("data", folder, {}))
    server.away, server.token = 10**6, token
    with pytest.raises(ServiceError, match=rf"{told}.*; the run goes on, look at it again: http.*/{run}") as caught:
        client.watch(run, lambda name, state: None, poll=0.01, patience=0.1)
    assert "\n" not in str(caught.value)


def test_a_run_that_fails_is_one_line_with_the_step_and_its_error(server: PipelinesServer, folder: Path) -> None:
    details = {"task_details": [step("fetch", "SUCCEEDED"), step("train", "FAILED", "the volume is full")]}
    server.course = [{"state": "FAILED", "run_details": details}]
    ended = command("data", "--host", server.address, "--compiled", str(folder), "--watch")
    assert ended.returncode == 4
    line = ended.stderr.strip().splitlines()[-1]
    assert "step train: the volume is full" in line
    assert "/#/runs/details/" in line
    assert "Traceback" not in ended.stderr


def test_a_dry_run_shows_everything_and_sends_nothing(server: PipelinesServer, folder: Path) -> None:
    arguments = ("--host", server.address, "--compiled", str(folder), "--set", "train_steps=7", "--dry-run", "--json")
    told = json.loads(command("end-to-end", *arguments).stdout)
    assert told["parameters"]["train_steps"] == 7
    assert told["parameters"]["triplets"] == 64
    assert told["images"] == [Cluster().image]
    assert server.runs == server.experiments == {}


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("end-to-end", {"train_stepz": "3"}, "did you mean train_steps"),
        ("end-to-end", {"triplets": "0"}, "triplets=0: input should be greater than or equal to 1"),
        ("end-to-end", {"edits": "many"}, "edits=many: input should be a valid integer"),
        ("end-to-end", {"triplets": "0", "edit": "64"}, "edit"),
        ("train", {}, "latents is missing: add --set latents="),
        ("train", {"latents": "my latents", "held_out": "s3://b/x"}, "latents=my latents: write the address"),
        ("align", {"model": "s3://b/m", "prompts": "s3://b/p", "held_out": "s3://b/h", "annotator": "me"}, "annotator"),
        ("train", {"recipe": "papre"}, "recipe=papre: input should be 'adapt', 'train', 'align'"),
        ("everything", {}, "choose from data, train, align, release, benchmark, end-to-end"),
    ],
)
def test_a_wrong_argument_is_one_line_with_the_fix(name: str, given: dict[str, str], told: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        order(name, folder, given)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_brings_its_own_steps_unless_they_are_told(folder: Path) -> None:
    told = {"latents": "s3://b/l", "held_out": "s3://b/h", "recipe": "paper"}
    assert order("train", folder, told).arguments == {**told, "train_steps": 0}
    assert order("train", folder, {**told, "train_steps": "9"}).arguments["train_steps"] == 9
    both = {"train_steps": 0, "align_steps": 0}
    assert order("end-to-end", folder, {"recipe": "paper"}).arguments == {"recipe": "paper", **both}


def test_a_pipeline_that_was_not_compiled_is_one_line_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run: instructdiffusion compile --output"):
        order("data", tmp_path, {})


def test_a_server_that_is_down_is_one_line_at_once(folder: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ServiceError, match="kubectl port-forward") as caught:
        Server("http://127.0.0.1:9")
    assert "127.0.0.1:9" in str(caught.value)
    assert time.monotonic() - began < 10


def test_a_wrong_token_is_one_line_that_names_the_setting(server: PipelinesServer, folder: Path) -> None:
    ended = command(
        *("data", "--host", server.address, "--compiled", str(folder)), INSTRUCTDIFFUSION_PIPELINES_TOKEN="wr0ng"
    )
    assert ended.returncode == 4
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "INSTRUCTDIFFUSION_PIPELINES_TOKEN" in ended.stderr
    assert "wr0ng" not in ended.stderr


def test_a_token_that_runs_out_is_told_alike(server: PipelinesServer, folder: Path) -> None:
    client = Server(server.address, TOKEN)
    server.token = "another"
    with pytest.raises(ServiceError, match="INSTRUCTDIFFUSION_PIPELINES_TOKEN"):
        client.submit(order("data", folder, {}))


def test_what_the_server_refuses_is_told_in_its_words(server: PipelinesServer, folder: Path) -> None:
    server.refusal = "no more runs\nin this namespace"
    with pytest.raises(ServiceError, match=r"\(400\): no more runs in this namespace"):
        Server(server.address, TOKEN).submit(order("data", folder, {}))


def test_a_damaged_file_is_one_line_with_the_command(server: PipelinesServer, folder: Path, tmp_path: Path) -> None:
    text = (folder / "data.yaml").read_text()
    (tmp_path / "data.yaml").write_text(text.replace("cachingOptions:", "cashingOptions:", 1))
    with pytest.raises(DataError, match="instructdiffusion compile") as caught:
        Server(server.address, TOKEN).submit(order("data", tmp_path, {}))
    assert "\n" not in str(caught.value)


def test_no_host_is_one_line_that_says_how_to_write_one(folder: Path) -> None:
    ended = command("data", "--compiled", str(folder), INSTRUCTDIFFUSION_PIPELINES_HOST="")
    assert ended.returncode == 2
    assert "--host" in ended.stderr
