"""Step: refuse, or leave out, triplets to train on that models are scored on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store, located
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.files import write_atomic

REFUSE, DROP = "refuse", "drop"
REPORT = ".leaks.json"  # beside the shards; hidden, for it is no part of their content


def run(
    source: Path,
    out: Path,
    scored_on: Path,
    *,
    others: Sequence[str] = (),
    also: Sequence[Path] = (),
    leaking: str = "refuse",
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Let the shards in `source` through into `out`; facts: the manifest, and the `leaks` report.

    Args:
        scored_on: held-out triplets.
        others: benchmarks: folders or s3:// addresses, with a split behind a colon, see `leaks`.
        also: further data sets that are trained on.
        leaking: what happens to triplets of `source` that leak: refuse, drop.

    Raises:
        DataError: something leaks that isn't to be dropped; names it.
    """
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.leaks import Report, screen

    if leaking not in (REFUSE, DROP):
        raise ConfigError(f"leaking={leaking!r}: choose {REFUSE} or {DROP}")
    places = [_local(place, out.with_name(f"{out.name}.against"), store) for place in others]
    inputs = {"data": [data_digest(folder) for folder in (source, *also)], "scored_on": data_digest(scored_on)}

    def work() -> None:
        drop = leaking == DROP
        report = screen(source, out, scored_on, places, also=also, drop=drop, progress=progress)
        write_atomic(out / REPORT, report.model_dump_json(indent=1))

    digest = once(out, {**inputs, "others": list(others), "leaking": leaking}, work)
    told = Report.model_validate_json((out / REPORT).read_text()).model_dump(mode="json")
    return made(out, "datasets", digest, store, {**Manifest.load(out).model_dump(mode="json"), "leaks": told})


def _local(place: str, copies: Path, store: Store | None) -> str:
    """The same place on this machine: one of the store is downloaded below `copies`."""
    from instructdiffusion.model.leaks import place_of

    address, split = place_of(place)
    folder = located(address, copies, store)
    return f"{folder}:{split}" if split else folder
