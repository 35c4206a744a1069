"""Real torchrun processes on this machine, started from a TrainJob object."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from instructdiffusion.components.launcher import GRACE, Killed, launch, sees_gpu
from instructdiffusion.components.trainjob import FromSecret, train_job
from instructdiffusion.model.errors import ConfigError, ServiceError

SUM = """
import json, os, sys
import torch.distributed as dist, torch
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
print("rank", dist.get_rank(), "of", dist.get_world_size())
print(json.dumps({"progress": 1, "total": 1, "text": f"sum {total.item():.0f}"}))
if dist.get_rank() == 0:
    kept = ("PET_", "DS_", "GLOO_", "OMP_", "TORCH_", "MINE")
    print(json.dumps({"environment": {k: v for k, v in os.environ.items() if k.startswith(kept)}}))
dist.destroy_process_group()
"""
WAIT = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1], f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
"""
FAIL = (
    """
import os, sys
if os.environ["RANK"] == "1":
    raise ValueError("the shard train-3.tar is damaged")
"""
    + WAIT
    + "time.sleep(600)"
)


def job(folder: Path, program: str, *, nodes: int = 1, processes: int = 2, **more: Any) -> dict[str, Any]:
    """A job that runs a program."""
    script = folder / "script.py"
    script.write_text(program)
    command = ["python", str(script), str(folder)]
    return train_job("test", command, nodes=nodes, processes_per_node=processes, image="x:1", **more)


def test_ranks_of_two_nodes_meet_and_the_first_one_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    lines: list[str] = []
    events: list[dict[str, Any]] = []
    made = job(tmp_path, SUM, nodes=2, processes=1, env={"MINE": "yes"})
    launch(made, logs=tmp_path / "logs", on_line=lines.append, on_event=events.append)
    assert [line for line in lines if line.startswith("rank")] == ["rank 0 of 2"]
    assert events[0] == {"progress": 1, "total": 1, "text": "sum 3"}
    seen = events[1]["environment"]
    assert (seen["PET_NNODES"], seen["PET_NPROC_PER_NODE"]) == ("2", "1")
    assert (seen["DS_ACCELERATOR"], seen["MINE"]) == ("cpu", "yes")
    assert seen["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert float(seen["PET_SHUTDOWN_TIMEOUT"]) == GRACE  # a rank has as long to save as we wait
    assert int(seen["OMP_NUM_THREADS"]) >= 1


def test_what_suits_this_machine_is_never_put_over_what_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"DS_ACCELERATOR": "cuda", "GLOO_SOCKET_IFNAME": "eth7", "CUDA_VISIBLE_DEVICES": ""}
    said["PET_SHUTDOWN_TIMEOUT"] = "120"  # a large model takes longer to save
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    events: list[dict[str, Any]] = []
    program = f"import json, os; print(json.dumps({{name: os.environ[name] for name in {[*said]}}}))"
    launch(job(tmp_path, program, processes=1), logs=tmp_path / "logs", on_event=events.append)
    assert events == [said]


@pytest.mark.parametrize(
    ("files", "environment", "seen"),
    [
        (["nvidia0", "nvidiactl"], {}, True),
        (["dxg"], {}, True),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": "1"}, True),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": ""}, False),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": "-1"}, False),
        (["nvidiactl", "null"], {}, False),
    ],
)
def test_a_gpu_is_seen_by_its_file_unless_it_is_hidden(
    files: list[str], environment: dict[str, str], seen: bool, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert sees_gpu(environment, tmp_path) == seen


def test_a_failing_rank_is_named_with_its_reason_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as caught:
        launch(job(tmp_path, FAIL), logs=tmp_path / "logs")
    message = str(caught.value)
    assert "rank 1 ended with exit code 1: ValueError: the shard train-3.tar is damaged" in message
    assert "\n" not in message
    assert living(tmp_path) == []


def test_a_killed_rank_is_named_with_its_signal_and_ends_the_others(tmp_path: Path) -> None:
    killer = threading.Thread(target=kill_when_there, args=(tmp_path / "pid-1",))
    killer.start()
    with pytest.raises(Killed, match=r"rank 1 ended with signal SIGKILL"):
        launch(job(tmp_path, WAIT + "time.sleep(600)"), logs=tmp_path / "logs")
    killer.join()
    assert living(tmp_path) == []


def test_an_interrupt_ends_every_rank(tmp_path: Path) -> None:
    program = WAIT + "print('started'); time.sleep(600)"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(job(tmp_path, program), logs=tmp_path / "logs", on_line=interrupt)
    assert list(tmp_path.glob("pid-*")) != []
    assert living(tmp_path) == []


def test_a_script_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    made = train_job("test", ["python", str(tmp_path / "no.py")], nodes=1, processes_per_node=1, image="x:1")
    with pytest.raises(ServiceError, match=r"can't open file.*no\.py"):
        launch(made, logs=tmp_path / "logs")


def test_a_secret_comes_from_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(tmp_path, "import os; print('{\"got\": \"' + os.environ['KEY_X'] + '\"}')", processes=1)
    made = {**made, "spec": {**made["spec"], "trainer": {**made["spec"]["trainer"], "env": secret()}}}
    with pytest.raises(ConfigError, match="KEY_X is not set"):
        launch(made, logs=tmp_path / "logs")
    monkeypatch.setenv("KEY_X", "ours")
    events: list[dict[str, Any]] = []
    launch(made, logs=tmp_path / "logs", on_event=events.append)
    assert events == [{"got": "ours"}]


def secret() -> list[dict[str, Any]]:
    made = train_job(
        "x", ["python", "x"], nodes=1, processes_per_node=1, image="x:1", env={"KEY_X": FromSecret("s", "k")}
    )
    env: list[dict[str, Any]] = json.loads(json.dumps(made["spec"]["trainer"]["env"]))
    return env


def test_a_grace_that_is_no_number_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_SHUTDOWN_TIMEOUT", "2m")
    with pytest.raises(ConfigError, match=r"PET_SHUTDOWN_TIMEOUT=2m is no number of seconds; write one"):
        launch(job(tmp_path, "", processes=1), logs=tmp_path / "logs")


def kill_when_there(path: Path) -> None:
    """SIGKILL the rank that wrote its id to `path`."""
    deadline = time.monotonic() + 300
    while not (path.exists() and path.read_text()):
        if time.monotonic() > deadline:
            sys.exit("the rank did not start")
        time.sleep(0.05)
    psutil.Process(int(path.read_text())).kill()


def living(folder: Path) -> list[int]:
    """Ranks that still run, twenty seconds after the launch ended at most."""
    pids = [int(path.read_text()) for path in folder.glob("pid-*")]
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if psutil.pid_exists(pid)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []
