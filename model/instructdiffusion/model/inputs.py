"""What a training's folder was begun with: it goes on with the same, and with nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic

if TYPE_CHECKING:
    from instructdiffusion.model.config import Run
    from instructdiffusion.model.data.away import Shards

RUN, INPUTS = "run.json", "inputs.json"
RESULTS = ("training.json", "checkpoints/LATEST")  # what another training would be taken for
FREE = {  # settings that may change on the way: nothing that is learned hangs on them
    *("log_every", "checkpoint_every", "samples_every", "account"),
    *("optim.zero_stage", "optim.offload", "optim.bad_steps"),
}


def inputs(run: BaseModel, data: str, model: str) -> dict[str, str]:
    """What tells a training from another: digests of the run, of the data's manifest and of the model it starts from.

    Args:
        model: empty: of one in memory, which has none.
    """
    return {"run": f"sha256:{run_digest(run)}", "data": data, "model": model}


def run_digest(run: BaseModel) -> str:
    """Digest of what a run learns by, in hexadecimal: all its settings but those that may change on the way."""
    values = _flat(run.model_dump(mode="json"))
    fixed = {name: value for name, value in values.items() if name not in FREE}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def settle(folder: Path, run: Run, given: Mapping[str, str]) -> None:
    """Write down what the training in `folder` is made from: `given`, as of `inputs`.

    Raises:
        DataError: what it holds was made from something else; names the folder and the difference.
    """
    if any((folder / name).is_file() for name in RESULTS) and (found := [*_differences(folder, run, given)]):
        raise DataError(
            f"{folder} holds another training ({'; '.join(found)}); give the same again, or train into another folder"
        )
    write_atomic(folder / RUN, run.model_dump_json(indent=1))
    write_atomic(folder / INPUTS, json.dumps(given, indent=1))


def data_digest(data: Path | Shards) -> str:
    """Digest of a data set, wherever it is: of its manifest, which holds those of its shards.

    Raises:
        DataError: it has none.
        ServiceError: where it is does not answer.
    """
    from instructdiffusion.model.data.away import Here
    from instructdiffusion.model.data.shards import MANIFEST

    with TemporaryDirectory() as folder:
        manifest = (Here(data) if isinstance(data, Path) else data).beside(MANIFEST, Path(folder))
        if manifest is None:
            raise DataError(f"{data} holds no {MANIFEST}: not a finished data set; run the step that makes it again")
        return digest_of(manifest)


def _differences(folder: Path, run: Run, given: Mapping[str, str]) -> Iterator[str]:
    """In words; none of what the folder does not tell, for an earlier version began it."""
    try:
        there = _flat(type(run).model_validate_json((folder / RUN).read_bytes()).model_dump())
        here = _flat(run.model_dump())
        for name in sorted((there.keys() | here.keys()) - FREE):
            if there.get(name) != here.get(name):
                yield f"{name}={there.get(name)}, not {here.get(name)}"
    except FileNotFoundError:
        pass
    except ValidationError:
        yield f"its {RUN} can't be read"
    try:
        known = json.loads((folder / INPUTS).read_text())
        for name in ("data", "model"):
            if known.get(name) and given[name] and known[name] != given[name]:
                yield f"its {name} is {known[name]}, not {given[name]}"
    except FileNotFoundError:
        pass
    except ValueError:
        yield f"its {INPUTS} can't be read"


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values by their names with dots in between."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat
