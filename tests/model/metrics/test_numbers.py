"""Metrics against reference implementations, numbers worked out by hand, and properties that always hold."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import ValidationError

from instructdiffusion.model.data import lexicon
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.interval import interval_of
from instructdiffusion.model.metrics import Preprocessing, Spec, Value, measured, missing
from instructdiffusion.model.metrics.answers import accuracy
from instructdiffusion.model.metrics.coco import AP, Matches, precision
from instructdiffusion.model.metrics.joints import AS_COCO, keypoints, nme, pck, sigma
from instructdiffusion.model.metrics.pixels import TOLERANCE, background, changed, l1, l2, like, psnr, ssim
from instructdiffusion.model.metrics.regions import Overlap, ciou, giou, mciou, n_acc, overlap, t_acc
from instructdiffusion.model.metrics.value import mean
from instructdiffusion.model.task import psnr as task_psnr

PICTURES = arrays(np.uint8, (9, 8, 3))
MASKS = arrays(np.bool_, (6, 5))
NAMES = lexicon.COCO


def people(seed: int, pictures: int = 12) -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
    """People with joints, some not annotated, and what was found of them: near, far, or not at all."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(pictures):
        there, guessed = [], []
        for _ in range(int(rng.integers(0, 4))):
            points = rng.uniform(0, 100, (17, 2))
            seen = rng.choice([0, 1, 2], 17, p=[0.2, 0.2, 0.6])
            if not seen.any():
                continue
            box = [*points.min(0), *np.ptp(points, 0)]
            flat = np.column_stack([points, seen]).ravel().tolist()
            area = float(0.6 * box[2] * box[3])
            there.append({"category_id": 1, "bbox": [float(b) for b in box], "area": area, "keypoints": flat})
            if rng.random() < 0.9:
                moved = points + rng.normal(0, rng.choice([1, 4, 12]), (17, 2))
                flat = np.column_stack([moved, np.ones(17)]).ravel().tolist()
                around = [*moved.min(0).tolist(), *np.ptp(moved, 0).tolist()]
                score = round(float(rng.random()), 1)  # ties are the rule
                guessed.append({"category_id": 1, "bbox": around, "keypoints": flat, "score": score})
        truths.append(there)
        found.append(guessed)
    return truths, found


def boxes(seed: int, pictures: int = 15) -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
    """Boxes of three classes, and guesses at them of which some are wrong."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(pictures):
        there: list[dict[str, Any]] = [
            {"category_id": int(rng.integers(1, 4)), "bbox": [*rng.uniform(0, 60, 2), *rng.uniform(4, 40, 2)]}
            for _ in range(int(rng.integers(0, 5)))
        ]
        guesses = [
            {**o, "bbox": [b + e for b, e in zip(o["bbox"], rng.normal(0, 2, 4), strict=True)], "score": rng.random()}
            for o in there
        ]
        guesses.append({"category_id": 2, "bbox": [1.0, 1.0, 9.0, 9.0], "score": float(rng.random())})
        truths.append(there)
        found.append(guesses)
    return truths, found


def reference(kind: Literal["bbox", "keypoints"], truths: Any, found: Any) -> tuple[float, float]:
    """AP and AR as pycocotools' own `summarize` tells them."""
    images = [{"id": i + 1} for i in range(len(truths))]
    annotations = [
        {"area": o["bbox"][2] * o["bbox"][3], **o, "image_id": i + 1, "iscrowd": 0}
        for i, there in enumerate(truths)
        for o in there
    ]
    for number, one in enumerate(annotations, 1):
        one["id"] = number
        if "keypoints" in one:
            one["num_keypoints"] = sum(v > 0 for v in one["keypoints"][2::3])
    results = [{**o, "image_id": i + 1} for i, there in enumerate(found) for o in there]
    with redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = {"images": images, "annotations": annotations, "categories": [{"id": c} for c in (1, 2, 3)]}
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(results), kind)
        if kind == "keypoints":
            evaluation.params.catIds = [1]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[5 if kind == "keypoints" else 8])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["keypoints", "bbox"])
