"""Stage 1: marks are painted and said, and the same loop learns them from captions alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
import torch

from instructdiffusion.model import lora, network, recipes
from instructdiffusion.model.colors import MARKS
from instructdiffusion.model.config import override
from instructdiffusion.model.data.latents import encode
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.initial import from_text_to_image
from instructdiffusion.model.synthesis.adapt import SUFFIXES, caption_of, mark, marked
from instructdiffusion.model.synthesis.scenes import Studio


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs with captions, one of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, shade in (("a", 40), ("b", 90), ("c", 0)):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((50, 70, 3), shade, np.uint8))
        (folder / f"{name}.txt").write_text(f"A gray wall, {name}.")
    (folder / "c.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("seed", range(12))
def test_what_is_said_is_what_is_painted(seed: int) -> None:
    picture = np.full((64, 64, 3), 100, np.uint8)
    painted, said, marks = mark(picture, Random(seed))
    assert {kind for kind, _ in marks} <= set(SUFFIXES)
    assert 0.001 < (painted != picture).any(-1).mean() < 0.7
    for kind, color in marks:
        if "colors" not in said and "colored" not in said:
            assert color in said.split()
        if kind != "patch" and len(marks) == 1:
            changed = painted[(painted != picture).any(-1)]
            assert np.abs(changed.astype(int) - np.array(MARKS[color])).sum(-1).min() == 0


def test_every_kind_is_drawn_and_dots_differ_in_color() -> None:
    drawn = [mark(np.full((64, 64, 3), 100, np.uint8), Random(i))[2] for i in range(40)]
    assert {marks[0][0] for marks in drawn} == set(SUFFIXES)
    assert all(len({color for _, color in marks}) == len(marks) for marks in drawn)


def test_photographs_and_scenes_become_triplets_without_a_source(photos: Path, tmp_path: Path) -> None:
    manifest = marked(tmp_path / "out", photos=[photos], scenes=3, size=32, seed=1)
    triplets = list(read_triplets(tmp_path / "out"))
    assert manifest.counts == {"adapt": 5}
    assert manifest.report == {"offered": 6, "kept": 5}  # the broken one is left out, and counted
    assert all(t.source.std() == 0 and t.target.shape == (32, 32, 3) and t.target.std() > 0 for t in triplets)
    assert triplets[0].ask.instruction.startswith("A gray wall, a, ")
    assert triplets[0].provenance["picture"] == "photo/a.png"
    assert any("each picture's own" in licence for licence in manifest.licences)


def test_the_same_request_gives_the_same_bytes_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = marked(tmp_path / "one", scenes=4, size=32, seed=1)
    assert marked(tmp_path / "two", scenes=4, size=32, seed=1) == first
    assert marked(tmp_path / "three", scenes=4, size=32, seed=2) != first
    written = (tmp_path / "one" / "marked-00000.tar").stat().st_mtime_ns
    (tmp_path / "one" / "manifest.json").unlink()  # as if it had been stopped before the end
    assert marked(tmp_path / "one", scenes=4, size=32, seed=1) == first
    assert (tmp_path / "one" / "marked-00000.tar").stat().st_mtime_ns == written


def test_a_scene_is_captioned_with_what_is_in_it() -> None:
    scene = Studio.toy().scene(Random(0))
    assert all(f"{thing.color} {thing.kind}" in caption_of(scene) for thing in scene.things)


def test_nothing_to_mark_is_said(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pictures to mark"):
        marked(tmp_path / "out", size=32, seed=1)
    for name in ("a", "b"):
        (photos / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="can be read"):
        marked(tmp_path / "out", photos=[photos], size=32, seed=1)


def test_the_loop_adapts_stable_diffusion_with_adapters(stable_diffusion: Path, tmp_path: Path) -> None:
    marked(tmp_path / "data", scenes=4, size=32, seed=1)
    start = network.save(from_text_to_image(stable_diffusion, resolution=32), tmp_path / "start")
    encode(tmp_path / "data", start, tmp_path / "latents")
    tiny = ["optim.steps=2", "optim.batch_size=4", "optim.micro_batch=2", "optim.warmup=0", "lora.rank=2"]
    run = override(recipes.small_adapt(), [*tiny, "optim.precision=fp32", "ema_decay=0.5", "diffusion.min_snr=5"])
    (tmp_path / "run.json").write_text(run.model_dump_json())
    command = [sys.executable, "-m", "instructdiffusion.model.train_main", "--run", str(tmp_path / "run.json")]
    command += ["--data", str(tmp_path / "latents"), "--model", str(start), "--out", str(tmp_path / "out")]
    paths = os.pathsep.join(p for p in sys.path if p)
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    before, after, merged = network.load(start), network.load(tmp_path / "out" / "model"), network.load(start)
    lora.load(merged.unet, tmp_path / "out" / "adapter")
    lora.merge(merged.unet)
    for name, weight in after.unet.state_dict().items():
        assert torch.allclose(weight, merged.unet.state_dict()[name], atol=1e-6), name
    moved = {n for n, w in after.unet.state_dict().items() if not torch.equal(w, before.unet.state_dict()[n])}
    assert moved
    assert all(name.split(".")[-2] in ("to_q", "to_k", "to_v", "0") for name in moved)
