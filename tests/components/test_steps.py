"""Steps at tiny size: each does its work once, and moves what it made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instructdiffusion.components import fetch, screen, synthesize
from instructdiffusion.components.evaluate import scores
from instructdiffusion.components.evidence import Known
from instructdiffusion.components.policy import Policy, checked
from instructdiffusion.components.servers import Server
from instructdiffusion.components.step import MARK, Made, data_digest, once
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.components.train import job_name, relay
from instructdiffusion.model.data import photos
from instructdiffusion.model.data.shards import Manifest, read_triplets
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of

Writer = Callable[[], object]


def writer(out: Path, text: str, calls: list[str]) -> Writer:
    def write() -> None:
        calls.append(text)
        out.mkdir(exist_ok=True)
        (out / f"{text}.txt").write_text(text)

    return write


def test_the_same_work_is_done_once(tmp_path: Path) -> None:
    out, calls = tmp_path / "out", list[str]()
    first = once(out, {"seed": 1}, writer(out, "a", calls))
    assert once(out, {"seed": 1}, writer(out, "a", calls)) == first == digest_of(out)
    assert calls == ["a"]


def test_other_work_replaces_what_was_there(tmp_path: Path) -> None:
    out, calls = tmp_path / "out", list[str]()
    once(out, {"seed": 1}, writer(out, "a", calls))
    once(out, {"seed": 2}, writer(out, "b", calls))
    assert [path.name for path in out.glob("*.txt")] == ["b.txt"]


def test_damaged_work_is_done_again(tmp_path: Path) -> None:
    out, calls = tmp_path / "out", list[str]()
    first = once(out, {}, writer(out, "a", calls))
    (out / "a.txt").write_text("spoilt")
    assert once(out, {}, writer(out, "a", calls)) == first
    assert calls == ["a", "a"]


def test_work_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def cut_off() -> None:
        (out / "half.txt").write_text("kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(out, {"seed": 1}, cut_off)
    once(out, {"seed": 1}, writer(out, "rest", []))
    assert (out / "half.txt").read_text() == "kept"


def test_a_folder_of_someone_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(DataError, match=r"holds thesis\.txt, which this step did not make; give another folder"):
        once(tmp_path, {"seed": 1}, writer(tmp_path, "a", []))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("seed", [1, 2])
def test_what_someone_put_beside_finished_work_is_not_removed_with_it(seed: int, tmp_path: Path) -> None:
    once(tmp_path, {"seed": 1}, writer(tmp_path, "a", []))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("important")
    with pytest.raises(DataError, match=r"holds notes/mine\.txt, which this step did not make"):
        once(tmp_path, {"seed": seed}, writer(tmp_path, "b", []))
    assert (tmp_path / "notes" / "mine.txt").read_text() == "important"
    assert (tmp_path / "a.txt").exists()


def test_other_work_may_be_done_in_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    once(Path(), {"seed": 1}, writer(Path(), "a", []))
    once(Path(), {"seed": 2}, writer(Path(), "b", []))
    assert [path.name for path in tmp_path.glob("*.txt")] == ["b.txt"]


def test_a_model_whose_copy_was_stopped_at_its_end_is_copied_again(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "model"

    def stopped() -> None:
        fetch.copy(folder, out)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(out, {"model": "a"}, stopped)
    assert once(out, {"model": "b"}, lambda: fetch.copy(folder, out)) == digest_of(folder)


def made(tmp_path: Path, **more: Any) -> Made:
    counts = {"remove": 3, "denoise": 2}
    return synthesize.run(tmp_path / "data", split="train", counts=counts, size=32, seed=0, **more)


def test_synthesized_data_is_uploaded_by_its_content(tmp_path: Path, store: Store) -> None:
    first = made(tmp_path, store=store)
    assert first.uri == f"s3://instructdiffusion/datasets/{first.digest.replace(':', '-')}"
    assert first.facts["counts"] == {"remove": 3, "denoise": 2}
    back = store.get_directory(first.uri, tmp_path / "back")
    assert len(list(read_triplets(back))) == 5
    assert json.loads(json.dumps(first.document()))["digest"] == digest_of(back)
    assert json.loads((first.path / MARK).read_text())["inputs"]["photographs"] == photos.digest("train")


def test_a_folder_without_a_manifest_is_said_to_be_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path} holds no manifest\.json: not a finished data set; run"):
        data_digest(tmp_path)


def test_scores_are_named_by_task_and_metric() -> None:
    row = {"metric": "iou", "value": 0.7, "low": 0.65, "high": 0.75, "floor": 0.0, "bound": 0.9, "n": 200}
    values = scores({"tasks": {"segmentation": row}})
    assert values["segmentation/iou"] == 0.7
    assert values["segmentation/iou_low"] == 0.65
    assert len(values) == 5


class Heard:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.told.append(("metrics", values, step))

    def progress(self, done: int, total: int, text: str) -> None:
        self.told.append(("progress", done, total, text))

    def image(self, name: str, file: Path, step: int) -> None:
        self.told.append(("image", name, file.read_bytes(), step))


def test_events_of_a_training_reach_the_reporter(tmp_path: Path) -> None:
    (tmp_path / "grid.png").write_bytes(b"a picture")
    heard = Heard()
    for event in (
        {"progress": 3, "total": 10, "text": "loss 0.1"},
        {"metrics": {"loss": 0.1}, "step": 3},
        {"image": "grid", "path": str(tmp_path / "grid.png"), "step": 3},
        {"metrics": "none"},
        {"image": "gone", "path": str(tmp_path / "gone.png"), "step": 3},
        {"image": "grid", "path": str(tmp_path / "grid.png")},
        {"other": 1},
    ):
        relay(heard)(event)
    assert heard.told == [
        ("progress", 3, 10, "loss 0.1"),
        ("metrics", {"loss": 0.1}, 3),
        ("image", "grid", b"a picture", 3),
    ]


def test_a_job_is_named_by_what_it_trains_on() -> None:
    assert job_name("Adapt, nano", {"data": "a"}) == job_name("Adapt, nano", {"data": "a"})
    assert job_name("Adapt, nano", {"data": "a"}) != job_name("Adapt, nano", {"data": "b"})
    assert job_name("Adapt, nano", {}).startswith("adapt-nano-")
    assert job_name("7", {}).startswith("train-")


def test_what_leaks_is_refused_or_left_out_and_the_report_kept(tmp_path: Path) -> None:
    synthesize.run(tmp_path / "train", split="train", counts={"denoise": 3}, size=32, seed=0)
    synthesize.run(tmp_path / "held-out", split="test", counts={"denoise": 3}, size=32, seed=0)
    where = tmp_path / "train", tmp_path / "out", tmp_path / "held-out"
    made = screen.run(*where)
    assert made.facts["leaks"]["clean"] is True
    assert made.facts["counts"] == {"denoise": 3}
    scored = {"tasks": {}, "model": "sha256:m", "data": digest_of(tmp_path / "held-out/manifest.json")}
    (check,) = checked(Policy(leak="required"), scored, Known.model_validate({"leak": made.facts["leaks"]}))
    assert check.passed, check.told
    assert screen.run(*where).digest == made.digest
    with pytest.raises(DataError, match="3 of 3 triplets"):
        screen.run(*where, others=[str(tmp_path / "train")])
    with pytest.raises(ConfigError, match="leaking='ask': choose refuse or drop"):
        screen.run(*where, leaking="ask")
    with pytest.raises(ConfigError, match="s3://bucket/bench is in an object store and none is set"):
        screen.run(*where, others=["s3://bucket/bench:test"])


def test_what_a_filter_kept_is_told_to_the_tracker_with_its_report(
    tmp_path: Path, tracking_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step as the pipeline runs it."""
    from kfp import dsl

    from instructdiffusion.pipelines import data_steps

    for key, value in tracking_server.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("INSTRUCTDIFFUSION_EXPERIMENT", tmp_path.name)
    synthesize.run(tmp_path / "made", split="train", counts={"remove": 3, "denoise": 2}, size=32, seed=0)
    source = dsl.Dataset(uri=str(tmp_path / "made"), metadata={"name": "mine", "triplets": 5})
    kept, page, metrics = dsl.Dataset(uri=str(tmp_path / "kept")), dsl.HTML(uri=str(tmp_path / "page")), dsl.Metrics()
    metrics.uri = str(tmp_path / "metrics")
    audit = dsl.Artifact(uri=str(tmp_path / "audit"))
    data_steps.filter.python_func(
        source=source, policy="embedded", shards=kept, audit=audit, page=page, metrics=metrics
    )
    assert len(list((tmp_path / "audit/pictures").iterdir())) == 5

    tracker = Tracker(tracking_server.address, tmp_path.name)
    run = tracker.open_run("", key=f"data-{kept.metadata['digest'].removeprefix('sha256:')[:12]}")
    found = tracker.client.get_run(run.run_id)
    assert found.inputs
    (told,) = [row.dataset for row in found.inputs.dataset_inputs]
    assert (told.name, told.digest) == ("mine", kept.metadata["digest"].removeprefix("sha256:")[:32])
    left = Manifest.load(tmp_path / "kept").counts
    assert found.data.metrics == {f"triplets/{task}": count for task, count in left.items()}
    report = tracker.client.download_artifacts(run.run_id, "data-quality.html", str(tmp_path))
    assert Path(report).read_text() == (tmp_path / "page").read_text()
    document = tracker.client.download_artifacts(run.run_id, "manifest.json", str(tmp_path))
    assert Manifest.model_validate_json(Path(document).read_text()) == Manifest.load(tmp_path / "kept")
