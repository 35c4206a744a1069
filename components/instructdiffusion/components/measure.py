"""Steps: measure a part of a benchmark, and make the numbers of all parts.

An order is a line of JSON: which part of which benchmark. The parts of all benchmarks are done side by side; one that
was stopped goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from instructdiffusion.components.step import Made, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.files import digest_of

if TYPE_CHECKING:
    from instructdiffusion.model.endpoints import Endpoint

NOTHING = ""  # the order of a loop that has nothing to do: loops over nothing are not to be relied on


class Measure(BaseModel):
    """How benchmarks are measured by a pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    samples: int = Field(0, ge=0, description="Of each benchmark; 0: all there are.")
    parts: int = Field(1, ge=1, le=1000, description="That each benchmark is divided into, done side by side.")
    size: int = Field(0, ge=0, description="Side of composed pictures and crops; 0: the model's own.")
    seed: int = Field(0, ge=0, description="Of everything random.")
    data: dict[str, str] = Field(
        default={}, description="By benchmark: folder or s3:// address of its data set; left out, composed samples."
    )


class Order(BaseModel):
    """A part of a benchmark."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    benchmark: str
    part: int
    parts: int
    samples: int
    size: int
    seed: int
    data: str


def orders(names: Sequence[str], how: Measure) -> list[str]:
    """What each part of these benchmarks is told; one line that says nothing where there are none.

    Raises:
        ConfigError: there is no such benchmark, or data is named for one that is not measured.
    """
    from instructdiffusion.model.benchmarks import benchmark_named

    if strange := sorted(how.data.keys() - set(names)):
        raise ConfigError(f"data is named for {strange[0]}, which is not measured; measured: {', '.join(names) or '-'}")
    given = how.model_dump(exclude={"data"})
    wanted = [
        Order(benchmark=benchmark_named(name).name, part=part, data=how.data.get(name, ""), **given)
        for name in sorted(set(names))
        for part in range(1, how.parts + 1)
    ]
    return [order.model_dump_json() for order in wanted] or [NOTHING]


def run(
    order: str,
    endpoint: Callable[[], Endpoint],
    out: Path,
    *,
    data: Callable[[str], Path] = Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Measure a part into a folder of its benchmark below `out`; facts: the order. Nothing is uploaded.

    Args:
        order: as `orders` tells; `NOTHING` leaves `out` empty.
        endpoint: opens what is measured.
        out: kept when the step is stopped, so that it goes on there.
        data: brings the data of an address to this machine.
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
        data(wanted.data) if wanted.data else None,
        samples=wanted.samples,
        size=wanted.size or editor.resolution or benches.EMBEDDED_SIZE,
        seed=wanted.seed,
        name=PurePosixPath(wanted.data).name,  # and not the copy's: a policy may ask for data by its name
    )
    bench = benchmark_named(wanted.benchmark)
    score(bench, editor, out / bench.name, asked, part=(wanted.part, wanted.parts), progress=progress)
    return Made(out, digest_of(out), facts=wanted.model_dump())


def merge(parts: Sequence[Path], out: Path, *, store: Store | None = None) -> Made:
    """Make the numbers of each benchmark from its parts, in a folder of its name; facts: the reports by benchmark.

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
    return made(out, "benchmarks", digest, store if facts else None, facts)  # a store keeps no empty folder


def reports(folder: Path) -> list[Path]:
    """The reports that `merge` left, one a benchmark."""
    return sorted(folder.glob("*/benchmark.json"))
