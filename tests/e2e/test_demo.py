"""The demo as a newcomer runs it, at its smallest: interrupted on the way, run again, and looked at.

With SCREENSHOTS=docs/images it also renews the pictures of a version's page in the registry and of two steps' pages;
with DEMO=out/demo beside it they are of that demo, and none is run: `-k page_of`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from browser import opened
from PIL import Image as Pillow

from instructdiffusion.components.servers import mlflow_server
from instructdiffusion.model.tasks import TASKS

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
PATIENCE = 800  # seconds: a machine that is busy elsewhere takes many times what an idle one does


@dataclass
class Demo:
    """What both tries left."""

    out: Path
    interrupted: int  # exit code of the first try
    line: str  # and its last line
    left: list[str]  # processes that it left
    summary: dict[str, Any]  # of the second
    log: str  # its pipeline's


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    if there := os.environ.get("DEMO"):
        return Demo(Path(there), 0, "", [], json.loads((Path(there) / "summary.json").read_text()), "")
    out = tmp_path_factory.mktemp("demo")
    first = start(out)
    wait_for(out / "pipeline" / "pipeline.log", "Executing task 'train'", first)
    first.send_signal(signal.SIGINT)
    _, error = first.communicate(timeout=PATIENCE)
    left = servers(out)
    second = start(out)
    printed, complaint = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, complaint
    log = (out / "pipeline" / "pipeline.log").read_text()
    return Demo(out, first.returncode, error.strip().splitlines()[-1], left, json.loads(printed), log)


def start(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "instructdiffusion.pipelines", "demo", "--quick", "--json", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def wait_for(log: Path, text: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if log.is_file() and text in log.read_text().replace("\x1b[96m", "").replace("\x1b[0m", ""):
            return
        time.sleep(0.2)
    raise AssertionError(f"{text!r} was not reached: {process.communicate()[1]}")


def servers(out: Path) -> list[str]:
    """Command lines of processes that have to do with the folder."""
    found = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in found if str(out) in line]


def test_an_interrupted_demo_says_how_to_go_on_and_leaves_nothing_running(demo: Demo) -> None:
    assert demo.interrupted == 130
    assert "run the same command again" in demo.line
    assert demo.left == []


def test_what_was_finished_before_is_not_done_again(demo: Demo) -> None:
    assert "Executing task" in demo.log
    assert "'synthesize'" not in demo.log
    assert "'filter'" not in demo.log


def test_every_task_has_a_score_with_its_interval_floor_and_bound(demo: Demo) -> None:
    assert demo.summary["tasks"].keys() == TASKS.keys()
    for score in demo.summary["tasks"].values():
        assert {"metric", "value", "low", "high", "floor", "bound", "n"} == score.keys()
        assert score["low"] <= score["value"] <= score["high"]


def test_the_alignment_is_measured_against_a_control(demo: Demo) -> None:
    alignment = demo.summary["alignment"]
    assert alignment["n"] == 2 * len(TASKS)
    difference = alignment["aligned"]["value"] - alignment["control"]["value"]
    assert alignment["gain"]["value"] == pytest.approx(difference, abs=1e-9)


def test_the_service_answered_every_task_with_its_typed_result(demo: Demo) -> None:
    found = {answer["task"]: answer["found"] for answer in demo.summary["served"]}
    assert found.keys() == TASKS.keys()
    assert found["keypoint"]["kind"] == "joints"
    regions = {task: answer for task, answer in found.items() if task not in ("keypoint", "segmentation")}
    assert all(answer is None or answer["kind"] == "region" for answer in regions.values())
    assert found["segmentation"]["kind"] in ("region", "nothing")  # it is asked for a class that may be absent
    assert all(found[name] is None for name, task in TASKS.items() if task.family == "restoration")


def test_what_it_took_is_written_down(demo: Demo) -> None:
    summary = demo.summary
    assert summary == json.loads((demo.out / "summary.json").read_text())
    assert 0.5 < summary["peak_gib"] < 8
    assert summary["seconds"] > 0
    assert summary["versions"]["kfp"] == "2.17.0"
    names = [step["name"] for step in summary["steps"]]
    assert len(names) == len(set(names))
    assert {"filter", "train (align)", "train (control)", "gate (align)", "deploy"} <= set(names)


def test_the_report_holds_its_pictures(demo: Demo) -> None:
    text = (demo.out / "report.html").read_text()
    assert text.count("data:image/png;base64,") >= len(TASKS)
    assert "http://" not in text.replace("http://www.w3.org", "")


@pytest.mark.parametrize(("name", "split"), [("held-out", "test"), ("training", "train")])
def test_a_version_keeps_the_manifest_of_its_data(demo: Demo, name: str, split: str) -> None:
    kept = list((demo.out / "tracker").rglob(f"version-*/data/{name}/manifest.json"))
    manifests = [json.loads(file.read_text()) for file in kept]
    assert {manifest["split"] for manifest in manifests} == {split}
    assert all(manifest["licences"] for manifest in manifests)


def test_the_page_of_a_version_is_what_a_lead_sees(demo: Demo, tmp_path: Path) -> None:
    kept = Path(os.environ.get("SCREENSHOTS") or tmp_path) / "registry.png"
    with mlflow_server(demo.out / "tracker") as server, opened(1066, 1480) as (page, _):
        page.goto(f"{server.address}/#/models/instructdiffusion/versions/2")
        page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()
        page.wait_for_function("document.querySelector('img[src*=sheet-small]')?.naturalWidth")
        page.screenshot(path=kept)
        text = page.locator("body").inner_text()
    assert "Held against version 1, the champion then." in text
    assert "manifest of held-out · manifest of training" in text
    assert kept.stat().st_size > 50_000


def test_the_page_of_a_step_is_what_an_engineer_sees(demo: Demo, tmp_path: Path) -> None:
    kept = Path(os.environ.get("SCREENSHOTS") or tmp_path) / "kubeflow-steps.jpg"
    both, pages = Pillow.new("RGB", (1242, 930), "silver"), dict[str, str]()
    with opened(620, 930) as (page, _):
        for left, step in ((0, "evaluate"), (622, "rank")):
            (file,) = demo.out.glob(f"pipeline/steps/*/{step}/page")
            page.set_content(file.read_text())
            both.paste(Pillow.open(BytesIO(page.screenshot())), (left, 0))
            pages[step] = page.locator("body").inner_text()
    both.save(kept)
    assert "Contact sheets: source, output and target of each sample." in pages["evaluate"]
    assert all(task in pages["evaluate"] for task in TASKS)
    assert "green: picked" in pages["rank"]


def test_no_server_is_left(demo: Demo) -> None:
    assert servers(demo.out) == []
