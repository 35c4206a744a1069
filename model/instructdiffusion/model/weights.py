"""Which model is which: by its networks and settings, and not by what lies beside them."""

from __future__ import annotations

from pathlib import Path

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
