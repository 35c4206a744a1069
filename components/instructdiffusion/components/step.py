"""What every step does around its one function: skip what is done, name by content, upload."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic

log = logging.getLogger(__name__)

MARK = ".done.json"  # hidden: it is no part of the content, so it changes no digest and is not uploaded


@dataclass(frozen=True)
class Made:
    """What a step made."""

    path: Path
    digest: str  # `sha256:...` of the folder's content
    uri: str = ""  # where it was uploaded; empty: nowhere
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON-able: the manifest, the evaluation

    def document(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {**asdict(self), "path": str(self.path), "facts": dict(self.facts)}


def once(out: Path, inputs: Mapping[str, Any], work: Callable[[], object]) -> str:
    """Call `work`, which fills `out`, unless that was done before with the same inputs; returns the digest.

    Args:
        out: folder; whole after this.
        inputs: JSON-able; everything the content depends on, data and models by their digests.
        work: the step's one function.

    Raises:
        DataError: `out` holds files that this step did not make; they are left alone.
    """
    mark = out / MARK
    wanted = json.loads(json.dumps(inputs, sort_keys=True, default=str))
    known = read_mark(mark)
    if known.get("inputs") == wanted and known.get("digest") == digest_of(out):
        log.info("%s is done already", out)
        return str(known["digest"])
    _check_ours(out, known)
    if known and (known.get("inputs") != wanted or "digest" in known):  # made from something else, or damaged
        _empty(out)
    write_atomic(mark, json.dumps({"inputs": wanted}))  # begun: the same work may go on here, no other
    work()
    digest = digest_of(out)
    write_atomic(mark, json.dumps({"inputs": wanted, "digest": digest, "files": _files(out)}, indent=1))
    return digest


def read_mark(path: Path) -> dict[str, Any]:
    """The content of a mark; empty if there is none or it is damaged, so that the work is done again."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _check_ours(out: Path, known: Mapping[str, Any]) -> None:
    """Refuse files that this step did not make. What lies in one whose work was cut off counts as made."""
    marked = (out / MARK).is_file()
    strange = [name for name in _files(out) if not marked or name not in known.get("files", [name])]
    if strange:
        raise DataError(
            f"{out} holds {strange[0]}, which this step did not make; give another folder, or move what is yours"
        )


def _files(out: Path) -> list[str]:
    """Names of all files below a folder, but for the mark; none if there is no such folder."""
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir() and p != out / MARK)


def _empty(out: Path) -> None:
    """Remove what is in a folder, its mark last: a stop on the way leaves a folder that is known as ours."""
    for path in sorted(out.iterdir(), key=lambda path: path.name == MARK):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def made(out: Path, kind: str, digest: str, store: Store | None, facts: Mapping[str, Any]) -> Made:
    """Upload `out` as `kind/sha256-...` where there is a store, and say what was made."""
    uri = store.put_directory(out, f"{kind}/{digest.replace(':', '-')}") if store is not None else ""
    return Made(out, digest, uri, facts)


def data_digest(folder: Path) -> str:
    """Digest of a data set: of its manifest, which holds those of its shards.

    Raises:
        DataError: it has none; names the folder.
    """
    from instructdiffusion.model import inputs

    return inputs.data_digest(folder)
