"""Latents on disk: encoded a few at a time, each instruction once, and never twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import full
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from instructdiffusion.model import network, recipes
from instructdiffusion.model.data.latents import Latents, encode
from instructdiffusion.model.data.shards import Manifest, Triplet, read_triplets, write_shard
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.network import Model
from instructdiffusion.model.patches import PatchAutoencoder
from instructdiffusion.model.task import Ask, Image


class Counting(PatchAutoencoder):
    """Keeps how many pictures it was given at once."""

    def encode(self, pixels: torch.Tensor) -> Any:
        """As it does, and counts."""
        counts.append(len(pixels))
        return super().encode(pixels)


counts: list[int] = []


def pictures(count: int, size: int) -> list[Image]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def data_set(folder: Path, size: int, *shards: list[str]) -> Path:
    """Triplets of noise with these instructions, shard by shard."""
    sources, number, made = iter(pictures(sum(map(len, shards)), size)), 0, []
    for at, instructions in enumerate(shards):
        triplets = list[Triplet]()
        for text in instructions:
            source, number = next(sources), number + 1
            triplets.append(Triplet(f"{number:03d}", Ask("edit", text), source, 255 - source, {}))
        made.append(write_shard(folder / f"{at:02d}.tar", triplets))
    told: Any = {"size": size, "split": "train", "seed": 0, "counts": {"edit": number}}
    Manifest(**told, shards=tuple(made)).save(folder)
    return folder


@pytest.mark.parametrize(("size", "at_once"), [(64, 30), (256, 15)])
def test_as_many_pictures_are_encoded_at_once_as_fit_and_each_as_if_alone(
    size: int, at_once: int, tmp_path: Path
) -> None:
    run, shards = recipes.smoke(), data_set(tmp_path / "shards", size, ["a"] * 30)
    nets = network.create(run.network.model_copy(update={"size": size}), run.diffusion, pictures(4, 32))
    nets.vae.__class__ = Counting
    counts.clear()
    encode(shards, nets, tmp_path / "latents")
    assert max(counts) == at_once
    source, target, _ = Latents.open(tmp_path / "latents").batch([0, 14, 15, 29])
    alone = [triplet for at, triplet in enumerate(read_triplets(shards)) if at in (0, 14, 15, 29)]
    for found, kept in ((source, [t.source for t in alone]), (target, [t.target for t in alone])):
        torch.testing.assert_close(found, torch.cat([nets.encode([one]) for one in kept]), rtol=1e-3, atol=1e-3)


def test_an_instruction_is_kept_once_a_file_and_each_triplet_finds_its_own(tiny: Model, tmp_path: Path) -> None:
    asked = [["paint it", "blur it", "paint it"], ["blur it", "blur it"]]
    manifest = encode(data_set(tmp_path / "shards", 32, *asked), tiny, tmp_path / "latents")
    texts = [load_file(tmp_path / "latents" / shard.name)["text"] for shard in manifest.shards]
    assert [len(text) for text in texts] == [2, 1]
    found = Latents.open(tmp_path / "latents").batch([*range(5)])[2]
    torch.testing.assert_close(found, tiny.text([*asked[0], *asked[1]]), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("states", [True, False])
def test_what_a_killed_run_finished_stays_unless_it_is_damaged_or_of_other_settings(
    states: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    shards, out = data_set(tmp_path / "shards", 32, ["a"], ["b"], ["c"]), tmp_path / "latents"
    whole = encode(shards, tiny_folder, out)
    files = [out / shard.name for shard in whole.shards]
    (out / "manifest.json").unlink()
    files[1].write_bytes(b"damaged")
    files[2].unlink()
    before = files[0].stat().st_ino
    again = encode(shards, tiny_folder, out, states=states)
    assert (files[0].stat().st_ino == before, again == whole) == (states, states)
    assert Latents.open(out).tokens != states


def test_latents_that_changed_since_they_were_encoded_are_refused_with_what_to_do(latents: Path) -> None:
    (path,) = latents.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["target"][0] = 0
    save_file(tensors, path, metadata)
    with pytest.raises(DataError, match=rf"{path.name} is damaged: .*; delete {latents} and run the step again"):
        Latents.open(latents)


def test_a_file_of_latents_that_tells_nothing_of_its_numbers_is_named(latents: Path) -> None:
    (path,) = latents.glob("*.safetensors")
    save_file(load_file(path), path, {"tasks": '["edit"]'})
    manifest = Manifest.load(latents)
    (shard,) = manifest.shards
    renewed = shard.model_copy(update={"digest": digest_of(path)})
    manifest.model_copy(update={"shards": (renewed,)}).save(latents)
    with pytest.raises(DataError, match=rf"latents {path} can't be read .*; delete {latents} and run the encode step"):
        Latents.open(latents)


def test_a_disk_that_fills_up_ends_encoding_in_one_line_and_the_finished_file_is_kept(
    tiny_folder: Path, tmp_path: Path
) -> None:
    shards, out = data_set(tmp_path / "shards", 32, ["a"], ["b"] * 40), tmp_path / "latents"
    with full(50_000), pytest.raises(DataError, match=r"can't write .*latents-00001\.safetensors: .*; free space"):
        encode(shards, tiny_folder, out)
    assert [path.name for path in out.glob("*.safetensors")] == ["latents-00000.safetensors"]
    assert not list(out.glob(".*"))
    assert encode(shards, tiny_folder, out).total == 41
