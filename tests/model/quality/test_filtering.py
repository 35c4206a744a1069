"""The filter: all that was read is kept or rejected, with a reason; killed anywhere it ends with the same bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
from safetensors.numpy import save_file

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.shards import Manifest, Triplet, read_samples, read_triplets, write_shard
from instructdiffusion.model.data.sources import Scenes, Sources
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.quality.filtering import REJECTED, filter_shards, verdicts
from instructdiffusion.model.quality.policy import WHOLE, Policy

STRICT = "name: strict\nrules:\n- {name: shows, score: psnr, below: 20}\n- {name: near, score: nearest, above: 40}\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources, two shards each."""
    folder = tmp_path_factory.mktemp("built")
    sources = Sources(sources=(Scenes(name="one", scenes=20), Scenes(name="two", scenes=20)))
    build(Order(sources, size=32, seed=0, per_shard=10), folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def filtered(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filtered")
    filter_shards(built, out, Policy.read(STRICT))
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_triplet_is_kept_or_rejected_as_it_was(built: Path, filtered: Path) -> None:
    before = {t.key: t for t in read_triplets(built)}
    kept, rejected = ({t.key: t for t in read_triplets(folder)} for folder in (filtered, filtered / REJECTED))
    assert kept
    assert rejected
    assert {*kept, *rejected} == set(before)
    assert not {*kept} & {*rejected}
    for key, triplet in {**kept, **rejected}.items():
        assert np.array_equal(triplet.source, before[key].source)
        assert triplet.ask == before[key].ask


def test_counts_of_tasks_and_sources_are_of_what_is_there(built: Path, filtered: Path) -> None:
    for folder in (filtered, filtered / REJECTED):
        manifest, triplets = Manifest.load(folder), list(read_triplets(folder))
        assert manifest.total == len(triplets)
        for name, origin in manifest.sources.items():
            assert sum(origin.counts.values()) == sum(t.provenance["source"] == name for t in triplets)
        assert manifest.parents == (digest_of(built / "manifest.json"),)
        assert manifest.settings["policy"]["name"] == "strict"


def test_a_rejected_triplet_holds_its_rule_and_value(filtered: Path) -> None:
    manifest = Manifest.load(filtered / REJECTED)
    for shard in manifest.shards:
        for sample in read_samples(filtered / REJECTED, shard):
            verdict = json.loads(sample["verdict.json"])
            assert verdict["key"] == sample["__key__"]
            assert verdict["rule"] in ("shows", "near")
            assert verdict["values"][verdict["rule"]] == verdict["value"]
            if verdict["rule"] == "shows":
                assert verdict["value"] >= 20
                assert verdict["told"] == f"psnr is {verdict['value']:.4g}, not below 20"


def test_the_report_counts_and_sums_up(built: Path, filtered: Path) -> None:
    report = Manifest.load(filtered).report
    assert report["read"] == 40 == report["kept"] + sum(report["dropped"].values())
    spread = report["scores"]["shows"]
    assert spread["count"] + spread["missing"] == 40
    assert sum(spread["kept"]) + sum(spread["rejected"]) == spread["count"]
    lines = [v for shard in Manifest.load(built).shards for v in verdicts(filtered, shard)]
    values = [v.values["shows"] for v in lines if v.values["shows"] is not None]
    assert spread["mean"] == pytest.approx(np.mean(values), rel=1e-4)
    assert {v.key for v in lines if v.rule == "shows"} >= set(report["examples"]["shows"])


def test_a_run_that_was_cut_off_goes_on_and_ends_with_the_same_bytes(
    built: Path, filtered: Path, tmp_path: Path
) -> None:
    class Cut(Exception):
        pass

    def cut(done: int, total: int) -> None:
        if done == 2:
            raise Cut

    out = tmp_path / "out"
    with pytest.raises(Cut):
        filter_shards(built, out, Policy.read(STRICT), progress=cut)
    first = {name: (out / name).stat().st_ino for name in content(out)}
    assert not (out / "manifest.json").exists()
    filter_shards(built, out, Policy.read(STRICT))
    assert content(out) == content(filtered)
    assert all((out / name).stat().st_ino == node for name, node in first.items())


def test_a_damaged_shard_and_another_policy_are_filtered_again(built: Path, filtered: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(filtered, out)
    shard = out / Manifest.load(out).shards[0].name
    shard.write_bytes(shard.read_bytes()[:-1024])
    filter_shards(built, out, Policy.read(STRICT))
    assert content(out) == content(filtered)
    loose = filter_shards(built, out, Policy.read("embedded"))
    assert loose.total == len(list(read_triplets(out))) > Manifest.load(filtered).total


def planted(tmp_path: Path, triplets: list[Triplet], like: Path) -> Path:
    folder = tmp_path / "planted"
    shard = write_shard(folder / "shard-00000.tar", triplets)
    Manifest.load(like).model_copy(update={"shards": (shard,), "sources": {}}).save(folder)
    return folder


def test_the_embedded_policy_rejects_each_fault_by_its_rule(built: Path, tmp_path: Path) -> None:
    by_task = {t.ask.task: t for t in read_triplets(built)}
    edit, marked, region = by_task["remove"], by_task["keypoint"], by_task["referring"]
    dot = np.zeros_like(region.label["mask"])
    dot[3, 3] = True
    faults = {
        "still": (replace(edit, key="still", target=edit.source), "shows"),
        "dot": (replace(region, key="dot", label={**region.label, "mask": dot}), "large_enough"),
        "wiped": (replace(marked, key="wiped", target=marked.source + np.uint8(40)), "readable"),
        "twice": (replace(edit, key="twice"), "duplicate"),
        "halved": (replace(edit, key="halved", target=edit.target[:16]), WHOLE),
        "blind": (replace(edit, key="blind", label={"words": {}}), WHOLE),
    }
    folder = planted(tmp_path, [edit, marked, region, *(fault for fault, _ in faults.values())], built)
    filter_shards(folder, tmp_path / "out")
    assert {t.key for t in read_triplets(tmp_path / "out")} == {edit.key, marked.key, region.key}
    found = {v.key: v.rule for v in verdicts(tmp_path / "out", Manifest.load(folder).shards[0]) if v.rule}
    assert found == {key: rule for key, (_, rule) in faults.items()}


def test_a_triplet_without_a_value_passes_or_not_as_the_policy_says(built: Path, tmp_path: Path) -> None:
    rule = "rules: [{name: captioned, score: region, at_least: 0, tasks: [denoise]}]"
    keep = filter_shards(built, tmp_path / "keep", Policy.read(f"missing: keep\n{rule}"))
    drop = filter_shards(built, tmp_path / "drop", Policy.read(f"missing: drop\n{rule}"))
    assert keep.counts["denoise"] == drop.report["dropped"]["captioned"]
    assert "denoise" not in drop.counts


def test_a_filter_that_leaves_nothing_says_where_to_look(built: Path, tmp_path: Path) -> None:
    nothing = Policy.read("rules: [{name: large, score: side, at_least: 1000}]\nname: own")
    with pytest.raises(DataError, match=r"dropped all 40 triplets .*'large': 40.* look at them in .*rejected"):
        filter_shards(built, tmp_path / "out", nothing)
    assert not (tmp_path / "out/manifest.json").exists()


def test_all_that_a_policy_lacks_is_told_before_anything_is_scored(built: Path, tmp_path: Path) -> None:
    lacking = Policy.read("paper", [f"aesthetic.clip={tmp_path}/clip", f"gap.clip={tmp_path}/other"])
    with pytest.raises(ConfigError, match=r"rule aesthetic: .*/clip is no network.*; rule gap: .*/other is no network"):
        filter_shards(built, tmp_path / "out", lacking)
    assert not (tmp_path / "out").exists()


def test_the_papers_rules_are_for_edits_that_were_synthesised(tiny_clip: Path, tmp_path: Path) -> None:
    published.phrasecut(tmp_path / "removals")
    published.gopro(tmp_path / "blurred")
    published.gqa(tmp_path / "gqa")
    rows: list[dict[str, Any]] = [
        {"name": name, "path": str(tmp_path / name), "split": "train"} for name in ("removals", "blurred", "gqa")
    ]
    rows[0]["make"] = ["remove", "add"]
    sources = Sources.model_validate({"sources": [*rows, {"name": "scenes", "scenes": 14}]})
    build(Order(sources, size=64, seed=3), tmp_path / "mixed", workers=1)
    head = tmp_path / "head.safetensors"  # it likes nothing
    save_file({"weight": np.zeros((1, 24), np.float32), "bias": np.full(1, 3, np.float32)}, head)
    own = [
        f"{rule}.{name}={path}" for rule in ("aesthetic", "gap") for name, path in (("clip", tiny_clip), ("head", head))
    ]
    manifest = filter_shards(tmp_path / "mixed", tmp_path / "out", Policy.read("paper", own))
    assert manifest.report["dropped"] == {"aesthetic": 2}
    before, after = (
        {name: origin.counts for name, origin in Manifest.load(tmp_path / folder).sources.items()}
        for folder in ("mixed", "out")
    )
    assert before["gqa"]["remove"] > 0
    assert after == {**before, "removals": {}}
    assert manifest.report["scores"]["gap"]["count"] == 2
    (gone,) = Manifest.load(tmp_path / "out" / REJECTED).licences
    assert gone.startswith("no licence stated for phrases")
    assert {*Manifest.load(tmp_path / "mixed").licences} - {*manifest.licences} == {gone}
