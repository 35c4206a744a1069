"""Likeness in a network's space: real networks at a tiny size, MagicBrush's recipe written out, torchmetrics."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import Harm
from huggingface_hub import constants
from PIL import Image as Pillow
from torch import nn
from transformers import CLIPModel, ViTConfig, ViTModel

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.metrics.likeness import CLIP_I, aesthetic, cosine, direction
from instructdiffusion.model.metrics.networks import aesthetic_layers, clip, dino, fid, kid, lpips
from instructdiffusion.model.task import Image


@pytest.fixture
def pictures() -> list[Image]:
    """Four pictures of noise at different scales, none square."""
    rng = np.random.default_rng(1)
    return [np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(4)]


def test_clip_likeness_is_that_of_the_recipe_written_out(tiny_clip: Path, pictures: list[Image]) -> None:
    encoder = clip(str(tiny_clip))
    one, other, *_ = encoder.pictures(pictures)

    network = CLIPModel.from_pretrained(tiny_clip).eval()
    vectors = []
    for picture in pictures[:2]:  # resize the shorter side to 32, cut the middle, scale, normalise: one at a time
        small = Pillow.fromarray(picture).resize((42, 32), Pillow.Resampling.BICUBIC).crop((5, 0, 37, 32))
        pixels = torch.tensor(np.asarray(small) / 255, dtype=torch.float32).permute(2, 0, 1)
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        with torch.inference_mode():
            seen = network.vision_model(pixel_values=((pixels - mean) / std)[None]).pooler_output
            vectors.append(network.visual_projection(seen)[0])
    expected = float(torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=0))
    assert cosine(one, other) == pytest.approx(expected, abs=1e-4)
    assert cosine(one, one) == pytest.approx(1, abs=1e-5)
    assert expected < 0.999


def test_pictures_and_words_go_where_the_network_is(tiny_clip: Path, pictures: list[Image]) -> None:
    encoder = clip(str(tiny_clip))
    encoder.network.to("meta")  # a device that every machine has, and that gives nothing back
    with pytest.raises(RuntimeError, match="meta tensor"):
        encoder.pictures(pictures)
    with pytest.raises(RuntimeError, match="meta tensor"):
        encoder.words(["a cat"])


def test_a_caption_is_read_and_a_long_one_cut(tiny_clip: Path) -> None:
    short, long = clip(str(tiny_clip)).words(["a cat", "cat " * 40])
    assert short.shape == long.shape == (24,)
    assert cosine(short, long) < 0.9999


def test_a_spec_names_the_network_and_its_weights(tiny_clip: Path) -> None:
    spec = clip(str(tiny_clip)).spec(CLIP_I)
    assert "@sha256:" in spec.model
    assert spec.preprocessing is not None
    assert spec.preprocessing.crop == 32
    assert spec.digest != CLIP_I.digest


def test_a_network_of_the_hub_is_named_with_its_revision(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "0123456789abcdef" * 2 + "01234567"
    kept = tmp_path / "models--nobody--tiny-clip"  # as the hub's client keeps what it downloaded
    shutil.copytree(tiny_clip, kept / "snapshots" / revision)
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert clip("nobody/tiny-clip").spec(CLIP_I).model == f"nobody/tiny-clip@{revision}"


def test_a_network_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no network that can be read .*; name a folder or hub id"):
        clip(str(tmp_path))
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    torch.save({"layers.0.weight": {"no": "tensor"}}, tmp_path / "other.pth")
    for name in ("bad.pth", "gone.pth", "other.pth"):
        with pytest.raises(DataError, match=name) as caught:
            aesthetic_layers(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_pickles_that_do_harm_are_named_and_not_run(tiny_clip: Path, tmp_path: Path) -> None:
    mark, folder = tmp_path / "ran", shutil.copytree(tiny_clip, tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    for file in (folder / "pytorch_model.bin", tmp_path / "predictor.pth"):
        torch.save({"layers.0.weight": torch.ones(2), "more": Harm(os.system, f"touch {mark}")}, file)
    with pytest.raises(DataError, match=r"pytorch_model\.bin is a pickle that would call \w+\.system"):
        clip(str(folder))
    with pytest.raises(DataError, match=r"predictor\.pth is a pickle that would call \w+\.system"):
        aesthetic_layers(tmp_path / "predictor.pth")
    assert not mark.exists()


def test_dino_compares_the_first_token(tmp_path: Path, pictures: list[Image]) -> None:
    torch.manual_seed(2)
    config = ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    network = ViTModel(config, add_pooling_layer=False).eval()
    network.save_pretrained(tmp_path)
    encoder = dino(str(tmp_path))
    assert (encoder.preprocessing.resize, encoder.preprocessing.crop) == (32, 28)
    pixels = torch.from_numpy(encoder.preprocessing(pictures[0]))[None]
    with torch.inference_mode():
        expected = network(pixel_values=pixels).last_hidden_state[0, 0].numpy()
    assert encoder.pictures(pictures[:1])[0] == pytest.approx(expected, abs=1e-5)


def test_a_change_that_follows_the_captions_points_their_way() -> None:
    right, up = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert direction(right, up, right, up) == pytest.approx(1)
    assert direction(right, up, up, right) == pytest.approx(-1)
    assert direction(right, right, right, up) == 0  # nothing was done


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_the_aesthetic_score_is_that_of_its_layers(tmp_path: Path, ending: str) -> None:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(24, 8), nn.Dropout(), nn.Linear(8, 1)).double().eval()
    path = tmp_path / f"predictor.{ending}"
    if ending == "pth":
        torch.save(network.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(network.state_dict(), path)
    vector = np.random.default_rng(0).normal(size=24)
    expected = network(torch.from_numpy(vector / np.linalg.norm(vector))).item()
    assert aesthetic(vector, aesthetic_layers(path)) == pytest.approx(expected, abs=1e-4)


class Means(nn.Module):
    """Features of a picture that can be worked out by hand: the mean of each colour."""

    num_features = 3

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.double().mean(dim=(2, 3))


def test_the_distance_of_sets_is_that_of_their_means_and_spreads() -> None:
    rng = np.random.default_rng(4)
    levels = rng.integers(50, 150, (6, 1, 1, 3), np.uint8)
    targets = list(np.broadcast_to(levels, (6, 8, 8, 3)))
    outputs = [picture + np.uint8(10) for picture in targets]
    assert fid(outputs, targets, Means()) == pytest.approx(3 * 10**2, rel=1e-4)  # equal spread, means 10 apart
    assert fid(targets, targets, Means()) == pytest.approx(0, abs=1e-4)
    assert kid(outputs, targets, Means(), seed=1) == kid(outputs, targets, Means(), seed=1)
    with pytest.raises(DataError, match="two pictures on either side"):
        fid(outputs[:1], targets, Means())


class Apart(nn.Module):
    """A distance in LPIPS's place, called as it is."""

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one - other).abs().mean(dim=(1, 2, 3), keepdim=True)


def test_learned_distance_is_told_pictures_from_minus_one_to_one() -> None:
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert lpips([black, white], [white, white], Apart()) == pytest.approx([2, 0])
