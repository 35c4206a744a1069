"""Propose edits: one source edited under different guidance and seeds, for annotators to pick from."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from instructdiffusion.model.candidates import CANDIDATES
from instructdiffusion.model.data.png import encode_png
from instructdiffusion.model.data.shards import MANIFEST, Triplet, read_triplets
from instructdiffusion.model.editor import Editor
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.network import Guidance
from instructdiffusion.model.seeds import seed_of
from instructdiffusion.model.task import Image
from instructdiffusion.model.weights import model_digest

TEXT_GUIDANCE = (0.5, 1.0, 1.5, 2.5)  # 0.5 is no guidance
STEPS = (1, 2)


def settings(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different settings: first the model's own, as its users get it, then every guidance and step count.

    They come in turn, shuffled, each time with other seeds. The paper takes 20 guidance settings (section 3.3); a small
    model also differs by steps.
    """
    grid = [{"text": text, "image": 0.5, "steps": steps} for text in TEXT_GUIDANCE for steps in STEPS]
    rng = Random(seed)
    rng.shuffle(grid)
    own: dict[str, Any] = {"text": None, "image": None, "steps": None}
    return [{**(grid[(i - 1) % len(grid)] if i else own), "seed": seed * 1000 + i} for i in range(count)]


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
        for triplet, guidance, output in _edited(editor, triplets, **variant):
            name = _store(output, out)
            if name not in {e["id"] for e in edits[triplet.key]}:
                told = {"text_guidance": guidance.text, "image_guidance": guidance.image, "steps": guidance.steps}
                made = {"id": name, "picture": f"pictures/{name}.png", **told, "seed": variant["seed"]}
                edits[triplet.key].append(made)
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
        "model": model_digest(model),
        "prompts": prompts,
    }
    return write_atomic(out / CANDIDATES, json.dumps(document, indent=1))


def _edited(
    editor: Editor, triplets: list[Triplet], *, seed: int, **given: Any
) -> Iterator[tuple[Triplet, Guidance, Image]]:
    """Edit every triplet; those of one guidance together. What is not given is the model's own for the task."""
    together = defaultdict[Guidance, list[Triplet]](list)
    for triplet in triplets:
        together[editor.guidance(triplet.ask, **given)].append(triplet)
    for guidance, some in together.items():
        seeds = [seed_of(t.key, seed) for t in some]
        outputs = editor.outputs([t.source for t in some], [t.ask.instruction for t in some], seeds, guidance)
        yield from ((triplet, guidance, output) for triplet, output in zip(some, outputs, strict=True))


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
        write_atomic(path, data, sync=False)  # candidates.json, written last, vouches for it
    return name
