"""Steps: build a part of a data set from its sources, join the parts, and gather exemplars."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store, needed

if TYPE_CHECKING:
    from instructdiffusion.model.data.sources import Sources


def read(address: str, copy: Path, store: Store | None) -> Sources:
    """The sources that a file names, in a folder or in the store; its relative paths are below its folder.

    Args:
        copy: where a file of the store is downloaded to.

    Raises:
        ConfigError: the file is wrong, with all that is wrong; or it is in a store and none is set.
    """
    from instructdiffusion.model.data.sources import STORE, read_sources, sources_of

    if not address.startswith(STORE):
        return read_sources(Path(address))
    text = needed(store, address).get_file(address, copy).read_text()
    return sources_of(text, address).below(address.rpartition("/")[0])


def local(sources: Sources, copies: Path, store: Store | None) -> Sources:
    """The same sources on this machine: folders of the store are downloaded below `copies`, unless they are there."""
    from instructdiffusion.model.data.sources import STORE, moved

    def here(address: str) -> str:
        if not address.startswith(STORE):
            return address
        copy = copies / hashlib.sha256(address.encode()).hexdigest()[:12]  # one for all parts that work here
        return str(needed(store, address).get_directory(address, copy))

    return sources.model_copy(update={"sources": tuple(moved(source, here) for source in sources.sources)})


def run(
    sources: Sources,
    out: Path,
    *,
    size: int,
    seed: int,
    part: str = "1/1",
    workers: int | None = None,
    copies: Path | None = None,
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Write the shards of a part, pictures of `size` x `size` pixels; facts: the manifest. Nothing is uploaded.

    Args:
        part: which of how many, as in 3/16.
        workers: processes; None: one for each core.
        copies: where folders of the store are downloaded to; None: beside `out`.
        store: where they come from.
    """
    from instructdiffusion.model.data.build import build
    from instructdiffusion.model.data.offers import Order
    from instructdiffusion.model.data.parts import Part
    from instructdiffusion.model.data.shards import Manifest

    there = local(sources, copies or out.with_name(f"{out.name}.sources"), store)
    build(Order(there, size, seed), out, part=Part.of(part), workers=workers, progress=progress)
    return made(out, "datasets", data_digest(out), None, Manifest.load(out).model_dump(mode="json"))


def join(parts: Sequence[Path], out: Path, *, store: Store | None = None) -> Made:
    """Make one data set of its parts; facts: the manifest."""
    from instructdiffusion.model.data.parts import join
    from instructdiffusion.model.data.shards import Manifest

    digest = once(out, {"parts": [data_digest(part) for part in parts]}, lambda: join(parts, out))
    return made(out, "datasets", digest, store, Manifest.load(out).model_dump(mode="json"))


def gather(
    sources: Sources,
    out: Path,
    *,
    features: str,
    captioner: str,
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Cut exemplars out of data sets of regions; facts: the manifest. Nothing is uploaded.

    Args:
        features: address of what looks at them.
        captioner: address of what names them.
        store: where folders of the store come from.
    """
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.synthesis import captioners, gather
    from instructdiffusion.model.synthesis.features import features as named

    there = local(sources, out.with_name(f"{out.name}.sources"), store)
    gather.gather(there, out, named(features), captioners.captioner(captioner), progress=progress)
    return made(out, "exemplars", data_digest(out), None, Manifest.load(out).model_dump(mode="json"))


def orders(sources: Sources, parts: int) -> list[str]:
    """What each part is told: which one it is, and the sources, as JSON."""
    told = sources.model_dump(mode="json")
    return [json.dumps({"part": f"{number}/{parts}", "sources": told}) for number in range(1, parts + 1)]


def ordered(order: str) -> tuple[str, Sources]:
    """The part and the sources of an order."""
    from instructdiffusion.model.data.sources import Sources

    told = json.loads(order)
    return str(told["part"]), Sources.model_validate(told["sources"])
