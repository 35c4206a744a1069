"""What every test stands on: no network beyond this machine, no usage reports, two threads at most, ears for Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instructdiffusion.model.startup import collect_seldom

collect_seldom()  # a sixth of what collecting the tests takes, and seconds at their end
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
# Of two workers on two cores each computes on one; those of a worker wait for those of the other otherwise.
os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"

SCHEMAS = Path(__file__).parents[2] / "shared"  # what may lie beside the checkout
SHARED = ("charts", "labeling", "serving")  # folders whose tests share what is slow to start
RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# A script's background jobs are started deaf to Ctrl-C, and so would be every command that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, a file's tests go to one of them, or those of a folder that share servers."""
    root = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(root)
        item.add_marker(pytest.mark.xdist_group(place.parts[0] if place.parts[0] in SHARED else str(place)))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A training may run in the tests' own process: what it sets is undone."""
    import torch

    for name in RANK:
        monkeypatch.setenv(name, "")  # remembered, so that what the engine sets is undone
        monkeypatch.delenv(name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only wait for each other's threads
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def validate() -> Callable[[dict[str, Any]], list[tuple[str, str]]]:
    """What a cluster's API server would say to an object, custom resources by their own schemas, as (path, message)."""
    script = SCHEMAS / "tools" / "validate_manifests.py"
    if not script.is_file():
        pytest.skip("the folder with the schemas of custom resources is not beside this checkout")
    pytest.importorskip("kubernetes_validate")
    spec = importlib.util.spec_from_file_location("validate_manifests", script)
    assert spec is not None
    assert spec.loader is not None
    tools = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tools)
    kinds, customs, rules = tools.BuiltIn("1.34"), tools.CRDs([str(SCHEMAS / "crds")]), tools.make_cel()
    return lambda doc: list(tools.validate(doc, kinds, customs, rules, set()))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's classes with weights of chance, for pictures of 32 pixels."""
    import tiny  # loads transformers, which most tests need not wait for

    return tiny.clip(tmp_path_factory.mktemp("clip"))
