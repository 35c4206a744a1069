"""Work spread over processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from instructdiffusion.model.data.workers import spread
from instructdiffusion.model.errors import ConfigError

ENDLESS = """
import sys, time
from collections.abc import Callable
from pathlib import Path
from instructdiffusion.model.data.workers import spread

def work(folder):
    Path(folder, "working").write_text("yes")
    time.sleep(600)

if __name__ == "__main__":
    list(spread(work, [sys.argv[1]] * 2, 2))
"""


def test_results_come_in_order_from_any_number_of_workers() -> None:
    assert list(spread(abs, [-3, 2, -1], 1)) == list(spread(abs, [-3, 2, -1], 2)) == [3, 2, 1]


def test_a_worker_computes_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [*spread(eval, ["__import__('torch').get_num_threads()", "__import__('cv2').getNumThreads()"], 2)] == [1, 1]


def test_a_worker_that_dies_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match="a worker died"):
        list(spread(os._exit, [1, 1], 2))


def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    try:
        _until(lambda: (tmp_path / "working").exists())
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert workers
    finally:
        parent.kill()
        parent.wait()
    _until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
