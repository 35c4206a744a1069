"""Networks, loss and sampler: the algebra of the paper, checked on tiny networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from faults import full
from torch import Tensor

from instructdiffusion.model import network
from instructdiffusion.model.config import Diffusion, parse
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.diffusion import (
    Objective,
    add_noise,
    changed_cells,
    draw_times,
    drop_conditions,
    focus_weights,
    predict_target,
    wanted_output,
)
from instructdiffusion.model.editor import Editor
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.network import Guidance, Model, scheduler_for
from instructdiffusion.model.patches import PatchAutoencoder
from instructdiffusion.model.sampler import branch_weights, sample


def test_a_model_survives_the_disk(tiny: Model, tmp_path: Path) -> None:
    loaded = network.load(network.save(tiny, tmp_path / "m"))
    for name in ("unet", "vae", "text_encoder"):
        for key, value in getattr(tiny, name).state_dict().items():
            assert torch.equal(getattr(loaded, name).state_dict()[key], value), key
    assert loaded.diffusion == tiny.diffusion
    assert torch.equal(loaded.tokens(["Remove the red ball."]), tiny.tokens(["Remove the red ball."]))


def test_half_weights_take_half_the_room_and_are_nearly_the_same(tiny: Model, tmp_path: Path) -> None:
    full, half = (network.save(tiny, tmp_path / str(flag), half=flag) for flag in (False, True))
    sizes = [sum(f.stat().st_size for f in folder.rglob("*.safetensors")) for folder in (full, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert torch.allclose(network.load(half).unet.conv_in.weight, tiny.unet.conv_in.weight, atol=1e-3)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(DataError, match="is no model"):
        network.load(tmp_path / "nothing")
    weights = tiny_folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DataError, match="can't be read"):
        network.load(tiny_folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text_encoder/model.safetensors", None),
        ("editor.json", b"[]"),
        ("editor.json", b'{"diffusion": {}, "resolution": 32, "guidance": []}'),
        ("editor.json", b'{"diffusion": {}, "resolution": 32, "guidance": {"editing": {"loud": 1}}}'),
        ("vae/config.json", b"[]"),
    ],
)
def test_a_model_with_a_file_that_is_cut_or_of_another_shape_is_named(
    name: str, content: bytes | None, tiny_folder: Path
) -> None:
    file = tiny_folder / name
    file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    with pytest.raises(DataError, match=rf"model in {tiny_folder} can't be read \(.*\); copy it again") as caught:
        network.load(tiny_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("half", [False, True])
def test_a_disk_that_fills_up_leaves_no_model_and_one_line(half: bool, tiny: Model, tmp_path: Path) -> None:
    with full(20_000), pytest.raises(DataError, match=r"can't write .*/m: .*File too large.*; free space"):
        network.save(tiny, tmp_path / "m", half)
    assert not list(tmp_path.iterdir())


def test_the_patch_code_keeps_all_with_all_components_and_loses_little_with_most(shards: Path) -> None:
    pictures = [t.target for t in read_triplets(shards)]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    errors = []
    for channels in (12, 24, 48):
        code = PatchAutoencoder(4, channels).fit(pictures)
        rebuilt = code.decode(code.encode(pixels).latent_dist.mode()).sample
        errors.append(float((rebuilt - pixels).square().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-9
    latents = code.encode(pixels).latent_dist.mode()
    assert abs(float(latents.square().mean()) - 1) < 0.05


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_wanted_output_stands_for_the_target(prediction: str) -> None:
    diffusion = Diffusion.model_validate({"prediction": prediction})
    scheduler = scheduler_for(diffusion)
    generator = torch.Generator().manual_seed(0)
    target, noise, source = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(3))
    t = torch.tensor([10, 500, 900])
    noisy = add_noise(target, noise, t, scheduler)
    output = wanted_output(target, noise, t, scheduler, diffusion)
    assert torch.allclose(predict_target(output, noisy, source, t, scheduler, diffusion), target, atol=1e-3)


def test_a_shut_gate_keeps_the_source_and_an_open_one_adds_the_change() -> None:
    diffusion = Diffusion(prediction="sample", from_source=True, gate=True)
    source, change = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for logit, expected in ((-100.0, source), (100.0, source + change)):
        output = torch.cat([change, torch.full((2, 1, 8, 8), logit)], dim=1)
        made = predict_target(output, source, source, torch.tensor([999]), scheduler_for(diffusion), diffusion)
        assert torch.allclose(made, expected)
    with pytest.raises(ConfigError, match="gate=true needs from_source=true"):
        parse({"name": "x", "diffusion": {"gate": True}})


def test_changing_nothing_loses_one_whatever_the_task_changes_and_saying_what_changes_lowers_it() -> None:
    class Still(torch.nn.Module):  # a U-Net that changes nothing
        gate = 0.0

        def forward(self, sample: Tensor, t: Tensor, text: Tensor) -> UNet2DConditionOutput:
            gate = torch.full_like(sample[:, :1], self.gate)
            return UNet2DConditionOutput(sample=torch.cat([torch.zeros_like(sample[:, :4]), gate], dim=1))

    diffusion = Diffusion(from_source=True, gate=True, relative=True, drop_text=0, drop_image=0, focus=0.5)
    unet, source = Still(), torch.zeros(2, 4, 8, 8)
    target = source.clone()
    target[0], target[1, :, :2, :2] = 30.0, 50.0
    objective = Objective(unet, None, torch.zeros(3, 5), scheduler_for(diffusion), diffusion, torch.tensor([2.0] * 4))
    arguments = source, target, torch.zeros(2, 3, 5), torch.zeros(1, 3)
    losses = {}
    for unet.gate in (-100.0, 0.0, 100.0):
        losses[unet.gate] = objective(*arguments, torch.Generator())
    blind = losses[0.0] - diffusion.gate_weight * np.log(2)  # the cross-entropy of an even guess
    assert blind.tolist() == pytest.approx([1, 1], abs=0.01)
    assert losses[100.0][0] < losses[0.0][0] < losses[-100.0][0]  # everything changes in the first


def test_a_target_that_changes_nothing_weighs_no_more_than_one_that_does() -> None:
    class Paints(torch.nn.Module):  # a U-Net that changes everything by as much
        def forward(self, sample: Tensor, t: Tensor, text: Tensor) -> UNet2DConditionOutput:
            return UNet2DConditionOutput(sample=torch.ones_like(sample[:, :4]))

    diffusion = Diffusion(from_source=True, relative=True, drop_text=0, drop_image=0)
    source = torch.zeros(2, 4, 8, 8)
    target = torch.stack([source[0], source[1] - 1])  # nothing is to change in the first
    objective = Objective(Paints(), None, torch.zeros(3, 5), scheduler_for(diffusion), diffusion)
    nothing, something = objective(source, target, torch.zeros(2, 3, 5), torch.zeros(1, 3), torch.Generator()).tolist()
    assert nothing == pytest.approx(1)
    assert something == pytest.approx(4, abs=0.3)


def test_focus_gives_the_changed_cells_their_share_and_keeps_the_mean() -> None:
    source = torch.zeros(1, 4, 10, 10)
    target = source.clone()
    target[:, :, :2, :5] = 1  # a tenth of the cells
    changed = changed_cells(target, source)
    assert float(changed.mean()) == pytest.approx(0.1)
    weight = focus_weights(changed, 0.5)
    assert float(weight.mean()) == pytest.approx(1)
    assert float(weight[0, 0, 0, 0] / weight[0, 0, 9, 9]) == pytest.approx(6)
    assert torch.equal(focus_weights(changed, 0.0), torch.ones(1, 1, 10, 10))


def test_times_lean_to_the_noise_as_said() -> None:
    count, generator = 100_000, torch.Generator().manual_seed(0)
    even = draw_times(count, Diffusion(), 999, generator)
    assert (int(even.min()), int(even.max())) == (0, 999)
    assert float((even < 500).float().mean()) == pytest.approx(0.5, abs=0.01)
    late = draw_times(count, Diffusion(last_share=0.6), 999, generator)
    assert float((late == 999).float().mean()) == pytest.approx(0.6 + 0.4 / 1000, abs=0.01)


def test_text_and_image_are_dropped_as_often_as_said_and_never_both() -> None:
    count, diffusion = 100_000, Diffusion()
    text, image = drop_conditions(count, diffusion, torch.Generator().manual_seed(0))
    sigma = (0.075 * 0.925 / count) ** 0.5
    assert abs(float(text.float().mean()) - 0.075) < 3 * sigma
    assert abs(float(image.float().mean()) - 0.075) < 3 * sigma
    assert not bool((text & image).any())


def test_the_weights_of_the_branches_are_those_of_the_two_formulas() -> None:
    text, image = 6.0, 1.25
    e = {"full": 1.7, "image": -0.4, "text": 0.9, "none": 0.3}
    ours = 0.5 * (e["image"] + e["text"]) + text * (e["full"] - e["image"]) + image * (e["full"] - e["text"])
    theirs = e["none"] + text * (e["full"] - e["image"]) + image * (e["image"] - e["none"])
    assert sum(w * e[b] for b, w in branch_weights("instructdiffusion", text, image).items()) == pytest.approx(ours)
    assert sum(w * e[b] for b, w in branch_weights("instructpix2pix", text, image).items()) == pytest.approx(theirs)


def test_branches_without_weight_are_left_out() -> None:
    assert branch_weights("instructdiffusion", 0.5, 0.5) == {"full": 1.0}
    assert set(branch_weights("instructdiffusion", 6.0, 0.5)) == {"full", "image"}
    assert set(branch_weights("instructdiffusion", 5.0, 1.25)) == {"full", "image", "text"}
    assert set(branch_weights("instructpix2pix", 7.5, 1.0)) == {"full", "image"}
    with pytest.raises(ConfigError, match="guidance rule"):
        branch_weights("other", 1, 1)  # type: ignore[arg-type]


def test_an_untrained_model_that_starts_from_the_source_returns_it(tiny: Model, shards: Path) -> None:
    triplet = next(iter(read_triplets(shards)))
    source = tiny.encode([triplet.source])
    made = sample(tiny, source, tiny.text([triplet.ask.instruction]), [3], Guidance(steps=3))
    assert torch.allclose(made, source, atol=1e-4)


def test_where_nothing_changes_without_words_guidance_takes_one_look(tiny: Model, shards: Path) -> None:
    torch.nn.init.normal_(tiny.unet.conv_out.weight, std=0.1)
    triplet = next(iter(read_triplets(shards)))
    source, text = tiny.encode([triplet.source]), tiny.text([triplet.ask.instruction])
    full = sample(tiny, source, text, [3], Guidance(steps=1))
    looks = list[int]()
    tiny.unet.register_forward_pre_hook(lambda *_: looks.append(1))
    louder = sample(tiny, source, text, [3], Guidance(steps=1, text=0.65, still=True))
    assert torch.allclose(louder, source + 1.15 * (full - source), atol=1e-5)
    assert len(looks) == 1


def test_a_seed_repeats_whatever_the_batch_around_it(tiny: Model, shards: Path) -> None:
    torch.nn.init.normal_(tiny.unet.conv_out.weight, std=0.1)
    triplets = list(read_triplets(shards))[:3]
    source, text = tiny.encode(t.source for t in triplets), tiny.text([t.ask.instruction for t in triplets])
    together = sample(tiny, source, text, [1, 2, 3], Guidance(steps=2, text=2.0))
    alone = sample(tiny, source[1:2], text[1:2], [2], Guidance(steps=2, text=2.0))
    assert torch.allclose(together[1:2], alone, atol=1e-4)
    assert not torch.allclose(sample(tiny, source[1:2], text[1:2], [9], Guidance(steps=2, text=2.0)), alone, atol=1e-4)


def test_a_saved_model_does_not_tell_where_it_lay_before(tiny_folder: Path, tmp_path: Path) -> None:
    saved = network.save(network.load(tiny_folder), tmp_path / "again")
    assert str(tiny_folder) not in "".join(file.read_text() for file in saved.rglob("*.json"))


def test_an_edit_comes_back_at_the_size_of_its_picture_with_a_typed_answer(tiny: Model) -> None:
    editor = Editor(tiny)
    picture = np.full((40, 72, 3), 120, np.uint8)
    edit = editor.edit(picture, "On the red dog, put a blue dot on the nose.")
    assert edit.picture.shape == picture.shape
    assert edit.ask is not None
    assert edit.ask.task == "keypoint"
    assert set(edit.found["joints"]) == {"nose"}
    assert editor.edit(picture, "Hum a tune.").ask is None


def test_bad_requests_are_refused_with_the_fix(tiny: Model) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    for arguments, words in (
        ({"instruction": "  "}, "instruction is empty"),
        ({"instruction": "Deblur this picture.", "steps": 0}, "steps=0"),
        ({"instruction": "Deblur this picture.", "task": "sing"}, "no task 'sing'"),
    ):
        with pytest.raises(ConfigError, match=words):
            Editor(tiny).edit(picture, **arguments)
