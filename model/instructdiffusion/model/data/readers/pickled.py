"""Lists that authors publish as Python pickles, which can run any program when they are opened.

Here only plain values are let through.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from instructdiffusion.model.errors import DataError

MOST_BYTES = 512_000_000  # of a pickle; the largest that is published has less than a tenth


class Plain(pickle.Unpickler):
    """Opens pickles of lists, mappings, texts and numbers; whatever else one asks for is refused by name."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it asks for a persistent object")


def unpickled(path: Path) -> list[Any]:
    """The list in a pickle, made of plain values only. Nothing in it is run.

    Raises:
        DataError: it holds anything else, is cut short, or is far larger than any that is published.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise DataError(f"{path} has {size} bytes, more than any list of expressions; download it again")
    try:
        # Written by Python 2: its texts are bytes, and one that is not UTF-8 must not cost all the others.
        value = Plain(io.BytesIO(path.read_bytes()), encoding="utf-8", errors="surrogateescape").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} is no pickle of plain values: {error}; don't trust where it comes from") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path} is no pickle, or was cut short; download it again") from error
    if not isinstance(value, list):
        raise DataError(f"{path} holds a {type(value).__name__} where a list of expressions belongs; download it again")
    return value
