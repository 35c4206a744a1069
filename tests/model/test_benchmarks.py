"""Benchmarks: the truth scores high, doing nothing scores the floor, and no sample is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
from drawings import COCO_JOINTS, coco, person, picture, ref, refer, stuff
from PIL import Image as Pillow

from instructdiffusion.model.benchmark import Benchmark, Case, Judge, Order, Tools
from instructdiffusion.model.benchmarks import benchmark_named, benchmarks
from instructdiffusion.model.benchmarks.perception import Semantic
from instructdiffusion.model.benchmarks.unseen import OF_68, landmarks
from instructdiffusion.model.endpoints import Endpoint, Folder, Still
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.metrics.pixels import CAP
from instructdiffusion.model.scoring import Report, merge, run
from instructdiffusion.model.task import Ask, Image

EMBEDDED = sorted(set(benchmarks()) - {"faces"})
FEW = Order(samples=3)


class Truth:
    """An editor that knows the answers of some cases, by source and instruction."""

    name = "truth"
    resolution = 0

    def __init__(self, cases: Sequence[Case]) -> None:
        self.answers: dict[tuple[bytes, str], Image] = {}
        for sample in (case.load() for case in cases):
            before = sample.source
            for ask, target in zip(sample.asks, sample.targets, strict=True):
                after = sample.source if target is None else target
                self.answers[before.tobytes(), ask.instruction] = after
                before = after

    def edit(self, pictures: Sequence[Image], asks: Sequence[Ask], seeds: Sequence[int]) -> list[Image]:
        return [self.answers[p.tobytes(), a.instruction] for p, a in zip(pictures, asks, strict=True)]

    def rebuilt(self, pictures: Sequence[Image], targets: Sequence[Image]) -> list[Image] | None:
        return None


def scored(benchmark: Benchmark, endpoint: Endpoint, out: Path, order: Order = FEW, **more: Any) -> Report:
    run(benchmark, endpoint, out, order, **more)
    return merge(out, resamples=20)


def numbers(report: Report) -> dict[str, float]:
    return {name: value.value for name, value in report.values.items() if value.value is not None}


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_truth_beats_doing_nothing_which_scores_its_floor(name: str, tmp_path: Path) -> None:
    benchmark = benchmark_named(name)
    truth = scored(benchmark, Truth(list(benchmark.cases(FEW))), tmp_path / "truth")
    still = scored(benchmark, Still(), tmp_path / "still")
    assert truth.n == still.n >= 3
    compared = 0
    for metric, value in numbers(truth).items():
        nothing = still.values[metric]
        assert nothing.value == nothing.floor == truth.values[metric].floor
        assert nothing.value is not None
        if nothing.value != value and metric not in ("background", "n_acc"):
            assert (value > nothing.value) == (truth.values[metric].spec.better == "higher")
            compared += 1
    assert compared or name in ("judged", "editing")  # without judge and CLIP there is only the background


@pytest.mark.parametrize("name", ["oks_ap", "mciou", "ciou", "psnr", "ap", "accuracy"])
def test_the_truth_read_back_is_nearly_perfect(name: str, tmp_path: Path) -> None:
    at = {"oks_ap": "keypoints", "mciou": "semantic", "ciou": "referring", "psnr": "restoration", "ap": "detection"}
    benchmark = benchmark_named(at.get(name, "classification"))
    order = Order(samples=6)
    found = numbers(scored(benchmark, Truth(list(benchmark.cases(order))), tmp_path, order))
    assert found[name] > {"psnr": 59, "oks_ap": 0.9, "ap": 0.9}.get(name, 0.99)


def test_a_model_folder_is_scored_beside_its_autoencoders_bound(tmp_path: Path) -> None:
    report = scored(benchmark_named("restoration"), Folder(None), tmp_path, FEW)
    value = report.values["psnr"]
    assert value.bound is not None
    assert value.value is not None
    assert value.bound > value.value
    assert set(report.slices) == {"deblur", "denoise", "watermark"}
    assert report.latency["p95"] >= report.latency["p50"] > 0
    assert report.editor.startswith("base@sha256:")


class Points:
    """A judge that is away at first."""

    spec_model = "somebody"

    def __init__(self) -> None:
        self.away, self.asked = True, 0

    def __call__(self, source: Image, output: Image, instruction: str) -> dict[str, float] | str:
        self.asked += 1
        return "the judge is away" if self.away else {"follows": 4.0, "quality": 9.0}


def test_a_judge_who_is_away_leaves_no_zero_and_is_asked_again(tmp_path: Path) -> None:
    points = Points()
    judge: Judge = points
    order, judged = Order(samples=1), benchmark_named("judged")
    report = scored(judged, Still(), tmp_path, order, tools=Tools(judge=judge))
    assert report.values["overall"].value is None
    assert "the judge is away); run again" in report.values["overall"].missing
    points.away = False
    report = scored(judged, Still(), tmp_path, order, tools=Tools(judge=judge))
    assert report.values["overall"].value == pytest.approx(6)
    asked = points.asked
    scored(judged, Still(), tmp_path, order, tools=Tools(judge=judge))
    assert points.asked == asked


def test_a_metric_whose_network_was_not_named_is_missing(tmp_path: Path) -> None:
    report = scored(benchmark_named("magicbrush"), Still(), tmp_path, Order(samples=1))
    assert report.values["clip_i"].missing == "no CLIP was named; give --clip"
    assert report.values["l1"].value is not None
    assert report.values["background"].value == CAP  # who changes nothing leaves alone what the truth does


def test_people_are_scored_in_the_picture_that_they_were_cut_from(tmp_path: Path) -> None:
    data = coco(tmp_path / "coco", person(3, 7, COCO_JOINTS), person(4, 7, COCO_JOINTS), split="val2017")
    benchmark, order = benchmark_named("keypoints"), Order(data=data, size=128)
    cases = list(benchmark.cases(order))
    assert len(cases) == 2 * 4  # 16 joints are annotated, five are asked for at a time
    report = scored(benchmark, Truth(cases), tmp_path / "out", order)
    assert report.values["oks_ap"].n == 1  # both are in one picture
    assert report.values["pck"].value == pytest.approx(1)
    assert numbers(report)["oks_ap"] > 0.9


def test_data_sets_are_read_for_the_benchmarks_of_their_task(tmp_path: Path) -> None:
    phrases = refer(tmp_path / "refer", ref(1, 1, "the house", split="val"), ref(2, 2, "grass", split="val"))
    region = ref(1, "807_1", "left half", split="val", image_id=807)
    maps = stuff(tmp_path / "stuff", split="val2017")
    for folder, name, metric in (
        (phrases, "referring", "ciou"),
        (published.refclef(tmp_path / "clef", region), "referring", "ciou"),
        (maps, "semantic", "mciou"),
        (maps, "detection", "ap"),
    ):
        benchmark, order = benchmark_named(name), Order(data=folder)
        report = scored(benchmark, Truth(list(benchmark.cases(order))), tmp_path / folder.name / name, order)
        assert numbers(report)[metric] > 0.95
    with pytest.raises(DataError, match="holds COCO-Stuff, made for segmentation; this benchmark reads referring"):
        list(benchmark_named("referring").cases(Order(data=maps)))
    trained = stuff(tmp_path / "train")
    with pytest.raises(DataError, match="no split to score on, only train2017"):
        list(benchmark_named("semantic").cases(Order(data=trained)))


@pytest.mark.parametrize(
    ("build", "split"),
    [(published.ade150, ""), (published.ade847, ""), (published.voc, ""), (published.pascal_context, "val-59")],
)
def test_what_nobody_labelled_may_be_painted_or_not(build: Callable[[Path], Path], split: str, tmp_path: Path) -> None:
    benchmark, order = benchmark_named("semantic"), Order(data=build(tmp_path / "set"), split=split)
    assert isinstance(benchmark, Semantic)
    cases = list(benchmark.cases(order))
    generous, careless = Truth(cases), Truth(cases)
    for sample in (case.load() for case in cases):
        (ask,), label = sample.asks, sample.label
        for editor, also in ((generous, label["void"]), (careless, ~label["void"])):
            painted = benchmark.task.paint(sample.source, {**label, "mask": label["mask"] | also}, ask)
            editor.answers[sample.source.tobytes(), ask.instruction] = painted
    for name, editor, low, high in (
        ("truth", Truth(cases), 0.95, 1),
        ("generous", generous, 0.95, 1),
        ("careless", careless, 0.1, 0.7),
    ):
        value = numbers(scored(benchmark, editor, tmp_path / name, order))["mciou"]
        assert low <= value <= high, name


def test_a_session_of_magicbrush_goes_on_from_what_the_model_made(tmp_path: Path) -> None:
    names = ["417-input.png", "417-output1.png", "417-output2.png"]
    for number, name in enumerate(names):
        gray = np.full((16, 16, 3), 80 * number, np.uint8)
        (tmp_path / "images/417").mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(gray).save(tmp_path / "images/417" / name)
    said = ["make it gray", "make it light"]
    turns = [{"input": names[i], "output": names[i + 1], "instruction": said[i]} for i in range(2)]
    (tmp_path / "edit_turns.json").write_text(json.dumps(turns))
    (tmp_path / "local_descriptions.json").write_text(json.dumps({"417": {names[2]: "something light"}}))
    order = Order(data=tmp_path)
    single, chained = benchmark_named("magicbrush"), benchmark_named("magicbrush-turns")
    (session,) = [case.load() for case in chained.cases(order)]
    assert [ask.instruction for ask in session.asks] == said
    assert session.label["captions"] == ["", "something light"]
    still = scored(single, Still(), tmp_path / "single", order).values
    assert still["l1"].value == pytest.approx(80 / 255)
    assert still["l1"].n == 1  # the turns of a session are one piece of evidence
    assert still["background"].value is None  # all of each picture changes
    assert scored(chained, Still(), tmp_path / "chained", order).values["l1"].value == pytest.approx(160 / 255)


def test_a_folder_of_samples_is_scored_by_what_it_tells(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    lines = [{"key": "1", "source": "1.png", "instruction": "Make it pretty.", "kind": "style"}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = scored(benchmark_named("judged"), Still(), tmp_path / "out", Order(data=tmp_path))
    assert report.values["background"].missing == "there are no samples"
    assert set(report.slices) == {"style"}
    (tmp_path / "samples.jsonl").write_text('{"key": "1"}')
    with pytest.raises(DataError, match="line 1 lacks key, source or instruction"):
        list(benchmark_named("editing").cases(Order(data=tmp_path)))


@pytest.mark.parametrize("name", ["restoration", "editing"])
def test_as_many_composed_samples_as_asked_for_are_of_all_kinds_in_turn(name: str) -> None:
    keys = [case.key for case in benchmark_named(name).cases(Order(samples=5))]
    assert len(set(keys)) == 5
    assert len({key.split("-")[2] for key in keys}) == {"restoration": 3, "editing": 4}[name]


def test_classes_are_read_from_a_folder_each_and_asked_for_four_at_a_time(tmp_path: Path) -> None:
    for name in ("cat", "dog", "cow", "hen", "golden_retriever"):
        picture(tmp_path / "val" / name / "1.png")
    picture(tmp_path / "val/dog/2.png")
    benchmark, order = benchmark_named("classification"), Order(data=tmp_path, split="val")
    cases = list(benchmark.cases(order))
    assert len(cases) == 4 * 6
    samples = [case.load() for case in cases]
    asked = {sample.label["choice"]: sample.asks[0].instruction for sample in samples}
    assert "golden retriever" in asked["golden_retriever"]
    assert all(sum(s.label["choice"] == s.label["truth"] for s in samples[i : i + 4]) == 1 for i in range(0, 24, 4))
    few = benchmark.cases(Order(data=tmp_path, split="val", samples=5))
    assert len({case.load().label["truth"] for case in few}) == 5  # the first of each class, not all of one
    accuracy = scored(benchmark, Still(), tmp_path / "out", order).values["accuracy"]
    assert (accuracy.value, accuracy.n, accuracy.bound) == (0.25, 6, None)
    with pytest.raises(DataError, match=r"holds 0 folders of pictures.* or theirs with --split"):
        list(benchmark.cases(Order(data=tmp_path)))


class Composed(Benchmark):
    """A benchmark that reads no data."""

    name = "composed"


def test_a_benchmark_that_reads_no_data_says_what_it_can_be_run_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="composed reads no data set; leave --data out"):
        list(Composed().cases(Order(data=tmp_path)))


def test_faces_in_two_folders_may_have_the_same_name(tmp_path: Path) -> None:
    points = "\n".join(f"{20 + 10 * x} {30 + 5 * x}" for x in range(5))
    for folder in ("indoor", "outdoor"):
        picture(tmp_path / folder / "1.png")
        (tmp_path / folder / "1.pts").write_text(f"{{\n{points}\n}}\n")
    report = scored(benchmark_named("faces"), Still(), tmp_path / "out", Order(data=tmp_path, size=64))
    assert report.values["nme"].n == 2


@pytest.mark.parametrize("count", [5, 68])
def test_faces_are_asked_for_five_landmarks_at_a_time(count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = [[20 + 24 * x, 8 + 30 * y] for x, y in rng.uniform(0, 1, (count, 2))]
    picture(tmp_path / "face.png")
    body = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points)
    (tmp_path / "face.pts").write_text(f"version: 1\nn_points: {count}\n{{\n{body}\n}}\n")
    benchmark, order = benchmark_named("faces"), Order(data=tmp_path, size=128)
    cases = list(benchmark.cases(order))
    assert len(cases) == -(-count // 5)
    report = scored(benchmark, Truth(cases), tmp_path / "out", order)
    assert report.values["nme"].n == 1
    assert numbers(report)["nme"] < 0.1 < (report.values["nme"].floor or 0)


def test_landmarks_have_names_and_other_files_are_refused(tmp_path: Path) -> None:
    assert len(set(OF_68)) == 68
    (tmp_path / "bad.pts").write_text("{\n1 2\n}")
    with pytest.raises(DataError, match="holds no 5 or 68 points"):
        landmarks(tmp_path / "bad.pts")
    with pytest.raises(ConfigError, match="faces has no embedded data; name a folder with --data"):
        list(benchmark_named("faces").cases(FEW))
