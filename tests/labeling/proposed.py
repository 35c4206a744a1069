"""Candidates as the propose step leaves them, whose best edit is known: the truth itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from instructdiffusion.model.data.png import encode_png
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.synthesis.write import synthesize
from instructdiffusion.model.task import Image


def propose(folder: Path, tasks: dict[str, int], *, edits: int = 4, size: int = 64, seed: int = 0) -> dict[str, str]:
    """Write `data/` and `candidates/` under `folder`; returns the id of each prompt's best edit."""
    synthesize(folder / "data", split="train", counts=tasks, size=size, seed=seed)
    best, prompts = {}, []
    for triplet in read_triplets(folder / "data"):
        pictures = [triplet.target, *poor(triplet.source, triplet.target)][:edits]
        ids = [keep(folder / "candidates", picture) for picture in pictures]
        best[triplet.key] = ids[0]
        prompts.append(
            {
                "key": triplet.key,
                "task": triplet.ask.task,
                "instruction": triplet.ask.instruction,
                "marks": triplet.ask.marks,
                "source": f"pictures/{keep(folder / 'candidates', triplet.source)}.png",
                "edits": [{"id": i, "picture": f"pictures/{i}.png", "seed": n} for n, i in enumerate(ids)],
            }
        )
    document: dict[str, Any] = {"shards": digest_of(folder / "data" / "manifest.json"), "prompts": prompts}
    (folder / "candidates" / "candidates.json").write_text(json.dumps(document))
    return best


def poor(source: Image, target: Image) -> list[Image]:
    """Edits that are worse than the truth, each in its way."""
    half = ((source.astype(int) + target) // 2).astype(np.uint8)
    blurred = np.asarray(cv2.GaussianBlur(target, (0, 0), source.shape[0] / 32), np.uint8)
    return [half, blurred, 255 - target, np.ascontiguousarray(target[:, ::-1]), target // 3]


def keep(folder: Path, picture: Image) -> str:
    """Store a picture under the digest of its bytes."""
    data = encode_png(picture)
    name = hashlib.sha256(data).hexdigest()
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "pictures" / f"{name}.png").write_bytes(data)
    return name
