"""Step: measure what the alignment did on held-out prompts, against a control that was tuned on random picks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic

RESULT = "alignment.json"
Scores = Mapping[str, Mapping[str, float]]  # truth of every edit, 0..1, by prompt


def run(shards: Path, before: Path, aligned: Path, control: Path, out: Path, *, store: Store | None = None) -> Made:
    """Score the edits of three models of the same prompts by the known truth; facts: what `gain` returns.

    Args:
        shards: the held-out triplets.
        before, aligned, control: candidates of the model before, of the aligned one and of the control.
        out: folder for `alignment.json`.
        store: where to upload it; None: nowhere.
    """
    from instructdiffusion.model.candidates import truth_scores

    folders = {"before": before, "aligned": aligned, "control": control}
    inputs = {name: digest_of(folder / "candidates.json") for name, folder in folders.items()}

    def work() -> None:
        scores = {name: truth_scores(folder, shards) for name, folder in folders.items()}
        write_atomic(out / RESULT, json.dumps(gain(**scores), indent=1))

    digest = once(out, {**inputs, "shards": data_digest(shards)}, work)
    return made(out, "comparisons", digest, store, json.loads((out / RESULT).read_text()))


def gain(before: Scores, aligned: Scores, control: Scores) -> dict[str, Any]:
    """Mean truth of each model's edits, and by how much the aligned one is above the control.

    Every prompt counts once, with the mean of its edits; the gain's interval is of the differences, prompt by prompt.

    Raises:
        DataError: the three do not hold the same prompts.
    """
    from instructdiffusion.model.interval import interval

    if not (before.keys() == aligned.keys() == control.keys()) or not before:
        raise DataError("the candidates to compare are not of the same prompts; propose them from the same data")
    of = {"before": _means(before), "aligned": _means(aligned), "control": _means(control)}
    pairs = {
        "gain": ("aligned", "control"),
        "aligned_over_before": ("aligned", "before"),
        "control_over_before": ("control", "before"),
    }
    spans = {name: _span(interval(list(means.values()))) for name, means in of.items()}
    for name, (one, other) in pairs.items():
        spans[name] = _span(interval([of[one][key] - of[other][key] for key in of[one]]))
    return {**spans, "n": len(before), "raised": spans["gain"]["low"] > 0}


def _means(scores: Scores) -> dict[str, float]:
    return {key: sum(edits.values()) / len(edits) for key, edits in sorted(scores.items())}


def _span(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), values, strict=True))
