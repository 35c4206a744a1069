"""Steps that gather what the gate's policy asks for beside the scores: safety probes and benchmarks.

As in `data_steps`, a step's body is all that is shipped with it.
"""

from typing import List  # noqa: UP035  kfp knows this spelling only

from kfp import dsl

step = dsl.component(base_image="python:3.11", install_kfp_package=False)


@step
def probe(
    model: dsl.Input[dsl.Model],
    policy: str,
    seed: int,
    work: str,
    safety: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Try whether a model refuses what it must refuse, and leaves alone what it must leave alone.

    Args:
        model: to probe.
        policy: the gate's, a YAML file or its s3:// address, which names forbidden tasks and a classifier; empty: none.
        seed: of pictures and edits.
        work: folder that outlives the run, where a classifier from the store is kept.
        safety: the report.
        page: the same to look at.
    """
    from pathlib import Path

    from instructdiffusion.components.probe import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside
    from instructdiffusion.pipelines.parameters import require

    with inside(f"probe ({model.metadata['name']})") as here:
        require(seed=seed)
        asked = here.policy(policy, Path(page.path)).probes
        nsfw = here.kept_folder(asked.nsfw, Path(work)) if asked.nsfw else None
        made = run(
            Path(model.path),
            Path(safety.path),
            forbidden=asked.forbidden,
            nsfw=nsfw,
            seed=int(seed),
            store=here.store,
            progress=here.progress,
        )
        here.keep(safety, made, name=model.metadata["name"])
        here.show(page, pages.probes(made.facts, f"probe ({model.metadata['name']})"))


@step
def assign(policy: str, benchmarks: str, samples: int, parts: int, page: dsl.Output[dsl.HTML]) -> List[str]:  # noqa: UP006
    """Divide the benchmarks that are to be measured into parts; returns what each part is told.

    Args:
        policy: the gate's, a YAML file or its s3:// address; its benchmarks are measured as it says.
        benchmarks: names with commas between them, instead of those of a policy; data and tools are the policy's.
        samples: of each of these; 0: all there are.
        parts: that each of these is divided into.
        page: what is to be measured.
    """
    from pathlib import Path

    from instructdiffusion.components.measure import orders
    from instructdiffusion.components.policy import measured
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside
    from instructdiffusion.pipelines.parameters import require

    with inside("assign benchmarks") as here:
        require(samples=samples, parts=parts)
        held_to = here.policy(policy, Path(page.path))
        names = [name.strip() for name in benchmarks.split(",") if name.strip()]
        how = held_to.measure.of(names, int(samples), int(parts)) if names else held_to.measure
        made = orders(names or measured(held_to), how)
        here.show(page, pages.page("benchmarks", tables=[[("part",), *((order,) for order in made)]]))
        return made


@step
def measure(
    order: str,
    model: dsl.Input[dsl.Model],
    work: str,
    rows: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Measure one part of a benchmark; samples that were measured before are not measured again.

    Args:
        order: which part of which benchmark, as `assign` tells.
        model: to measure.
        work: folder that outlives the run.
        rows: what was measured of each sample.
        page: which part it was.
    """
    import json
    from pathlib import Path

    from instructdiffusion.components.measure import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import copy, folder_for, inside

    told = json.loads(order) if order else {}
    title = f"measure ({told['benchmark']}, {told['part']}/{told['parts']})" if told else "measure (nothing)"
    with inside(title) as here:

        def endpoint():  # type: ignore[no-untyped-def]  # slow to import, and not needed for nothing
            from instructdiffusion.model.endpoints import Folder

            return Folder(Path(model.path))

        job = folder_for(Path(work), "benchmark", [order, model.metadata["digest"]])
        made = run(
            order,
            endpoint,
            job,
            folder=lambda address: here.kept_folder(address, Path(work)),
            file=lambda address: here.file(address, job.with_name(f"{job.name}.files") / Path(address).name),
            progress=here.progress,
        )
        copy(job, rows)
        here.keep(rows, made, name=title)
        here.show(page, pages.page(title, told))


@step
def merge(
    parts: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    model: dsl.Input[dsl.Model],
    benchmarks: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Make the numbers of each benchmark from its parts.

    Args:
        parts: every part of every benchmark.
        model: that was measured; its run in the tracker gets the values.
        benchmarks: their reports, in a folder of its name each.
        page: the same to look at.
        metrics: the values.
    """
    from pathlib import Path

    from instructdiffusion.components.measure import merge
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside("merge benchmarks") as here:
        name, digest, folders = model.metadata["name"], model.metadata["digest"], [Path(part.path) for part in parts]
        with here.tracked(name, key=model.metadata.get("key", digest)) as tracked:
            made = merge(folders, Path(benchmarks.path), model=digest, store=here.store, tracked=tracked)
        here.keep(benchmarks, made)
        values = {f"{b} {m}": v["value"] for b, r in made.facts.items() for m, v in r["values"].items()}
        here.measure(metrics, {name: value for name, value in values.items() if value is not None})
        here.show(page, pages.benchmarks(made.facts))
