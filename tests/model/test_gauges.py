"""What a training tells of itself, and the sheets it draws: true, and without a trace in what it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from instructdiffusion.model import curve, recipes
from instructdiffusion.model.config import Run, override
from instructdiffusion.model.editor import Editor
from instructdiffusion.model.report import Silent
from instructdiffusion.model.samples import first_of_each_task
from instructdiffusion.model.seeds import seed_of
from instructdiffusion.model.sheet import contact_sheet
from instructdiffusion.model.train import train

pytest.importorskip("deepspeed")
pytestmark = [
    pytest.mark.xdist_group("training in the tests' own process"),
    pytest.mark.usefixtures("alone"),
]


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: dict[int, dict[str, float]] = {}
        self.pictures: list[tuple[str, Path, int]] = []

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.told[step] = values

    def image(self, name: str, file: Path, step: int) -> None:
        self.pictures.append((name, file, step))


def run_of(*settings: str) -> Run:
    return override(recipes.smoke(), ["optim.micro_batch=4", *settings])


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model/unet/diffusion_pytorch_model.safetensors")


def drawn_by(model: Path, data: Path) -> bytes:
    """The sheet that a model folder would give."""
    triplets = first_of_each_task(data)
    seeds = [seed_of(triplet.key, 0) for triplet in triplets]
    outputs = Editor.load(model).edits([t.source for t in triplets], [t.ask for t in triplets], seeds)
    return contact_sheet(triplets, outputs)


@pytest.fixture
def trained(latents: Path, tiny_folder: Path, tmp_path: Path) -> Any:
    def run(name: str, *settings: str) -> Heard:
        heard = Heard()
        train(run_of(*settings), latents, tiny_folder, tmp_path / name, heard)
        return heard

    return run


@pytest.mark.slow
def test_sheets_show_what_the_averaged_weights_make_and_change_nothing(
    trained: Any, latents: Path, tmp_path: Path
) -> None:
    heard = trained("with")
    assert [(name, file.name, step) for name, file, step in heard.pictures] == [
        ("samples", "step-0000002.png", 2),
        ("samples", "step-0000004.png", 4),
    ]
    first, last = (file.read_bytes() for _, file, _ in heard.pictures)
    assert last == drawn_by(tmp_path / "with/model", latents)
    assert first != last
    assert trained("without", "samples_every=0").pictures == []
    assert not (tmp_path / "without/samples").exists()
    assert all(
        torch.equal(value, weights(tmp_path / "with")[name]) for name, value in weights(tmp_path / "without").items()
    )


@pytest.mark.slow
def test_gauges_tell_the_same_however_the_weights_are_split(trained: Any, latents: Path, tmp_path: Path) -> None:
    whole, split = trained("whole", "optim.zero_stage=0"), trained("split", "optim.zero_stage=3")
    assert [*whole.told] == [1, 2, 3, 4]
    for step, told in whole.told.items():
        assert told["gradient_norm"] == pytest.approx(split.told[step]["gradient_norm"], rel=1e-3)
        assert told["average_distance"] == pytest.approx(split.told[step]["average_distance"], rel=1e-2)
        assert (told["average_distance"] > 0) == (step > 1)  # the average begins where the first step ends
        assert 0 < told["waiting"] < 1
        assert told["triplets_per_second"] > 0
        assert 0.05 < told["memory_gib"] < 64
        shares = [value for name, value in told.items() if name.startswith("mixture/task/")]
        assert sum(shares) == pytest.approx(1)
    assert split.pictures[-1][1].read_bytes() == drawn_by(tmp_path / "split/model", latents)


def test_everything_told_is_in_the_curve_and_the_mixture_in_the_summary(trained: Any, tmp_path: Path) -> None:
    heard = trained("out", "optim.steps=2")
    rows = curve.read(tmp_path / "out")
    assert [{k: v for k, v in row.items() if k not in ("step", "seconds")} for row in rows] == [*heard.told.values()]
    summary = json.loads((tmp_path / "out/training.json").read_text())
    assert summary["curve"] == rows
    assert {name: s["drawn"] for name, s in summary["mixture"]["task"].items()} == {
        name.removeprefix("mixture/task/"): value
        for name, value in heard.told[2].items()
        if name.startswith("mixture/task/")
    }


def test_a_sheet_shows_every_task_once_and_needs_the_pictures(latents: Path, shards: Path, tmp_path: Path) -> None:
    tasks = [triplet.ask.task for triplet in first_of_each_task(latents)]
    assert tasks == [triplet.ask.task for triplet in first_of_each_task(shards)]
    assert len(tasks) == len({*tasks}) == 10
    (latents / "first.tar").unlink()  # as encoded by an earlier version
    assert first_of_each_task(latents) == []