def test_average_precision_and_recall_are_those_of_pycocotools(kind: Literal["bbox", "keypoints"], seed: int) -> None:
    truths, found = (people if kind == "keypoints" else boxes)(seed)
    matches = Matches(kind, truths, found, [sigma(name) for name in NAMES] if kind == "keypoints" else None)
    at = np.arange(len(truths))
    ap, ar = reference(kind, truths, found)
    assert 0.05 < ap < 0.95
    assert matches.precision(at) == pytest.approx(ap, abs=1e-6)
    assert matches.recall(at) == pytest.approx(ar, abs=1e-6)


def test_pictures_drawn_again_score_as_if_they_were_evaluated_by_themselves() -> None:
    truths, found = boxes(7)
    at = np.array([3, 5, 8, 9, 3])
    alone = reference("bbox", [truths[i] for i in at], [found[i] for i in at])
    assert Matches("bbox", truths, found).precision(at) == pytest.approx(alone[0], abs=1e-6)


def test_nothing_found_is_no_precision_and_everything_found_is_all_of_it() -> None:
    truths, _ = boxes(1)
    at = np.arange(len(truths))
    assert Matches("bbox", truths, [[] for _ in truths]).precision(at) == 0
    assert Matches("bbox", truths, [[{**o, "score": 1.0} for o in there] for there in truths]).precision(at) == 1


def test_a_joint_is_measured_by_cocos_sigma_and_a_paw_by_that_of_a_hand_or_foot() -> None:
    assert (sigma("left hip"), sigma("right eye"), sigma("nose"), sigma("tail")) == (0.107, 0.025, 0.026, 0.05)
    assert {name for name in lexicon.AP_10K if name not in AS_COCO} == {"neck", "root of the tail"}
    assert set(AS_COCO.values()) <= set(lexicon.COCO)
    assert AS_COCO["left back paw"] == "left ankle"
    assert sigma("left back paw") == sigma("left ankle")


def test_a_joint_that_is_missing_is_neither_wanted_nor_near() -> None:
    assert keypoints({"nose": (3, 4)}, ("left eye", "nose")) == [0, 0, 0, 3, 4, 2]


def test_joints_within_a_tenth_of_the_box_count_as_found() -> None:
    wanted = {"nose": (0.0, 0.0), "left eye": (10.0, 0.0), "neck": (0.0, 5.0)}
    assert pck({"nose": (6.0, 8.0), "left eye": (10.0, 10.1)}, wanted, 100.0) == [1, 0, 0]


def test_the_error_of_a_face_is_measured_by_the_distance_of_the_eyes() -> None:
    wanted = {"left eye": (0.0, 0.0), "right eye": (40.0, 0.0), "nose": (20.0, 20.0)}
    found = {"left eye": (0.0, 4.0), "right eye": (40.0, 0.0)}
    assert nme(found, wanted, ("left eye", "right eye"), 64) == pytest.approx((4 + 0 + 64) / 3 / 40)
    with pytest.raises(DataError, match="leave it out"):
        nme(found, {"nose": (1.0, 1.0)}, ("left eye", "right eye"), 64)


def test_cumulative_iou_sums_before_it_divides_and_classes_weigh_the_same() -> None:
    small, large = Overlap(1, 2, True, True), Overlap(10, 40, True, True)
    at = np.arange(2)
    assert ciou([[small], [large]])(at) == pytest.approx(11 / 42)
    assert mciou([[("cat", small)], [("dog", large)]])(at) == pytest.approx((1 / 2 + 10 / 40) / 2)
    absent = Overlap(0, 30, False, True)
    assert mciou([[("cat", small)], [("cat", absent)]])(at) == pytest.approx(1 / 32)  # what is found in vain counts
    assert mciou([[("cat", small)], [("dog", absent)]])(at) == pytest.approx(1 / 2)  # a class that is nowhere does not


def test_without_a_target_finding_nothing_is_right() -> None:
    right, wrong = Overlap(0, 0, False, False), Overlap(0, 9, False, True)
    hit, lost = Overlap(6, 8, True, True), Overlap(0, 8, True, False)
    assert [giou(o) for o in (right, wrong, hit, lost)] == [1, 0, 0.75, 0]
    assert n_acc([right, wrong, hit]) == [1, 0]
    assert t_acc([right, hit, lost]) == [1, 0]


