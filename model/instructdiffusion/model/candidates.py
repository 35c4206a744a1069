"""Candidates for alignment: several edits of one source, of which the best are picked (section 3.3 of the paper).

`propose` makes them; here is what is known of them, and how picks become triplets whose target is the picked edit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from instructdiffusion.model.data.png import decode_png
from instructdiffusion.model.data.shards import (
    Manifest,
    Triplet,
    read_triplets,
    write_shard,
)
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.task import Image, psnr
from instructdiffusion.model.tasks import EVERY

CANDIDATES = "candidates.json"


def truth_score(output: Image, triplet: Triplet) -> float:
    """How near an edit is to the truth, 0..1, comparable between edits of one prompt.

    Likeness is the gain in PSNR over the source left alone, over the whole picture, so that wrecking the background
    costs what it should: 0.5 is no gain, 10 dB more is 1. Tasks with a measure in 0..1 give that measure half.
    """
    gain = psnr(output, triplet.target) - psnr(triplet.source, triplet.target)
    likeness = float(np.clip(0.5 + gain / 20, 0, 1))
    task = EVERY[triplet.ask.task]
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
    counts = {name: sum(t.ask.task == name for t in triplets) for name in EVERY}
    shard = write_shard(out / "shard-00000.tar", triplets)
    kept = {name: count for name, count in counts.items() if count}
    settings = {"candidates": digest_of(candidates / CANDIDATES)}
    return parent.heir(shards, "collect", settings, shards=(shard,), counts=kept).save(out)


def load(candidates: Path) -> dict[str, Any]:
    """Read candidates.json.

    Raises:
        DataError: there is none, or it is broken.
    """
    path = candidates / CANDIDATES
    if not path.is_file():
        raise DataError(f"{candidates} holds no {CANDIDATES}; run the propose step first")
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        document["prompts"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is broken ({error}); delete {candidates} and run the propose step again") from error
    return document


def _picture(candidates: Path, name: str) -> Image:
    path = candidates / name
    if not path.is_file():
        raise DataError(f"picture {path} is missing; run the propose step again")
    return decode_png(path.read_bytes())
