"""Steps: build a part of a data set from its sources, join the parts, and gather exemplars."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store, located, needed
from instructdiffusion.model.addresses import FILES, S3, parted
from instructdiffusion.model.errors import ConfigError, DataError

if TYPE_CHECKING:
    from instructdiffusion.model.data.sources import Source, Sources


def read(address: str, copy: Path, store: Store | None, *, root: str = "", without: Collection[str] = ()) -> Sources:
    """The sources that a file names, in a folder or in the store.

    Args:
        address: of the file, or `paper`.
        copy: where a file of the store is downloaded to.
        root: folder or s3:// address that relative paths are below; left out: the file's own.
        without: names of sources to leave out.

    Raises:
        ConfigError: the file is wrong, with all that is wrong; or it is in a store and none is set; or `paper` is
            without a root.
    """
    from instructdiffusion.model.data.sources import PACKAGED, packaged, read_sources, sources_of

    root = root if not root or root.startswith(S3) else str(Path(root).absolute())
    if address in PACKAGED:
        if not root:
            raise ConfigError(f"sources {address} lie below a folder that you name; give it as root")
        found = packaged(address).below(root)
    elif address.startswith(S3):
        text = needed(store, address).get_file(address, copy).read_text()
        found = sources_of(text, address).below(root or address.rpartition("/")[0])
    else:
        found = read_sources(Path(address), root)
    return found.without(without)


def local(sources: Sources, copies: Path, store: Store | None) -> Sources:
    """The same sources on this machine: what is in the store is downloaded below `copies`, unless it is there.

    Raises:
        DataError: files or folders that are named are not there; one line with all of them.
    """
    if lacking := [line for source in sources.sources for line in _lacking(source, store)]:
        known = f"{len(lacking)} things that the sources name are" if len(lacking) > 1 else "what a source names is"
        raise DataError(f"{known} not there: {'; '.join(lacking)}; get them, or leave those sources out (without)")
    return sources.moved(lambda address, sure: located(address, copies, store))


def _lacking(source: Source, store: Store | None) -> Iterator[str]:
    """What a source names that is neither on disk nor in the store, and where its data set can be had."""
    from instructdiffusion.model.data.readers import readers
    from instructdiffusion.model.data.sources import addresses_of

    for field, address, sure in addresses_of(source):
        kind, place = parted(address)
        if place.startswith(S3):
            there = needed(store, place).exists(place)
        else:
            there = not (sure or kind in FILES or place.startswith("/")) or Path(place).exists()
        if not there:
            reader = readers().get(getattr(source, "dataset", None) or "") if field == "path" else None
            yield f"{source.name}: {field} {place}" + (f" ({reader.name}, {reader.address})" if reader else "")


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
