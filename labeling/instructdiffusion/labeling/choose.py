"""From rankings to the edits that a model is aligned on, and how far annotators agree. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from instructdiffusion.labeling.rankings import Kind, Ranking, newest
from instructdiffusion.model.errors import ConfigError

SUPPORT = 0.5  # share of a prompt's annotators that must have called an edit good


def counted(rankings: Iterable[Ranking], kind: Kind | None = None) -> list[Ranking]:
    """The rankings that count: the newest of each annotator and prompt, of one kind only.

    With no `kind` people count where there are any, and the programs' rankings only where there are none.
    """
    kept = newest(rankings)
    kind = kind or ("person" if any(r.kind == "person" for r in kept) else "reference")
    return [ranking for ranking in kept if ranking.kind == kind]


def best_edits(
    rankings: Iterable[Ranking],
    count: int | None = None,
    *,
    per_prompt: int = 1,
    kind: Kind | None = None,
) -> list[tuple[str, str]]:
    """The (prompt, edit) pairs that annotators agree on most, the surest first.

    Borda count: of n edits of a prompt an annotator's best earns n - 1 points, the next n - 2, one not called good
    none; divided by what an edit could earn, so that prompts compare. An edit that fewer than half of the prompt's
    annotators called good is left out. Ties are alphabetical, so a rerun picks the same.

    Args:
        rankings: of any annotators and times; see `counted` for which count.
        count: pairs at most; None: all.
        per_prompt: edits of one prompt at most; the paper took up to two.
        kind: whose rankings count; None: people's where there are any.

    Raises:
        ConfigError: `count` or `per_prompt` is less than one.
    """
    if per_prompt < 1 or (count is not None and count < 1):
        raise ConfigError(f"count={count} and per_prompt={per_prompt} choose nothing; set them to 1 or more")
    found: list[tuple[float, str, str]] = []
    for key, votes in _by_prompt(counted(rankings, kind)).items():
        found += sorted((-share, key, edit) for edit, share in _shares(votes).items())[:per_prompt]
    return [(key, edit) for _, key, edit in sorted(found)[:count]]


def _by_prompt(rankings: Iterable[Ranking]) -> dict[str, list[Ranking]]:
    prompts: defaultdict[str, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        prompts[ranking.key].append(ranking)
    return prompts


def _known(votes: Iterable[Ranking]) -> list[str]:
    return sorted({edit for vote in votes for edit in (*vote.edits, *vote.shown)})


def _shares(votes: Sequence[Ranking]) -> dict[str, float]:
    """Borda points of each edit with enough support, as a share of the most it could earn."""
    last = max(len(_known(votes)) - 1, 1)
    points: defaultdict[str, list[int]] = defaultdict(list)
    for vote in votes:
        for place, edit in enumerate(vote.edits):
            points[edit].append(max(last - place, 0))
    return {
        edit: sum(earned) / (last * len(votes))
        for edit, earned in points.items()
        if len(earned) >= SUPPORT * len(votes)
    }


def agreement(rankings: Iterable[Ranking], kind: Kind | None = None) -> float | None:
    """How far annotators agree: Kendall's tau-b, over every two of them on every prompt they share, on average.

    1 is the same order, 0 what chance gives, -1 the reverse. Edits not called good share the last place. Two who
    call none good agree (1); tau is not defined where only one of them orders anything, and that counts as chance.

    Returns:
        None where no two annotators share a prompt of two edits or more.
    """
    found = [
        _tau(one, other, edits)
        for votes in _by_prompt(counted(rankings, kind)).values()
        if len(edits := _known(votes)) > 1
        for one, other in combinations(votes, 2)
    ]
    return sum(found) / len(found) if found else None


def _tau(one: Ranking, other: Ranking, edits: Sequence[str]) -> float:
    from scipy.stats import kendalltau

    if one.edits == other.edits:  # also where neither orders anything
        return 1.0
    places = [[len(r.edits) - r.edits.index(e) if e in r.edits else 0 for e in edits] for r in (one, other)]
    tau = float(kendalltau(*places, variant="b").statistic)
    return tau if tau == tau else 0.0
