"""Candidates for alignment: several edits of one source under different guidance and seeds (section 3.3 of the paper).

For each prompt the model edits with a grid of guidance settings; people (or the reference annotator) pick the best of
them; the picks become triplets whose target is the picked edit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from instructdiffusion.model import network
from instructdiffusion.model.data.shards import (
    MANIFEST,
    Manifest,
    Triplet,
    decode_png,
    encode_png,
    read_triplets,
    write_shard,
)
from instructdiffusion.model.editor import Editor
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.evaluate import seed_of
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.task import Image, psnr
from instructdiffusion.model.tasks import TASKS

CANDIDATES = "candidates.json"
TEXT_GUIDANCE = (0.5, 1.0, 1.5, 2.5)  # 0.5 is no guidance
STEPS = (1, 2, 4)


def settings(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different settings: every guidance and step count in turn, each time with other seeds; shuffled.

    The paper takes 20 guidance settings (section 3.3); a small model also gains from fewer or more steps.
    """
    grid = [{"text_guidance": text, "image_guidance": 0.5, "steps": steps} for text in TEXT_GUIDANCE for steps in STEPS]
    rng = Random(seed)
    rng.shuffle(grid)
    return [{**grid[i % len(grid)], "seed": seed * 1000 + i} for i in range(count)]


def propose(
    model: Path | None,
    shards: Path,
    out: Path,
    *,
    count: int,
    seed: int,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Edit each triplet's source `count` times and write the pictures and `candidates.json`; returns that file.

    Pictures are named by content, edits are listed in an order that tells nothing about their settings.

    Args:
        limit: prompts per task; all when None.
    """
    editor = Editor.load(model)
    triplets = _limited(read_triplets(shards), limit)
    if not triplets:
        raise DataError(f"{shards} holds no triplets to propose edits for; synthesize again with more of them")
    variants = settings(count, seed)
    edits: dict[str, list[dict[str, Any]]] = {t.key: [] for t in triplets}
    for done, variant in enumerate(variants):
        guidance = network.Guidance(variant["steps"], variant["text_guidance"], variant["image_guidance"])
        seeds = [seed_of(t.key, variant["seed"]) for t in triplets]
        outputs = editor.outputs([t.source for t in triplets], [t.ask.instruction for t in triplets], seeds, guidance)
        for triplet, output in zip(triplets, outputs, strict=True):
            name = _store(output, out)
            if name not in {e["id"] for e in edits[triplet.key]}:
                edits[triplet.key].append({"id": name, "picture": f"pictures/{name}.png", **variant})
        progress(done + 1, count)
    prompts: list[dict[str, Any]] = [
        {
            "key": t.key,
            "task": t.ask.task,
            "instruction": t.ask.instruction,
            "marks": t.ask.marks,
            "source": f"pictures/{_store(t.source, out)}.png",
            "edits": sorted(edits[t.key], key=lambda e: str(e["id"])),
        }
        for t in triplets
    ]
    document = {
        "shards": digest_of(shards / MANIFEST),
        "model": digest_of(model or network.BASE),
        "prompts": prompts,
    }
    return write_atomic(out / CANDIDATES, json.dumps(document, indent=1))


def truth_score(output: Image, triplet: Triplet) -> float:
    """How near an edit is to the truth, 0..1, comparable between edits of one prompt.

    Likeness is the gain in PSNR over the source left alone, over the whole picture, so that wrecking the background
    costs what it should: 0.5 is no gain, 10 dB more is 1. Tasks with a measure in 0..1 give that measure half.
    """
    gain = psnr(output, triplet.target) - psnr(triplet.source, triplet.target)
    likeness = float(np.clip(0.5 + gain / 20, 0, 1))
    task = TASKS[triplet.ask.task]
    if task.metric.name == "gain":
        return likeness
    return 0.5 * likeness + 0.5 * task.score(output, triplet.source, triplet.label, triplet.ask)[task.metric.name]


def truth_scores(candidates: Path, shards: Path) -> dict[str, dict[str, float]]:
    """The truth score of every edit, by prompt and edit."""
    prompts = {p["key"]: p for p in load(candidates)["prompts"]}
    return {
        t.key: {e["id"]: truth_score(_picture(candidates, e["picture"]), t) for e in prompts[t.key]["edits"]}
        for t in read_triplets(shards)
        if t.key in prompts
    }


def source_scores(candidates: Path, shards: Path) -> dict[str, float]:
    """The truth score of leaving each prompt's source alone."""
    keys = {p["key"] for p in load(candidates)["prompts"]}
    return {t.key: truth_score(t.source, t) for t in read_triplets(shards) if t.key in keys}


def aligned_shards(candidates: Path, shards: Path, picks: Mapping[str, Sequence[str]], out: Path) -> Manifest:
    """Triplets whose target is a picked edit, one per pick.

    Raises:
        DataError: there are no picks, or one names an edit that was not proposed.
    """
    prompts = {p["key"]: {e["id"]: e for e in p["edits"]} for p in load(candidates)["prompts"]}
    unknown: list[tuple[str, str]] = [
        (k, e) for k, chosen in picks.items() for e in chosen if e not in prompts.get(k, {})
    ]
    if unknown:
        raise DataError(
            f"edit {unknown[0][1]} of prompt {unknown[0][0]} was never proposed; collect with the candidates ranked"
        )

    def picked() -> Iterator[Triplet]:
        for triplet in read_triplets(shards):
            for edit in picks.get(triplet.key, ()):
                made_by = {
                    **triplet.provenance,
                    "picked": edit,
                    "settings": {k: v for k, v in prompts[triplet.key][edit].items() if k != "picture"},
                }
                target = _picture(candidates, prompts[triplet.key][edit]["picture"])
                yield replace(triplet, key=f"{triplet.key}-{edit[:8]}", target=target, provenance=made_by)

    triplets = list(picked())
    if not triplets:
        raise DataError("no edit was picked, so there is nothing to align on; propose more edits or rank more prompts")
    parent = Manifest.load(shards)
    counts = {name: sum(t.ask.task == name for t in triplets) for name in TASKS}
    shard = write_shard(out / "shard-00000.tar", triplets)
    changes = {
        "shards": (shard,),
        "counts": {k: v for k, v in counts.items() if v},
        "parents": (digest_of(shards / MANIFEST),),
        "report": {},
    }
    return parent.model_copy(update=changes).save(out)


def load(candidates: Path) -> dict[str, Any]:
    """Read candidates.json.

    Raises:
        DataError: there is none.
    """
    path = candidates / CANDIDATES
    if not path.is_file():
        raise DataError(f"{candidates} holds no {CANDIDATES}; run the propose step first")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _limited(triplets: Iterator[Triplet], limit: int | None) -> list[Triplet]:
    taken: dict[str, int] = {}
    chosen = []
    for triplet in triplets:
        taken[triplet.ask.task] = taken.get(triplet.ask.task, 0) + 1
        if limit is None or taken[triplet.ask.task] <= limit:
            chosen.append(triplet)
    return chosen


def _store(picture: Image, out: Path) -> str:
    """Write a picture under the digest of its PNG, once; returns the digest."""
    data = encode_png(picture)
    name = hashlib.sha256(data).hexdigest()
    path = out / "pictures" / f"{name}.png"
    if not path.is_file():
        write_atomic(path, data)
    return name


def _picture(candidates: Path, name: str) -> Image:
    path = candidates / name
    if not path.is_file():
        raise DataError(f"picture {path} is missing; run the propose step again")
    return decode_png(path.read_bytes())
