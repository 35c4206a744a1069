"""The part of the pipeline `data` that makes shards, on kfp's local runner: `python fan_out.py FOLDER SOURCES PARTS`.

kfp reads annotations as they are, hence no `from __future__ import annotations`.
"""

import json
import sys
from pathlib import Path

from kfp import dsl, local

from instructdiffusion.pipelines.source_steps import build, join, plan
from instructdiffusion.pipelines.stages import fresh


@dsl.pipeline(name="fan-out")  # type: ignore[untyped-decorator]
def fan_out(sources: str, parts: int, work: str) -> dsl.Dataset:
    planned = fresh(plan(sources=sources, root="", without="", triplets=1, parts=parts))
    with dsl.ParallelFor(planned.outputs["Output"]) as order:
        built = build(order=order, name="train", size=32, seed=3, work=work)
    return join(parts=dsl.Collected(built.outputs["shards"]), name="train").outputs["shards"]


def main(folder: Path, sources: str, parts: int) -> None:
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "steps"),
        enable_caching=True,
        cache_root=str(folder / "cache"),
    )
    made = fan_out(sources=sources, parts=parts, work=str(folder / "work"))
    (folder / "made.json").write_text(json.dumps(made.outputs["Output"].path))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
