"""What a training will take is told beforehand, and comes true."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

import pytest

from instructdiffusion.model import planner, recipes
from instructdiffusion.model.config import override
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.planner import GPUS, Plan, plan, shapes_of, way_on
from instructdiffusion.model.speed import Way

BENCH = Path(__file__).parents[2] / "bench"


def planned(folder: Path, *settings: str, processes: int = 2) -> Plan:
    run = override(recipes.smoke(), list(settings))
    return plan(run, shapes_of(folder, run.network.size), processes, Way(attention="plain"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("size", "stage", "processes"), [("small", 0, 1), ("small", 2, 2)])
def test_a_plan_is_within_a_tenth_of_what_a_training_takes(
    size: str, stage: int, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.syspath_prepend(BENCH)
    told, took = run_path(str(BENCH / "plan.py"))["compare"](tmp_path, size, stage, processes, repeats=1)
    assert told == pytest.approx(took, rel=0.1)


def test_what_is_split_is_held_once_by_all_processes(tiny_folder: Path) -> None:
    alone, shared = (planned(tiny_folder, "optim.zero_stage=1", processes=n) for n in (1, 2))
    assert shared.device["AdamW's sums"] == pytest.approx(alone.device["AdamW's sums"] / 2, rel=0.01)
    assert shared.device["weights"] == alone.device["weights"] == 4 * alone.learning + alone.device["weights"] % 4
    parts = planned(tiny_folder, "optim.zero_stage=3", processes=2)
    assert parts.device["their average"] == pytest.approx(shared.device["their average"] / 2, rel=0.01)


def test_what_is_offloaded_waits_in_the_memory_of_the_machine(tiny_folder: Path) -> None:
    here = planned(tiny_folder, "optim.zero_stage=3")
    there = planned(tiny_folder, "optim.zero_stage=3", "optim.offload=all")
    assert there.alone == here.alone
    assert sum(there.device.values()) < sum(here.device.values())
    moved = {"weights", "their average", "weights as AdamW changes them", "AdamW's sums"}
    assert here.device.keys() - there.device.keys() == moved
    assert there.device["weights made whole"] >= 4 * there.learning  # a layer computes where the GPU is


def test_activations_grow_with_the_triplets_and_shrink_when_they_are_computed_again(tiny_folder: Path) -> None:
    few, many = (planned(tiny_folder, "optim.batch_size=64", f"optim.micro_batch={count}") for count in (8, 32))
    again = planned(tiny_folder, "optim.batch_size=64", "optim.micro_batch=32", "optim.gradient_checkpointing=true")
    assert few.device["activations"] < again.device["activations"] < 0.8 * many.device["activations"]
    assert few.flops == pytest.approx(many.flops, rel=0.01)
    assert again.flops > many.flops


def test_of_adapters_only_their_own_numbers_learn(tiny_folder: Path) -> None:
    whole = planned(tiny_folder, "train_text=false")
    adapted = planned(tiny_folder, "train_text=false", "lora.rank=2")
    assert 0 < adapted.learning < whole.learning / 10
    assert adapted.device["gradients"] < whole.device["gradients"] / 10
    assert adapted.device["weights"] > whole.device["weights"]


def test_stable_diffusion_has_the_numbers_that_its_authors_tell() -> None:
    run = override(recipes.paper(), ["optim.micro_batch=1", "optim.batch_size=1"])
    told = plan(run, shapes_of(None, 256), 1, way_on(GPUS["V100"], run.optim))
    assert told.learning == pytest.approx(859.5e6, rel=1e-3)
    assert told.triplets == run.optim.steps
    assert told.hours(2.0) == run.optim.steps / 2 / 3600


def test_what_can_not_be_planned_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no model"):
        planner.shapes_of(tmp_path, 64)
    with pytest.raises(ConfigError, match="can't be shared out evenly"):
        planned(tiny_folder, processes=3)
