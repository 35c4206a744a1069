"""Which model is which: by its networks and settings, and not by what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of

BASE = Path(__file__).parent / "base"
SETTINGS = "editor.json"
NETWORKS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


def model_digest(folder: Path | None) -> str:
    """`sha256:...` of a model's folder (None: the embedded base); a card or scores in it change nothing.

    Raises:
        DataError: the folder does not exist.
    """
    return digest_of(folder or BASE, (SETTINGS, *NETWORKS))


def resolution(folder: Path | None) -> int:
    """The side in pixels that a model (None: the embedded base) edits at.

    Raises:
        DataError: it is no model.
    """
    path = (folder or BASE) / SETTINGS
    try:
        return int(json.loads(path.read_text())["resolution"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        way = "run: make base" if folder is None else "name a folder that a training wrote"
        raise DataError(f"{path.parent} holds no readable {path.name}, so it is no model; {way}") from error


def check_free(folder: Path) -> None:
    """Make sure that a model may be written to this folder: it is empty, not there, or a model that is replaced.

    Raises:
        DataError: it holds something else.
    """
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not free and not (folder / SETTINGS).is_file():
        raise DataError(f"{folder} holds something that is no model, and is left alone; name a new folder")
