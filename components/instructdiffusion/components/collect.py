"""Step: turn rankings into a data set for the alignment, whose targets are the edits that were chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructdiffusion.components.rank import counts
from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of

if TYPE_CHECKING:
    from instructdiffusion.labeling.rankings import Kind, Ranking


def run(
    candidates: Path,
    rankings: Path,
    shards: Path,
    out: Path,
    *,
    count: int | None = None,
    per_prompt: int = 1,
    kind: Kind | None = None,
    store: Store | None = None,
) -> Made:
    """Write the triplets of the best edits; facts: the manifest, whose report says who chose.

    Args:
        candidates: what the propose step made.
        rankings: folder or file of rankings.
        shards: the data set that was proposed from; holds sources and truths.
        out: folder of the new data set.
        count: triplets at most, those that annotators agree on most; None: all.
        per_prompt: edits of one prompt at most; the paper took up to two.
        kind: whose rankings count; None: people's where there are any, else the programs'.
        store: where to upload; None: nowhere.

    Raises:
        DataError: nothing was ranked, no ranking is of these candidates, or no edit was good enough.
    """
    from instructdiffusion.labeling.choose import best_edits
    from instructdiffusion.labeling.rankings import FILE, read
    from instructdiffusion.model.candidates import CANDIDATES, aligned_shards, load
    from instructdiffusion.model.data.shards import Manifest

    path = rankings / FILE if rankings.is_dir() else rankings
    given = read(path)
    fitting = of_candidates(given, {p["key"]: [e["id"] for e in p["edits"]] for p in load(candidates)["prompts"]})
    if not fitting:
        why = "holds no rankings; rank some first" if not given else f"ranks none of {candidates}; pull that round"
        raise DataError(f"{path} {why}")
    chosen = best_edits(fitting, count, per_prompt=per_prompt, kind=kind)
    if not chosen:
        raise DataError(f"{path} calls no edit of {candidates} good enough; propose more edits, or rank more prompts")
    told = report(fitting, kind, late=len(given) - len(fitting))
    inputs = {
        "candidates": digest_of(candidates / CANDIDATES),
        "shards": data_digest(shards),
        "chosen": chosen,
        "report": told,
    }

    def work() -> None:
        picks = {key: [edit for k, edit in chosen if k == key] for key, _ in sorted(chosen)}
        manifest = aligned_shards(candidates, shards, picks, out)
        if manifest.total < len(chosen):
            raise DataError(
                f"{len(chosen) - manifest.total} chosen edits are of prompts not in {shards}; "
                "collect with the data set they were proposed from"
            )
        manifest.model_copy(update={"report": {**manifest.report, "rankings": told}}).save(out)

    digest = once(out, inputs, work)
    return made(out, "datasets", digest, store, Manifest.load(out).model_dump(mode="json"))


def of_candidates(rankings: Iterable[Ranking], offered: Mapping[str, Iterable[str]]) -> list[Ranking]:
    """The rankings of these candidates; those of another round, which come late, are left out.

    Args:
        rankings: any.
        offered: ids of the edits of each prompt.
    """
    known = {key: set(edits) for key, edits in offered.items()}
    return [r for r in rankings if r.key in known and known[r.key].issuperset((*r.edits, *r.shown))]


def report(rankings: Iterable[Ranking], kind: Kind | None, late: int) -> dict[str, Any]:
    """Who chose: counts of the rankings that count, how far annotators agree, and how many came too late."""
    from instructdiffusion.labeling.choose import agreement, counted

    votes = counted(rankings, kind)
    told = {**counts(votes), "kind": votes[0].kind if votes else kind, "late": late}
    return {**told, "agreement": agreement(votes, kind)}
