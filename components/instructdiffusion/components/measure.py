"""Steps: measure a part of a benchmark, and make the numbers of all parts.

An order is a line of JSON: which part of which benchmark. The parts of all benchmarks are done side by side; one that
was stopped goes on where it was.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from instructdiffusion.components.step import Made, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tools import Addresses, opened
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.files import digest_of

if TYPE_CHECKING:
    from instructdiffusion.components.tracking import TrackedRun
    from instructdiffusion.model.endpoints import Endpoint

DOCUMENTS = "benchmarks"  # folder of the reports among the artifacts of a model's run
NOTHING = ""  # the order of a loop that has nothing to do: loops over nothing are not to be relied on


class Measure(Addresses):
    """How benchmarks are measured by a pipeline, and by which networks and judge."""

    samples: int = Field(0, ge=0, description="Of each benchmark, as `benchmark run` counts them; 0: all there are.")
    parts: int = Field(1, ge=1, le=1000, description="That each benchmark is divided into, done side by side.")
    size: int = Field(0, ge=0, description="Side of composed pictures and crops; 0: the model's own.")
    seed: int = Field(0, ge=0, description="Of everything random.")
    data: dict[str, str] = Field(
        default={}, description="By benchmark: folder or s3:// address of its data set; left out, composed samples."
    )
    split: dict[str, str] = Field(
        default={}, description="By benchmark: the split of its data set; left out, the one to score on."
    )

    def of(self, names: Sequence[str], samples: int, parts: int) -> Self:
        """The same for these benchmarks alone."""
        kept = {
            field: {name: value for name, value in getattr(self, field).items() if name in names}
            for field in ("data", "split")
        }
        return self.model_copy(update={**kept, "samples": samples, "parts": parts})


class Order(Addresses):
    """A part of a benchmark."""

    benchmark: str
    part: int
    parts: int
    samples: int
    size: int
    seed: int
    data: str
    split: str


def orders(names: Sequence[str], how: Measure) -> list[str]:
    """What each part of these benchmarks is told; one line that says nothing where there are none.

    Raises:
        ConfigError: there is no such benchmark, or data or a split is named for one that is not measured.
    """
    from instructdiffusion.model.benchmarks import benchmark_named

    for field, named in {"data": how.data, "a split": how.split}.items():
        if strange := sorted(named.keys() - set(names)):
            measured = ", ".join(names) or "-"
            raise ConfigError(f"{field} is named for {strange[0]}, which is not measured; measured: {measured}")
    given = how.model_dump(exclude={"data", "split"})
    wanted = [
        Order(
            benchmark=benchmark_named(name).name,
            part=part,
            data=how.data.get(name, ""),
            split=how.split.get(name, ""),
            **given,
        )
        for name in sorted(set(names))
        for part in range(1, how.parts + 1)
    ]
    return [order.model_dump_json() for order in wanted] or [NOTHING]


def run(
    order: str,
    endpoint: Callable[[], Endpoint],
    out: Path,
    *,
    folder: Callable[[str], Path] = Path,
    file: Callable[[str], Path] = Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Measure a part into a folder of its benchmark below `out`; facts: the order. Nothing is uploaded.

    Args:
        order: as `orders` tells; `NOTHING` leaves `out` empty.
        endpoint: opens what is measured.
        out: kept when the step is stopped, so that it goes on there.
        folder, file: bring the data and networks of an address to this machine.
        progress: told the samples done; in all is 0.
    """
    out.mkdir(parents=True, exist_ok=True)
    if order == NOTHING:
        return Made(out, digest_of(out))
    from instructdiffusion.model import benchmark as benches
    from instructdiffusion.model.benchmarks import benchmark_named
    from instructdiffusion.model.scoring import run as score

    wanted, editor = Order.model_validate_json(order), endpoint()
    asked = benches.Order(
        folder(wanted.data) if wanted.data else None,
        wanted.split,
        samples=wanted.samples,
        size=wanted.size or editor.resolution or benches.EMBEDDED_SIZE,
        seed=wanted.seed,
        name=PurePosixPath(wanted.data).name,  # and not the copy's: a policy may ask for data by its name
    )
    bench = benchmark_named(wanted.benchmark)
    tools = opened(wanted, out / bench.name, folder=folder, file=file)
    score(bench, editor, out / bench.name, asked, tools=tools, part=(wanted.part, wanted.parts), progress=progress)
    return Made(out, digest_of(out), facts=wanted.model_dump())


def merge(
    parts: Sequence[Path],
    out: Path,
    *,
    model: str = "",
    store: Store | None = None,
    tracked: TrackedRun | None = None,
) -> Made:
    """Make the numbers of each benchmark from its parts, in a folder of its name; facts: the reports by benchmark.

    Args:
        parts: folders that `run` filled.
        out: folder for the reports.
        model: digest of what was measured.
        store: where to upload the reports; None: nowhere.
        tracked: run that gets the values and the reports; None: none.

    Raises:
        DataError: a part is missing, or two of a benchmark were made differently.
    """

    def work() -> None:
        from instructdiffusion.model.scoring import merge as numbers

        for part in parts:
            shutil.copytree(part, out, dirs_exist_ok=True)
        for folder in sorted(p for p in out.iterdir() if p.is_dir()):
            numbers(folder)

    out.mkdir(parents=True, exist_ok=True)
    digest = once(out, {"parts": [digest_of(part) for part in parts]}, work)
    facts = {report.parent.name: json.loads(report.read_text()) for report in reports(out)}
    if tracked is not None and facts:
        of = tracked.model(f"model-{model.removeprefix('sha256:')[:12]}", digest=model, params={"digest": model})
        for name, report in facts.items():
            tracked.metrics(figures(report), step=0, model=of)
            tracked.document(f"{DOCUMENTS}/{name}.json", report)
    return made(out, "benchmarks", digest, store if facts else None, facts)  # a store keeps no empty folder


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """A report's numbers by the tracker's names, `benchmark/faces/nme` and `.../nme_low`; none that is missing."""
    found: dict[str, float] = {}
    for part, values in {"": report["values"], **report["slices"]}.items():
        for metric, value in values.items():
            name = "/".join(filter(None, ("benchmark", report["benchmark"], metric, part)))
            ends = ("low", "high", "floor", "bound") if not part else ()
            numbers = {name: value["value"], **{f"{name}_{end}": value.get(end) for end in ends}}
            found |= {re.sub(r"[^\w./ -]", "_", key): number for key, number in numbers.items() if number is not None}
    return found


def reports(folder: Path) -> list[Path]:
    """The reports that `merge` left, one a benchmark."""
    return sorted(folder.glob("*/benchmark.json"))
