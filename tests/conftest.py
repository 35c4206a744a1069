"""What every test stands on: no network beyond this machine, no usage reports, two threads at most, ears for Ctrl-C."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Read by the libraries when they are imported, hence before any test is.
os.environ.update(
    {
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
os.environ.setdefault("OMP_NUM_THREADS", "2")

# A script's background jobs are started deaf to Ctrl-C, and so would be every command that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, a folder's tests go to one of them: they share servers that are slow to start."""
    root = Path(__file__).parent
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.relative_to(root).parts[0]))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's classes with weights of chance, for pictures of 32 pixels."""
    import tiny  # loads transformers, which most tests need not wait for

    return tiny.clip(tmp_path_factory.mktemp("clip"))
