"""Weights from outside: safetensors as they are, pickles only after a scan, and then only as tensors.

A pickle is a program. It is read by picklescan first, which runs nothing and knows what programs do harm, and then by
PyTorch's reader of weights alone, which builds tensors and plain containers and refuses the rest.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from instructdiffusion.model.errors import ConfigError, DataError

FIX = "take a .safetensors file of the same weights, or convert it where nothing can be harmed"


class _Name:
    """Stands for a class that old checkpoints mention but don't need."""


#: Stable Diffusion's own checkpoints name the callback that wrote them.
_MENTIONED: list[Any] = [(_Name, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")]


def load_weights(file: Path) -> dict[str, Any]:
    """What a checkpoint holds: tensors by name, or such dictionaries within.

    Raises:
        DataError: the file is missing, broken, or would run a program; names it and the fix.
        ConfigError: picklescan is needed and not installed.
    """
    if not file.is_file():
        raise DataError(f"{file} is no file; name a checkpoint, .safetensors or .ckpt")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        scan(file)
        with torch.serialization.safe_globals(_MENTIONED):
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it names {named[1]}" if named else "it is no checkpoint, or cut short"
        raise DataError(f"{file} holds more or less than weights ({what}); {FIX}") from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file} can't be read ({reason}); copy it again") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} holds a {type(found).__name__} where weights by name belong; name a checkpoint")
    return found


def checked(folder: Path) -> bool:
    """Whether a network's folder holds safetensors; if not, what pickles it holds are found to be weights and no more.

    diffusers and transformers are to be told (`use_safetensors`): they read either, pickles as tensors alone.

    Raises:
        DataError, ConfigError: as `load_weights`, of a pickle.
    """
    whole = any(file.name.count(".") == 1 for file in folder.glob("*.safetensors"))  # with more dots, it is a variant
    pickles = [] if whole else sorted(folder.glob("*.bin"))
    for file in pickles:
        load_weights(file)
    return not pickles


def scan(file: Path) -> None:
    """Refuse a pickle that picklescan takes for harmful, or can't follow to its end.

    Raises:
        DataError: names the file and what it would call.
        ConfigError: picklescan is not installed.
    """
    try:
        from picklescan.scanner import SafetyLevel, scan_bytes
    except ImportError as error:
        raise ConfigError(f"{file} is a pickle: pip install picklescan to have it checked, or {FIX}") from error
    logging.getLogger("picklescan").setLevel(logging.CRITICAL)  # what it finds is in the error
    try:
        with file.open("rb") as stream:
            found = scan_bytes(stream, str(file), ".ckpt")
    except Exception as error:  # whatever a damaged or hostile file makes it raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file} can't be scanned ({reason}); copy it again, or {FIX}") from error
    harmful = sorted({f"{g.module}.{g.name}" for g in found.globals if g.safety is SafetyLevel.Dangerous})
    if harmful or found.infected_files or found.scan_err:
        what = f"would call {', '.join(harmful)}" if harmful else "can't be followed to its end"
        raise DataError(f"{file} is a pickle that {what}; don't load it: {FIX}")