def test_the_class_of_the_highest_score_is_the_answer_and_a_tie_is_shared() -> None:
    assert accuracy({"cat": 0.7, "dog": 0.3}, "cat") == 1
    assert accuracy({"cat": 0.7, "dog": 0.3}, "dog") == 0
    assert accuracy(dict.fromkeys(("cat", "dog", "cow", "hen"), 0.0), "hen") == 0.25


def test_pixels_score_as_by_hand() -> None:
    source = np.full((8, 8, 3), 100, np.uint8)
    output = source.copy()
    output[:4] = 110
    assert psnr(output, source) == pytest.approx(10 * np.log10(255**2 / 50))
    assert l1(output, source) == pytest.approx(5 / 255)
    assert l2(output, source) == pytest.approx(50 / 255**2)
    changes = np.zeros((8, 8), np.bool_)
    changes[:4] = True
    assert background(output, source, changes) == 60
    assert background(output, source, ~changes) == pytest.approx(10 * np.log10(255**2 / 100))
    assert background(output, source, np.ones((8, 8), np.bool_)) is None


def test_what_a_target_changes_is_found_with_its_rim_whatever_saving_did_to_the_rest() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(60, 180, (64, 96, 3), dtype=np.uint8)
    target = source + rng.integers(-TOLERANCE, TOLERANCE, source.shape, dtype=np.int8, endpoint=True)
    target[20:40, 30:50] += 60
    target[29, 30:50] = source[29, 30:50]  # by chance alike, inside
    found = changed(target.astype(np.uint8), source)
    assert found[20:40, 30:50].all()
    assert not found[:18].any()
    assert not found[:, 53:].any()
    assert not changed(source, source).any()


def test_ssim_follows_its_equation_on_one_window() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 7, 7, 3), np.uint8)
    expected = []
    for c in range(3):
        x, y = one[..., c].astype(float), other[..., c].astype(float)
        covariance = ((x - x.mean()) * (y - y.mean())).sum() / 48
        light = (2 * x.mean() * y.mean() + 2.55**2) / (x.mean() ** 2 + y.mean() ** 2 + 2.55**2)
        shape = (2 * covariance + 7.65**2) / (x.var(ddof=1) + y.var(ddof=1) + 7.65**2)
        expected.append(light * shape)
    assert ssim(one, other) == pytest.approx(np.mean(expected), abs=1e-4)


def test_pictures_of_two_sizes_are_not_compared_unless_one_is_resized() -> None:
    wide, square = np.zeros((8, 16, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(DataError, match="bring them to one size"):
        psnr(wide, square)
    assert like(wide, square).shape == square.shape


@settings(max_examples=25, deadline=None)
@given(PICTURES, PICTURES)
def test_a_picture_is_most_like_itself(one: np.ndarray, other: np.ndarray) -> None:
    assert psnr(one, one) == 60
    assert psnr(one, other) == pytest.approx(psnr(other, one))
    assert psnr(one, other) == pytest.approx(task_psnr(one, other), abs=1e-4)
    assert 0 <= l2(one, other) <= l1(one, other) <= 1
    assert l1(one, one) == 0
    assert ssim(one, one) == pytest.approx(1)
    assert -1 <= ssim(one, other) <= 1 + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(MASKS, MASKS), min_size=1, max_size=6))
def test_overlap_metrics_stay_in_their_range_whatever_the_masks(pairs: Sequence[tuple[Any, Any]]) -> None:
    overlaps = [overlap(found, wanted) for found, wanted in pairs]
    at = np.arange(len(overlaps))
    whole = ciou([[o] for o in overlaps])(at)
    if not any(o.either for o in overlaps):
        assert np.isnan(whole)  # nothing wanted, nothing found
        return
    each = [giou(o) for o in overlaps]
    assert 0 <= whole <= 1
    assert all(0 <= value <= 1 for value in each)
    assert whole == pytest.approx(ciou([[o] for o in overlaps[::-1]])(at))
    if any(wanted.any() for _, wanted in pairs):
        assert ciou([[overlap(wanted, wanted)] for _, wanted in pairs])(at) == 1


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.integers(0, 3))
def test_a_value_lies_in_its_interval_and_repeats(scores: list[float], seed: int) -> None:
    spec = Spec(name="score", unit="points", seed=seed)
    made = measured(spec, scores, mean, resamples=100)
    assert made.value == pytest.approx(np.mean(scores))
    assert made.low is not None
    assert made.high is not None
    assert made.low <= max(scores)
    assert made.low <= made.high
    assert made == measured(spec, scores, mean, resamples=100)
    assert Value.model_validate_json(made.model_dump_json()) == made


