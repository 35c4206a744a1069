"""Prompt-to-prompt: what pictures of two captions share, what CLIP lets pass, and pairs as a source of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import published
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from stable import tiny_stable_diffusion

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.readers import reader_for
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.data.sources import DataSet, Pairs, Sources, sources_of
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.quality.clip import eyes
from instructdiffusion.model.synthesis.pairs import LEAST, likeness
from instructdiffusion.model.synthesis.prompt_to_prompt import Plan, Twins, aligned
from instructdiffusion.model.synthesis.prompt_to_prompt import twins as loaded

BEFORE, AFTER = "a cat", "a dog"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_stable_diffusion(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="module")
def twins(folder: Path) -> Twins:
    """The model that sources of this folder are painted with too."""
    found = loaded(str(folder))
    found.steps = 4
    return found


def apart(pair: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.abs(pair[0].astype(int) - pair[1]).mean())


def test_tokens_that_stand_for_the_same_are_aligned() -> None:
    assert aligned([0, 5, 6, 9, 9], [0, 5, 7, 9, 9]) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])  # one word for another
    assert aligned([0, 5, 6, 9], [0, 5, 7, 8, 6, 9]) == ([0, 1, 2, 3], [0, 1, 4, 5])  # two words more
    assert aligned([0, 5, 6, 9], [0, 7, 9]) == ([0, 3], [0, 2])  # one word for two


def test_only_the_second_picture_takes_over_and_only_what_the_plan_says() -> None:
    looks_BHQK = torch.rand(4, 2, 5, 3)
    plan = Plan(first=[0, 1], second=[0, 2], share=0.8)
    shared_BHQK = plan.shared(looks_BHQK, tokens=True)
    assert torch.equal(shared_BHQK[:3], looks_BHQK[:3])
    assert torch.equal(shared_BHQK[3][..., [0, 2]], looks_BHQK[2][..., [0, 1]])
    assert torch.equal(shared_BHQK[3][..., 1], looks_BHQK[3][..., 1])
    assert torch.equal(plan.shared(looks_BHQK, tokens=False)[3], looks_BHQK[2])
    plan.done = 0.5
    assert torch.equal(plan.shared(looks_BHQK, tokens=False), looks_BHQK)
    assert torch.equal(plan.shared(looks_BHQK, tokens=True), shared_BHQK)
    plan.done = 0.8
    assert torch.equal(plan.shared(looks_BHQK, tokens=True), looks_BHQK)


def test_equal_captions_give_equal_pictures_and_a_seed_repeats(twins: Twins) -> None:
    assert apart(twins.paint(BEFORE, BEFORE, 0.0, 1)) == 0
    one, other = twins.paint(BEFORE, AFTER, 0.5, 1), twins.paint(BEFORE, AFTER, 0.5, 1)
    assert np.array_equal(one, other)
    assert not np.array_equal(one[0], twins.paint(BEFORE, AFTER, 0.5, 2)[0])


def test_without_a_share_the_pictures_are_those_of_the_model_itself(folder: Path, twins: Twins) -> None:
    plain = Twins(folder, steps=4)
    plain.pipeline.unet.set_attn_processor(AttnProcessor())
    for mine, own in zip(twins.paint(BEFORE, AFTER, 0.0, 1), plain.paint(BEFORE, AFTER, 0.0, 1), strict=True):
        assert np.abs(mine.astype(int) - own).max() <= 1


def test_the_larger_the_share_the_nearer_the_second_picture_comes_while_the_first_stays(twins: Twins) -> None:
    found = {share: twins.paint(BEFORE, AFTER, share, 1) for share in (0.0, 0.5, 1.0)}
    assert np.array_equal(found[0.0][0], found[1.0][0])
    assert apart(found[0.0]) > apart(found[0.5]) > apart(found[1.0]) > 0


def test_likeness_is_what_clip_says_of_pictures_and_captions(tiny_clip: Path, twins: Twins) -> None:
    pair = twins.paint(BEFORE, AFTER, 0.5, 1)
    found = likeness(eyes(str(tiny_clip)), pair, (BEFORE, AFTER))
    swapped = likeness(eyes(str(tiny_clip)), pair[::-1], (AFTER, BEFORE))
    assert found.keys() == LEAST.keys()
    assert found["clip_image"] == swapped["clip_image"] <= 1
    assert found["clip_before"] == swapped["clip_after"]
    assert found["clip_direction"] == swapped["clip_direction"]  # both the other way round


def test_lists_of_instructpix2pix_are_read(tmp_path: Path) -> None:
    folder = published.prompts(tmp_path / "prompts")
    reader = reader_for(folder)
    assert reader.counts(folder, "train").skipped == {
        "input, edit, output: one is empty or not UTF-8": 1,
        "line: no JSON": 1,
    }
    (one,) = reader.examples(folder, "train")
    assert one.label == {"instruction": "as an oil painting", "caption": "a hut", "caption_after": "a hut in oil"}
    assert one.facts == {"address": "https://x.org/1.jpg"}
    with pytest.raises(DataError, match="a pair of captions has no picture"):
        one.source()


def test_pairs_are_a_source_whose_triplets_tell_how_they_were_painted(
    folder: Path, twins: Twins, tmp_path: Path
) -> None:
    given = {"name": "styles", "path": str(published.prompts(tmp_path / "p")), "split": "train", "copies": 2}
    source = Pairs.model_validate({**given, "make": ["edit"], "model": str(folder)})
    manifest = build(Order(Sources(sources=(source,)), size=32, seed=1), tmp_path / "out", workers=1)
    assert manifest.counts == {"edit": 2}
    assert manifest.sources["styles"].weight == 1.0
    assert manifest.settings["sources"][0]["model"].startswith("sha256:")
    one, other = read_triplets(tmp_path / "out")
    assert one.ask.instruction == "as an oil painting"
    assert one.source.shape == (32, 32, 3)
    assert not np.array_equal(one.source, other.source)
    facts = one.provenance
    assert (facts["caption"], facts["caption_after"]) == ("a hut", "a hut in oil")
    assert 0.1 <= facts["share"] <= 0.9
    assert facts["model"] == twins.name == f"model@{manifest.settings['sources'][0]['model']}"


def test_pairs_that_clip_takes_for_no_edit_are_left_out_with_the_reason(
    folder: Path, twins: Twins, tiny_clip: Path, tmp_path: Path
) -> None:
    given = {"name": "styles", "path": str(published.prompts(tmp_path / "p")), "split": "train", "make": ["edit"]}
    source = Pairs.model_validate({**given, "model": str(folder), "clip": str(tiny_clip)})
    with pytest.raises(DataError, match=r"clip_\w+: no such edit': 1"):  # weights of chance know no captions
        build(Order(Sources(sources=(source,)), size=32, seed=1), tmp_path / "out", workers=1)


def test_a_model_that_edits_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(DataError, match="wants a source besides the caption; name a text-to-image model"):
        Twins(tiny_folder)


def test_what_pairs_need_is_told_before_anything_is_painted(tmp_path: Path) -> None:
    given = f"name: s, path: {published.prompts(tmp_path / 'p')}, split: train"
    text = f"sources: [{{{given}, make: [edit], model: models/sd}}]"
    (source,) = sources_of(text, "s.yaml").below("/data").sources
    assert isinstance(source, Pairs)
    assert source.model == "/data/models/sd"
    with pytest.raises(ConfigError, match=r"sources\.0\.make\.0: input should be 'edit'"):
        sources_of(text.replace("[edit]", "[remove]"), "s.yaml")
    plain = DataSet(name="s", path=str(tmp_path / "p"), split="train")
    for wrong, error, told in (
        (source, DataError, "model in /data/models/sd can't be read"),
        (plain, ConfigError, r"InstructPix2Pix prompts .* add make: \[edit\]"),
    ):
        with pytest.raises(error, match=told):
            build(Order(Sources(sources=(wrong,)), size=32, seed=1), tmp_path / "out", workers=1)
