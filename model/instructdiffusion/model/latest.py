"""The list of a training's checkpoints: `LATEST` names those that are whole, newest first, each with its digest."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from instructdiffusion.model.files import digest_of, write_atomic

log = logging.getLogger(__name__)
LATEST = "LATEST"
Mark = dict[str, Any]  # of a checkpoint: tag, digest, and what was done


class Done(NamedTuple):
    """How far a training is."""

    step: int = 0  # optimizer steps
    seconds: float = 0.0
    loss: float = 0.0  # the usual one; 0: not known
    left_out: int = 0  # of the steps: those that moved nothing


def newest_whole(folder: Path) -> Mark | str | None:
    """The mark of the newest checkpoint that is as it was written, those after it forgotten; words if all are
    damaged, None if there is none.
    """
    if not (folder / LATEST).is_file():
        return None
    found = marks(folder)
    for at, mark in enumerate(found):
        if (folder / mark["tag"]).is_dir() and digest_of(folder / mark["tag"]) == mark["digest"]:
            if at:  # no damaged one is ever counted among those that are kept
                write_atomic(folder / LATEST, json.dumps(found[at:], indent=1))
            return mark
        log.warning("checkpoint %s is damaged; the one before it is taken", folder / mark["tag"])
    return "all of it is damaged"


def marks(folder: Path) -> list[Mark]:
    """The checkpoints that `LATEST` names, newest first; none if it can't be read."""
    try:
        found = json.loads((folder / LATEST).read_text())
        return [{name: mark[name] for name in ("tag", "digest", *Done._fields)} for mark in found]
    except (OSError, ValueError, TypeError, KeyError):
        return []
