"""A ranking round of candidates: pictures in the store, prompts in Label Studio, answers in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.components.settings import NAMES, Settings
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ConfigError, DataError, ServiceError
from instructdiffusion.model.files import digest_of

if TYPE_CHECKING:
    from instructdiffusion.labeling.label_studio import Round, Rounds, State
    from instructdiffusion.labeling.rankings import Ranking

FOLDER = "label-rounds"  # in the store: apart from the candidates, whose settings annotators are not to see
PICTURES = "pictures"


def round_of(candidates: Path) -> Round:
    """The round of these candidates; the same ones are always the same round.

    Raises:
        DataError: there are none.
    """
    from instructdiffusion.labeling.label_studio import Prompt, Round
    from instructdiffusion.model.candidates import CANDIDATES, load

    prompts = [
        Prompt(p["key"], p["instruction"], p["source"], {e["id"]: e["picture"] for e in p["edits"]})
        for p in load(candidates)["prompts"]
    ]
    return Round(digest_of(candidates / CANDIDATES).removeprefix("sha256:")[:12], prompts)


def rounds(settings: Settings) -> Rounds:
    """The rounds on the server that the settings name.

    Raises:
        ConfigError: they name none.
    """
    from instructdiffusion.labeling.label_studio import Rounds

    token = settings.label_token.get_secret_value()
    if not (settings.label_url and token):
        raise ConfigError(
            f"no Label Studio is set; set {NAMES['label_url']} and {NAMES['label_token']}, as make label-studio says"
        )
    return Rounds(settings.label_url, token, settings.label_public_url)


def open_round(candidates: Path, settings: Settings, annotators: int = 2) -> State:
    """Upload the pictures and put the round on the server, or what is missing of both; returns how it stands.

    Raises:
        ConfigError: server or store are not set, or prompts have too many edits for a screen.
        DataError: a picture is missing.
        ServiceError: a server does not answer.
    """
    from instructdiffusion.labeling.label_studio import Pictures

    server, round, store = rounds(settings), round_of(candidates), Store.open(settings)
    names = {name for p in round.prompts for name in (p.source, *p.edits.values())}
    if lost := sorted(name for name in names if not (candidates / name).is_file()):
        raise DataError(f"{candidates / lost[0]} is missing; run the propose step again")
    uri = store.put_directory(candidates / PICTURES, f"{FOLDER}/{round.id}")
    pictures = Pictures(
        bucket=store.bucket,
        prefix=f"{FOLDER}/{round.id}",
        access_key=settings.store_access_key,
        secret_key=settings.store_secret_key.get_secret_value(),
        uris={name: f"{uri}/{Path(name).relative_to(PICTURES).as_posix()}" for name in names},
    )
    server.open(round, pictures, annotators)
    return server.read(round)


def status_of_round(candidates: Path, settings: Settings) -> State:
    """How the round stands on the server."""
    return rounds(settings).read(round_of(candidates))


def collect_round(candidates: Path, file: Path, settings: Settings) -> State:
    """Add all that was answered so far to a file of rankings; what is there already changes nothing.

    It can be stopped at any moment and run again: the server keeps the answers, and the file is replaced as a whole.
    """
    from instructdiffusion.labeling.rankings import add

    state = rounds(settings).read(round_of(candidates))
    add(file, state.rankings)
    return state


def close_round(candidates: Path, file: Path, settings: Settings) -> State:
    """Collect once more and wait for no more answers; returns how it stands."""
    rounds(settings).close(round_of(candidates))
    return collect_round(candidates, file, settings)


def answered_by_reference(
    candidates: Path, rankings: Sequence[Ranking], settings: Settings, accounts: int = 2
) -> tuple[Ranking, ...]:
    """The reference annotator's rankings by way of the server: opened, answered by each account, read back."""
    open_round(candidates, settings, accounts)
    server, round = rounds(settings), round_of(candidates)
    server.answer(round, rankings, accounts)
    return server.read(round).rankings


def answered_by_people(candidates: Path, settings: Settings) -> tuple[Ranking, ...]:
    """What people ranked.

    Raises:
        ServiceError: answers are waited for; the round is open, and the same call later finds them.
    """
    server, round = rounds(settings), round_of(candidates)
    state = server.read(round) if server.closed(round) else open_round(candidates, settings)
    if not state.finished:
        raise ServiceError(
            f"round {state.id} waits for people: {state.done} of {state.prompts} prompts have {state.wanted} answers; "
            f"rank at {' and '.join(state.addresses)} and run this again, or end it with: instructdiffusion label close"
        )
    return state.rankings
