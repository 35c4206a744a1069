"""The page about a filtered data set: what is rare in it is shown too, wherever it lies."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from instructdiffusion.model.data.shards import Manifest, read_triplets, write_shard
from instructdiffusion.model.quality.filtering import filter_shards
from instructdiffusion.model.quality.policy import Policy
from instructdiffusion.model.synthesis.write import synthesize
from instructdiffusion.pipelines.quality_page import PAIRS, page_of


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of noise, and a last one with two removals, one of which does nothing."""
    folder = tmp_path_factory.mktemp("data")
    synthesize(folder / "made", split="train", counts={"denoise": 24, "remove": 2}, size=32, seed=0, workers=1)
    licence = {"licence": "CC0", "source": "noisy"}
    noise = [replace(t, provenance=licence) for t in read_triplets(folder / "made", ["denoise"])]
    one, other = read_triplets(folder / "made", ["remove"])
    removals = [replace(t, provenance={"licence": "CC BY", "source": "edits"}) for t in (one, other)]
    removals[1] = replace(removals[1], target=other.source, label={**other.label, "target": other.source})
    parts = [*(noise[start : start + 8] for start in (0, 8, 16)), removals]
    shards = tuple(write_shard(folder / f"mixed/s-{number:05d}.tar", part) for number, part in enumerate(parts))
    told = {"shards": shards, "licences": ("CC BY", "CC0")}
    Manifest.load(folder / "made").model_copy(update=told).save(folder / "mixed")
    rules = "[{name: grainy, score: psnr, below: 30, tasks: [denoise]}, {name: shows, score: psnr, below: 50}]"
    filter_shards(folder / "mixed", folder / "out", Policy.read(f"name: own\nrules: {rules}\n"))
    return folder / "out"


def test_each_task_and_rule_has_a_sheet_wherever_in_the_shards_it_is(filtered: Path) -> None:
    page = page_of(filtered, "mixed")
    captions = {
        caption: figure.count("data:image/webp")
        for figure in re.findall(r"<figure.*?</figure>", page, re.DOTALL)
        for caption in re.findall(r"<figcaption>(.*?)</figcaption>", figure)
    }
    assert captions["remove: source and target"] == 2
    assert captions["denoise: source and target"] == 2 * PAIRS
    assert captions["rejected by shows: psnr is 60, not below 50"] == 2
    assert page_of(filtered, "mixed") == page


def test_licences_are_told_with_how_many_triplets_state_them(filtered: Path) -> None:
    page = page_of(filtered, "mixed")
    left = Manifest.load(filtered).counts
    for licence, task in (("CC0", "denoise"), ("CC BY", "remove")):
        assert re.search(rf"{licence}</td>\s*<td[^>]*>{left[task]}</td>", page)