def test_a_value_brings_its_floor_and_bound() -> None:
    made = measured(Spec(name="psnr", unit="dB"), [20.0, 22.0], mean, floor=[15.0, 17.0], bound=[30.0, 30.0])
    assert (made.value, made.floor, made.bound, made.n, made.bound_n) == (21, 16, 30, 2, None)
    fewer = measured(Spec(name="psnr", unit="dB"), [20.0, 22.0], mean, bound=[30.0])
    assert (fewer.bound, fewer.bound_n) == (30, 1)


def test_an_interval_of_average_precision_holds_it() -> None:
    truths, found = boxes(3, 40)
    made = measured(AP, list(zip(truths, found, strict=True)), precision("bbox"), resamples=30)
    assert made.value is not None
    assert made.low is not None
    assert made.high is not None
    assert made.low < made.value < made.high


def test_no_number_is_marked_as_missing_and_never_a_zero() -> None:
    spec = Spec(name="clip_sim", unit="x")
    assert measured(spec, [], mean).missing == "there are no samples"
    assert missing(spec, "no CLIP was named").value is None
    with pytest.raises(ValidationError, match="needs a value, or the reason"):
        Value(spec=spec, value=None)
    with pytest.raises(DataError, match="no finite number; look for broken pictures"):
        measured(spec, [float("nan"), 1.0], mean)


BOX = {"category_id": 1, "bbox": [1.0, 1.0, 9.0, 9.0]}
CAT, NO_CAT = Overlap(3, 4, True, True), Overlap(0, 0, False, False)


@pytest.mark.parametrize(
    ("statistic", "nothing", "there", "value"),
    [
        (precision("bbox"), ([], []), ([BOX], [{**BOX, "score": 1.0}]), 1.0),
        (mciou, [("cat", NO_CAT)], [("cat", CAT)], 0.75),
        (ciou, [NO_CAT], [CAT], 0.75),
    ],
)
def test_where_nothing_is_there_to_measure_no_number_is_made_up(
    statistic: Any, nothing: Any, there: Any, value: float
) -> None:
    spec = Spec(name="score", unit="x")
    none = measured(spec, [nothing] * 4, statistic, resamples=20)
    assert (none.value, none.missing) == (None, "the samples hold nothing that it measures")
    rare = measured(spec, [nothing] * 4 + [there], statistic, floor=[nothing] * 5, resamples=50)
    assert rare.floor is None
    # a resample without the one picture says nothing, and is no zero
    assert (rare.value, rare.low, rare.high) == pytest.approx((value, value, value))


def test_an_interval_of_which_no_resample_has_a_number_has_no_spread() -> None:
    everything = range(9)
    assert interval_of(lambda at: 5.0 if set(at) == set(everything) else float("nan"), 9, resamples=20) == (5, 5, 5)


def test_what_is_computed_once_of_all_units_is_computed_once() -> None:
    made = []

    def counted(units: Sequence[Any]) -> Any:
        made.append(len(units))
        return mean(units)

    measured(Spec(name="score", unit="x"), [1.0, 2.0, 4.0], counted, resamples=10)
    assert made == [3]


def test_whatever_changes_a_number_changes_the_digest_of_its_spec() -> None:
    spec = Spec(name="clip_sim", unit="x", preprocessing=Preprocessing(resize=224, crop=224), model="a@sha256:1")
    changes: list[dict[str, Any]] = [
        {"version": 2},
        {"preprocessing": Preprocessing(resize=256, crop=224)},
        {"model": "b@sha256:1"},
        {"resolution": 512},
        {"seed": 1},
        {"parameters": (("cap", 60.0),)},
    ]
    digests = {spec.model_copy(update=change).digest for change in changes}
    assert len(digests | {spec.digest}) == len(changes) + 1
    assert Spec.model_validate_json(spec.model_dump_json()).digest == spec.digest
    with pytest.raises(ValidationError):
        spec.version = 3  # type: ignore[misc]
