"""Inpainters: what they must leave alone, what they must fill, and which files LaMa is read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.synthesis.inpainters import inpainter
from instructdiffusion.model.synthesis.lama import Generator, Lama, generator_of
from instructdiffusion.model.task import Image, Mask

EMBEDDED = ("opencv", "opencv:ns", "patchmatch")


def ramp(side: int = 48) -> tuple[Image, Mask]:
    """A smooth picture with a white square in it, and where the square is."""
    ys, xs = np.mgrid[:side, :side]
    picture = np.stack([4 * ys, 4 * xs, 2 * (ys + xs)], axis=-1).astype(np.uint8)
    mask = (abs(ys - side // 2) < 6) & (abs(xs - side // 2) < 6)
    picture[mask] = 255
    return picture, mask


@pytest.fixture(scope="module")
def lama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny generator with random weights, as TorchScript and as safetensors."""
    folder = tmp_path_factory.mktemp("lama")
    torch.manual_seed(0)
    network = Generator(width=8, downs=3, blocks=2).eval()
    example = torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    paths = {"script": folder / "tiny.pt", "weights": folder / "tiny.safetensors"}
    trace: Any = torch.jit.trace  # has no types
    trace(network, example, check_trace=False).save(str(paths["script"]))
    save_file({f"generator.{name}": value for name, value in network.state_dict().items()}, paths["weights"])
    return paths


@pytest.mark.parametrize("address", [*EMBEDDED, "lama"])
def test_pixels_outside_the_mask_stay_as_they_are(address: str, lama: dict[str, Path]) -> None:
    picture, mask = ramp()
    found = inpainter(f"lama:{lama['weights']}" if address == "lama" else address).fill(picture, mask)
    assert found.dtype == np.uint8
    assert np.array_equal(found[~mask], picture[~mask])
    assert not np.array_equal(found[mask], picture[mask])


@pytest.mark.parametrize("address", EMBEDDED)
def test_a_hole_in_a_smooth_picture_becomes_smooth(address: str) -> None:
    picture, mask = ramp()
    found = inpainter(address).fill(picture, mask)
    ys, xs = np.nonzero(mask)
    wanted = np.stack([4 * ys, 4 * xs, 2 * (ys + xs)], axis=-1)
    assert np.abs(found[mask].astype(int) - wanted).mean() < 15
    assert np.array_equal(found, inpainter(address).fill(picture, mask))


def test_both_files_of_lama_fill_alike_whatever_the_size(lama: dict[str, Path]) -> None:
    picture, mask = ramp(45)  # no multiple of 8
    script, weights = (inpainter(f"lama:{path}") for path in lama.values())
    assert np.abs(script.fill(picture, mask).astype(int) - weights.fill(picture, mask)).max() <= 1
    assert script.name != weights.name  # the digest of the file is in it


def test_a_padded_picture_is_filled_as_its_whole_would_be(lama: dict[str, Path]) -> None:
    picture, mask = ramp(45)
    network = inpainter(f"lama:{lama['weights']}")
    padded = np.pad(picture, ((0, 3), (0, 3), (0, 0)), mode="symmetric")
    whole = network.fill(padded, np.pad(mask, ((0, 3), (0, 3)), mode="symmetric"))
    assert np.array_equal(network.fill(picture, mask), whole[:45, :45])


def test_the_generator_is_as_large_as_its_weights_say() -> None:
    small = Generator(width=4, downs=2, blocks=3, share=0.5)
    again = generator_of(small.state_dict())
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in small.state_dict().items()}


def test_the_published_generator_has_fifty_one_million_weights() -> None:
    with torch.device("meta"):
        whole = Generator()
    names = whole.state_dict().keys()
    assert round(sum(p.numel() for p in whole.parameters()) / 1e6) == 51  # as the paper says of big LaMa
    assert {"model.5.conv1.ffc.convg2g.fu.conv_layer.weight", "model.34.weight", "model.4.bn_g.weight"} <= set(names)


def test_pickles_and_other_networks_are_refused(tmp_path: Path) -> None:
    pickle, other = tmp_path / "lama.ckpt", tmp_path / "other.safetensors"
    torch.save({"model.1.weight": torch.ones(2)}, pickle)
    save_file({"layer.weight": torch.ones(2)}, other)
    with pytest.raises(DataError, match="pickles are not opened"):
        Lama.load(pickle)
    with pytest.raises(DataError, match=r"other\.safetensors is not LaMa"):
        Lama.load(other)
    with pytest.raises(DataError, match="no such file"):
        Lama.load(tmp_path / "none.pt")


def test_an_unknown_inpainter_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="opencv, opencv:ns, patchmatch, lama:PATH"):
        inpainter("magic")


def test_masks_that_leave_nothing_to_go_by_are_refused() -> None:
    picture, mask = ramp()
    with pytest.raises(DataError, match="covers the whole picture"):
        inpainter("opencv").fill(picture, np.ones_like(mask))
    with pytest.raises(DataError, match="resize it"):
        inpainter("opencv").fill(picture, mask[1:])
    assert np.array_equal(inpainter("opencv").fill(picture, np.zeros_like(mask)), picture)
