"""The reference annotator: a program that ranks edits by the truth, which synthetic triplets have.

It lets the alignment run without people. It carries its own name and kind, so it is never counted as people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from random import Random

from instructdiffusion.labeling.rankings import RANDOM, REFERENCE, Ranking, newest
from instructdiffusion.model.errors import ConfigError, DataError

PICKS = 2  # the paper's annotators chose the best none, one or two edits of a prompt


def rank(
    scores: Mapping[str, Mapping[str, float]],
    *,
    floors: Mapping[str, float] | None = None,
    threshold: float = 0.0,
    picks: int = PICKS,
    round_id: str = "",
    when: datetime | None = None,
) -> list[Ranking]:
    """Pick the edits of each prompt that are nearest to the truth.

    Args:
        scores: truth score of each edit, 0..1 and higher is better, by prompt and edit id.
        floors: score of the source left alone, by prompt; an edit that does not beat it is not picked.
        threshold: an edit must score more than this too, 0..1.
        picks: edits a prompt at most.
        round_id: kept in every record.
        when: time of the records; None: now.

    Returns:
        One ranking a prompt, in the order of the keys; `rejected` where no edit is good enough.

    Raises:
        DataError: a score is not a number, or a prompt has no edits.
        ConfigError: `picks` is less than one.
    """
    if picks < 1:
        raise ConfigError(f"picks={picks} chooses nothing; set it to 1 or 2")
    when = when or datetime.now(UTC)
    return [
        _ranking(key, scores[key], max(threshold, (floors or {}).get(key, 0.0)), picks, round_id, when)
        for key in sorted(scores)
    ]


def _ranking(key: str, scores: Mapping[str, float], floor: float, picks: int, round_id: str, when: datetime) -> Ranking:
    if not scores:
        raise DataError(f"prompt {key} has no edits; run the propose step again")
    if bad := [edit for edit, score in scores.items() if not math.isfinite(score)]:
        raise DataError(f"edit {min(bad)} of prompt {key} has no truth score; run the propose step again")
    best_first = sorted(scores, key=lambda edit: (-scores[edit], edit))
    good = tuple(edit for edit in best_first if scores[edit] > floor)[:picks]
    return Ranking(
        key=key,
        edits=good,
        rejected=not good,
        shown=tuple(sorted(scores)),
        annotator=REFERENCE,
        kind="reference",
        when=when,
        round=round_id,
    )


def random_picks(rankings: Iterable[Ranking], seed: int) -> list[Ranking]:
    """The control: as many edits of the same prompts, drawn by lot.

    What a model gains from the rankings over what it gains from these is due to the choice alone: both arms have
    the same prompts and the same number of edits. A prompt's draw depends on the seed and its key only.

    Raises:
        DataError: a ranking does not say which edits were shown.
    """
    return [_by_lot(ranking, seed) for ranking in newest(rankings)]


def _by_lot(ranking: Ranking, seed: int) -> Ranking:
    if not ranking.shown:
        raise DataError(f"the ranking of {ranking.key} does not say which edits were shown; rank it again")
    drawn = Random(f"{seed}/{ranking.key}").sample(sorted(ranking.shown), len(ranking.edits))
    told = {"edits": tuple(drawn), "defects": {}, "annotator": RANDOM, "kind": "reference"}
    return Ranking.model_validate({**ranking.model_dump(), **told})
