"""Sources and policies that name what lies in a real store, by any kind of address."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import published
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from instructdiffusion.components import build, filter
from instructdiffusion.components.settings import Settings
from instructdiffusion.components.storage import Store, located
from instructdiffusion.model.data.shards import Manifest, read_triplets
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.synthesis.lama import Generator
from instructdiffusion.model.synthesis.write import synthesize
from instructdiffusion.pipelines.cli import app

LEFT_OUT = "coco crowdpose mpii aic coco-stuff refcoco grefcoco reds sidd pix2pix gier gqa magicbrush swaps requests"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A few of the paper's data sets, and a tiny LaMa."""
    published.gopro(tmp_path / "root/GOPRO_Large")
    published.clwd(tmp_path / "root/CLWD")
    published.phrasecut(tmp_path / "root/VGPhraseCut_v0")
    torch.manual_seed(0)
    state = Generator(width=8, downs=3, blocks=2).state_dict()
    (tmp_path / "root/weights").mkdir()
    save_file({f"generator.{name}": value for name, value in state.items()}, tmp_path / "root/weights/lama.safetensors")
    return tmp_path / "root"


def test_an_address_of_any_kind_is_brought_to_this_machine_with_its_name(
    store: Store, folder: Path, name: str, tmp_path: Path
) -> None:
    uri = store.put_directory(folder, f"{name}/blip")
    copy = located(f"blip2:{uri}/", tmp_path / "copies", store)
    assert copy.startswith(f"blip2:{tmp_path}/copies/")
    assert copy.endswith("/blip")
    assert digest_of(Path(copy.removeprefix("blip2:"))) == digest_of(folder)
    file = located(f"lama:{store.put_file(folder / 'editor.json', f'{name}/big.pt')}", tmp_path / "copies", store)
    assert file.endswith("/big.pt")
    assert Path(file.removeprefix("lama:")).read_text() == '{"resolution": 64}'
    for address in ("openai/clip", "opencv:ns", "/data/coco", "labels"):
        assert located(address, tmp_path / "copies", None) == address
    with pytest.raises(ConfigError, match="none is set"):
        located("lama:s3://bucket/big.pt", tmp_path, None)


def test_what_a_file_in_the_store_names_is_beside_it_and_what_the_papers_names_is_below_a_root_there(
    store: Store, settings: Settings, root: Path, name: str, tmp_path: Path
) -> None:
    for path in root.iterdir():
        store.put_directory(path, f"{name}/{path.name}")
    shutil.copy(root / "weights/lama.safetensors", tmp_path / "big-lama.safetensors")
    text = (
        "instructions: mine.jsonl\nsources:\n"
        "  - {name: blurred, dataset: GoPro, path: GOPRO_Large, split: train}\n"
        "  - {name: removals, path: VGPhraseCut_v0, split: train, make: [remove],"
        " inpainter: 'lama:big-lama.safetensors'}\n"
    )
    (tmp_path / "s.yaml").write_text(text)
    (tmp_path / "mine.jsonl").write_text(json.dumps({"task": "deblur", "text": "Focus, please.", "by": "hand"}))
    for file in ("s.yaml", "mine.jsonl", "big-lama.safetensors"):
        store.put_file(tmp_path / file, f"{name}/{file}")
    read = build.read(store.uri(f"{name}/s.yaml"), tmp_path / "copy.yaml", store)
    made = build.run(read, tmp_path / "out", size=64, seed=0, workers=1, store=store)
    assert made.facts["counts"] == {"deblur": 3, "remove": 1}
    (blurred, *_), (removed,) = ([*read_triplets(made.path, [task])] for task in ("deblur", "remove"))
    assert blurred.ask.instruction == "Focus, please."
    assert removed.provenance["inpainter"].startswith("lama:big-lama.safetensors@sha256:")

    paper = build.read("paper", tmp_path, store, root=store.uri(name), without=[*LEFT_OUT.split(), "removals"])
    made = build.run(paper, tmp_path / "paper", size=32, seed=0, workers=1, store=store)
    assert made.facts["counts"] == {"deblur": 3, "watermark": 1}
    assert {name: origin["weight"] for name, origin in made.facts["sources"].items()} == {"gopro": 2, "clwd": 0.2}


def test_the_command_builds_what_is_below_a_root_and_names_all_that_is_not(root: Path, tmp_path: Path) -> None:
    without = [option for name in LEFT_OUT.split()[2:] for option in ("--without", name)]
    command = ["data", "build", "paper", str(tmp_path / "out"), "--root", str(root), "--workers", "1", "--size", "32"]
    ended = CliRunner().invoke(app, [*command, *without])
    assert ended.exit_code == DataError.exit_code
    (line,) = ended.stderr.strip().splitlines()
    for told in (
        "3 things that the sources name are not there",
        f"coco: path {root}/coco (COCO keypoints, https://cocodataset.org/#download)",
        f"crowdpose: path {root}/crowdpose (CrowdPose, https://",
        f"removals: inpainter {root}/weights/big-lama.pt",
        "leave those sources out (without)",
    ):
        assert told in line
    assert not (tmp_path / "out").exists()

    for name in ("coco", "crowdpose", "removals"):
        without += ["--without", name]
    ended = CliRunner().invoke(app, [*command, *without])
    assert ended.exit_code == 0, ended.output
    assert Manifest.load(tmp_path / "out").counts == {"deblur": 3, "watermark": 1}
    with pytest.raises(ConfigError, match="give it as root"):
        build.read("paper", tmp_path, None)


def test_a_policy_in_the_store_finds_its_networks_beside_it_and_says_the_same_wherever_they_came_to(
    store: Store, tiny_clip: Path, name: str, tmp_path: Path
) -> None:
    synthesize(tmp_path / "made", split="train", counts={"remove": 3}, size=32, seed=0, workers=1)
    save_file({"weight": torch.zeros(1, 24), "bias": torch.full((1,), 7.0)}, tmp_path / "head.safetensors")
    rule = "{name: a, score: aesthetic, at_least: 5, options: {clip: ./clip, head: head.safetensors}}"
    (tmp_path / "policy.yaml").write_text(f"name: own\nrules:\n- {rule}\n")
    shutil.copytree(tiny_clip, tmp_path / "clip")
    store.put_directory(tiny_clip, f"{name}/clip")
    for file in ("policy.yaml", "head.safetensors"):
        store.put_file(tmp_path / file, f"{name}/{file}")
    away = filter.run(tmp_path / "made", tmp_path / "away", policy=store.uri(f"{name}/policy.yaml"), store=store)
    here = filter.run(tmp_path / "made", tmp_path / "here", policy=str(tmp_path / "policy.yaml"))
    assert away.digest == here.digest
    assert away.facts["report"]["scores"]["a"]["mean"] == 7

    drawn = filter.draw(away.path, tmp_path / "audit", store)
    assert len(list((drawn.path / "pictures").iterdir())) == 3
    assert store.exists(drawn.uri)
