"""The shape of the repository, as docs/decisions/0001-one-namespace.md wants it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from instructdiffusion.model.startup import hidden

ROOT = Path(__file__).parents[1]
PACKAGES = ("model", "components", "pipelines", "serving", "labeling")
TOP = {
    *PACKAGES,
    *("charts", "tests", "docs", "bench"),
    *(".ci", ".git", ".gitignore", "Makefile", "pyproject.toml", "constraints.txt"),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"),
}
# Each of these costs from a tenth of a second to ten; a command that only prints its help needs none.
HEAVY = (
    *("torch", "diffusers", "transformers", "accelerate", "deepspeed", "webdataset"),
    *("skimage", "sklearn", "scipy", "cv2", "faiss", "matplotlib", "pandas"),
    *("kfp", "mlflow", "bentoml", "kserve", "kubernetes", "minio", "label_studio_sdk", "fastapi", "scrapy"),
)


def modules() -> list[str]:
    """Every module of the project, `__main__` apart: importing that one runs it."""
    files = [file.relative_to(ROOT / p) for p in PACKAGES for file in (ROOT / p).rglob("*.py")]
    names = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
    return sorted(name for name in names if not name.endswith("__main__"))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_shared_namespace_has_no_init_file(package: str) -> None:
    namespace = ROOT / package / "instructdiffusion"
    assert [path.name for path in namespace.iterdir() if path.name != "__pycache__"] == [package]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_what_it_is(package: str) -> None:
    assert importlib.import_module(f"instructdiffusion.{package}").__doc__


def test_the_top_level_holds_only_what_it_should() -> None:
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    found = {path.name for path in ROOT.iterdir()}
    assert sorted(name for name in found - TOP if not any(fnmatch(name, rule) for rule in ignored)) == []


@pytest.mark.parametrize("module", modules())
def test_every_module_can_be_imported(module: str) -> None:
    importlib.import_module(module)


def test_help_loads_no_heavy_library() -> None:
    program = (
        "import atexit, json, sys;"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules)), file=sys.stderr));"
        "from instructdiffusion.pipelines.cli import main;"
        "sys.argv = ['instructdiffusion', '--help'];"
        "main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "demo" in ended.stdout
    loaded = json.loads(ended.stderr.splitlines()[-1])
    assert sorted(set(HEAVY).intersection(loaded)) == []


def test_a_process_that_ends_looks_for_no_garbage_among_what_it_imported() -> None:
    program = (
        "import atexit, gc;"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 100));"
        "from instructdiffusion.model.startup import collect_seldom;"
        "collect_seldom()"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "True"]


def test_what_is_hidden_is_not_found_for_a_while() -> None:
    assert "this" not in sys.modules
    with hidden("this", "json"):
        assert importlib.util.find_spec("this") is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("this")
        assert importlib.import_module("json") is json  # it was there already
    assert importlib.util.find_spec("this") is not None


def test_tests_that_run_as_a_background_job_start_commands_that_hear_ctrl_c() -> None:
    heard = "import signal, subprocess, sys; subprocess.run([sys.executable, '-c', 'import signal; {}'])"
    program = heard.format("print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)")
    script = """trap '' INT; "$0" -c "$1"; "$0" -c "import conftest; $1" """
    told = subprocess.run(
        ["sh", "-c", script, sys.executable, program], cwd=ROOT / "tests", capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["False", "True"]
