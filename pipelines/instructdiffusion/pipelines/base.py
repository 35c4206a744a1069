"""The recipe of the embedded base: scenes, networks from nothing, training, scores, model card."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from instructdiffusion.model.evaluate import REPORT, SHEET
from instructdiffusion.model.files import atomic_directory, write_atomic
from instructdiffusion.model.weights import model_digest
from instructdiffusion.pipelines.report import curves
from instructdiffusion.pipelines.work import evaluated, fit, shown, synthesized

FITTED = 1500  # pictures that the autoencoder is fitted to
CARD = "README.md"
# Shares of its triplets, in thousandths. A third is restoration, nearly twice of what the tasks weigh: noise, blur
# and text are learnt slowest (docs/decisions/0002-nano-base.md).
WEIGHTS = {
    "keypoint": 161,
    "deblur": 127,
    "remove": 106,
    "referring": 105,
    "denoise": 99,
    "segmentation": 96,
    "watermark": 91,
    "recolour": 81,
    "add": 73,
    "replace": 61,
}


def make(
    out: Path, recipe: str, settings: list[str], triplets: int, held_out: int, install: bool, console: Console
) -> dict[str, Any]:
    """Make a base below `out`: `model/` with its card, `evaluation/`; returns where, and the scores.

    Run again after an interruption it goes on; `install` puts the result in the place of the embedded one.
    """
    from instructdiffusion.model import network, weights
    from instructdiffusion.model.config import override
    from instructdiffusion.model.recipes import recipe as recipe_named

    run = override(recipe_named(recipe), settings)
    weights.check_free(out / "model")  # before the hours
    size, seed = run.network.size, run.seed
    manifest = synthesized(out / "data", "train", triplets, False, size, seed, console, WEIGHTS)
    training = fit(run, out / "data", start(out, run, console), out / "training", 1, console)
    trained = network.load(Path(training["model"]))
    with atomic_directory(out / "model") as new:
        network.save(trained, new / "model", half=True)
        for part in (new / "model").iterdir():
            part.rename(new / part.name)
        (new / "model").rmdir()
    evaluation = evaluated(out / "model", None, held_out, out / "evaluation", console)
    curve = json.loads((Path(training["model"]).parent / "training.json").read_text())["curve"]
    document(out / "model", run.model_dump(mode="json"), manifest, training, out / "evaluation" / "scores", curve)
    if install:
        with atomic_directory(weights.BASE) as new:
            shutil.copytree(out / "model", new, dirs_exist_ok=True)
    return {"model": str(out / "model"), "digest": model_digest(out / "model"), "tasks": evaluation["tasks"]}


def document(
    folder: Path,
    run: Mapping[str, Any],
    manifest: Mapping[str, Any],
    training: Mapping[str, Any],
    scores: Path,
    curve: list[dict[str, float]],
    note: str = "",
) -> None:
    """Write the model card into `folder`, and what it is drawn from: curve, data manifest, scores.

    `note` tells what the numbers of the training leave out.
    """
    drawn = curves({"base": {"curve": curve}})["base"]
    write_atomic(folder / "curve.svg", base64.b64decode(drawn.partition(",")[2]))
    write_atomic(folder / "manifest.json", json.dumps(manifest))
    shutil.copyfile(scores / SHEET, folder / SHEET)
    shutil.copyfile(scores / REPORT, folder / REPORT)
    write_atomic(folder / CARD, card(run, manifest, training, json.loads((scores / REPORT).read_text()), note))


def start(out: Path, run: Any, console: Console) -> Path:
    """The networks before the training: the autoencoder fitted to the first targets, the text encoder reads."""
    from instructdiffusion.model import network, text_training, weights
    from instructdiffusion.model.data.shards import read_triplets

    folder = out / "start"
    if not (folder / weights.SETTINGS).is_file():
        with shown(console, "make the networks"):
            targets = [t.target for t in itertools.islice(read_triplets(out / "data"), FITTED)]
            nets = network.create(run.network, run.diffusion, targets, run.seed)
        if not run.train_text:
            with shown(console, "learn to read") as progress:
                text_training.train(nets, steps=text_training.STEPS, seed=run.seed, progress=progress)
        network.save(nets, folder)
    return folder


def _measured(measure: Mapping[str, Any]) -> str:
    """The middle cells of a row: score, interval, both slices, bar."""
    value = f"{measure['value']:.2f}"
    slices = [measure["slices"].get(name) for name in ("seen pairs", "held-out pairs")]
    spans = [f"{s[0]:.2f} ({s[1]:.2f} to {s[2]:.2f})" if s else "" for s in slices]
    reached = f"**{value}**" if measure["low"] >= measure["bar"] else value
    cells = (reached, f"{measure['low']:.2f} to {measure['high']:.2f}", *spans, f"{measure['bar']:g}")
    return "| " + " | ".join(cells) + " |"


def card(
    run: Mapping[str, Any],
    manifest: Mapping[str, Any],
    training: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    note: str = "",
) -> str:
    """The model card: what it is, what it was made of, what it scores, what it is not for."""
    rows = []
    for name, s in evaluation["tasks"].items():
        rows.append(f"| {name} | {s['metric']} {_measured(s)} {s['floor']:.2f} | {s['bound']:.2f} | {s['n']} |")
        rows += [f"| | {other} {_measured(m)} | | {m['n']} |" for other, m in s["also"].items()]
    licences = "\n".join(f"- {licence}" for licence in manifest["licences"])
    side, hours = manifest["size"], training["seconds"] / 3600
    return f"""# The nano base

Edits, restores and reads pictures of {side} x {side} pixels by instruction. Trained from nothing on composed scenes, so
that two CPU cores have a model to start from. It knows drawn objects on photographs, and the words of this project's
instructions; it is not for people's photographs, nor for anything that matters.

Made by `instructdiffusion base` with recipe `{run["name"]}` and seed {run["seed"]}: {training["steps"]} steps in
{hours:.1f} hours, {training["triplets_per_second"]:.0f} triplets a second.{note and chr(10) + note}

## Scores

On held-out photographs, with 95 % intervals; "seen" and "held out" are pairs of kind and colour. The bar is what the
lower end is meant to reach, bold where it does; the floor is doing nothing, the bound the truth after the autoencoder.

| task | metric | score | interval | seen | held out | bar | floor | bound | samples |
|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

The truth keeps {evaluation["autoencoder"][0]:.1f} dB through the autoencoder. The scores of every sample are in
[evaluation.json](evaluation.json). The first samples of every task, source, output and target:

![the first samples of every task]({SHEET})

## Training

![loss over steps](curve.svg)

## Data

{sum(manifest["counts"].values())} triplets, seed {manifest["seed"]}, split `{manifest["split"]}`;
every shard is in [manifest.json](manifest.json).

{licences}

## Settings

```json
{json.dumps(run, indent=1)}
```
"""
