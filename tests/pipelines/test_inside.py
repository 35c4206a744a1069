"""What a step says when it can't go on."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from kfp import dsl

from instructdiffusion.model.errors import ConfigError, DataError, ServiceError
from instructdiffusion.pipelines.inside import inside
from instructdiffusion.pipelines.parameters import require

# As shutil tells of a folder's copy on a full disk, a file each.
FULL_COPY = shutil.Error([(f"/a/{name}", f"/b/{name}", f"[Errno 28] No space left: '/b/{name}'") for name in "xy"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("shard 3 is broken; delete it"), 3, "shard 3 is broken; delete it"),
        (ServiceError("the store is down; start it"), 4, "the store is down; start it"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x.tar"),
            3,
            "/data/x.tar: No space left on device; free",
        ),
        (FULL_COPY, 3, "/b/x: No space left on device; free"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), 3, "/data: Permission denied; check"),
    ],
)
def test_a_step_ends_with_one_line_and_its_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, inside("make something"):
        raise error
    assert ended.value.code == code
    first, last = (json.loads(told) for told in capsys.readouterr().out.splitlines())
    assert first == {"step": "make something"}
    assert last["error"].startswith(line)
    assert last["exit_code"] == code


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a step finds its GPUs")
def test_a_step_that_can_not_use_its_gpus_is_one_line_with_the_fix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCTDIFFUSION_GPUS", "2")
    with pytest.raises(SystemExit) as ended, inside("make something"):
        pytest.fail("it began")
    assert ended.value.code == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert "finds none of the GPUs (2) that this step was given" in told
    assert "--build-arg TORCH_INDEX=" in told
    assert "\n" not in told


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), inside("make something"):
        raise KeyError("x")


def test_measures_have_a_file_as_the_cache_wants(tmp_path: Path) -> None:
    metrics = dsl.Metrics(uri=str(tmp_path / "step" / "metrics"))
    with inside("make something") as here:
        here.measure(metrics, {"loss": 0.5, "seconds": 3.0})
    assert metrics.metadata == {"loss": 0.5, "seconds": 3.0} == json.loads(Path(metrics.path).read_text())


def test_a_step_refuses_a_parameter_that_the_pages_let_through() -> None:
    with pytest.raises(ConfigError, match=r"train_steps=-1: .*; recipe=base: input should be 'adapt', "):
        require(train_steps=-1, recipe="base")
