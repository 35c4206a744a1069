"""Steps that build a data set from its sources: plan, build a part, join the parts, screen them for leaks.

As in `data_steps`, a step's body is all that is shipped with it.
"""

from typing import List  # noqa: UP035  kfp knows this spelling only

from kfp import dsl

step = dsl.component(base_image="python:3.11", install_kfp_package=False)


@step
def plan(
    sources: str,
    root: str,
    without: str,
    triplets: int,
    parts: int,
    page: dsl.Output[dsl.HTML],
) -> List[str]:  # noqa: UP006
    """Read what a data set is to be made of, and divide the work; returns what each part is told.

    Args:
        sources: sources file, a path or its s3:// address, or paper; empty: composed scenes alone.
        root: folder or s3:// address that the file's relative paths are below; empty: its own.
        without: names of sources to leave out, with commas between.
        triplets: scenes to compose where there is no file.
        parts: how many.
        page: what is to be built.
    """
    from pathlib import Path

    from instructdiffusion.components.build import orders, read
    from instructdiffusion.model.data.sources import scenes_alone
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside
    from instructdiffusion.pipelines.parameters import require

    with inside("plan") as here:
        require(triplets=triplets, parts=parts)
        copy = Path(page.path).with_name("sources.yaml")
        left_out = [name.strip() for name in without.split(",") if name.strip()]
        wanted = scenes_alone(int(triplets))
        if sources:
            wanted = read(sources, copy, here.store, root=root, without=left_out)
        here.show(page, pages.sources(wanted, int(parts)))
        return orders(wanted, int(parts))


@step
def build(
    order: str,
    name: str,
    size: int,
    seed: int,
    work: str,
    shards: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Make the triplets of one part; a shard that was finished before is not made again.

    Args:
        order: which part, and of which sources, as `plan` tells.
        name: of the data set.
        size: side of the pictures, pixels.
        seed: of everything random.
        work: folder that outlives the run.
        shards: the part.
        page: what is in it.
    """
    from pathlib import Path

    from instructdiffusion.components.build import ordered, run
    from instructdiffusion.model.files import share
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import folder_for, inside
    from instructdiffusion.pipelines.parameters import require

    part, sources = ordered(order)
    title = f"build ({name})" if part == "1/1" else f"build ({name}, {part})"
    with inside(title) as here:
        require(seed=seed)
        job = folder_for(Path(work), "build", [order, str(size), str(seed)])
        made = run(
            sources,
            job,
            size=int(size),
            seed=int(seed),
            part=part,
            copies=job.with_name("sources"),
            store=here.store,
            progress=here.progress,
        )
        for file in [shard["name"] for shard in made.facts["shards"]] + ["manifest.json"]:
            share(job / file, Path(shards.path) / file)
        here.keep(shards, made, name=name, size=size, triplets=sum(made.facts["counts"].values()))
        here.show(page, pages.data(Path(shards.path), title))


@step
def join(
    parts: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    name: str,
    shards: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Make one data set of its parts.

    Args:
        parts: every part.
        name: of the data set.
        shards: the data set.
        page: what is in it, and what was left out.
    """
    from pathlib import Path

    from instructdiffusion.components.build import join
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside(f"join ({name})") as here:
        made = join([Path(part.path) for part in parts], Path(shards.path), store=here.store)
        size, split = made.facts["size"], made.facts["split"]
        here.keep(shards, made, name=name, size=size, split=split, triplets=sum(made.facts["counts"].values()))
        here.show(page, pages.data(Path(shards.path), name))


@step
def screen(
    source: dsl.Input[dsl.Dataset],
    prompts: dsl.Input[dsl.Dataset],
    held_out: dsl.Input[dsl.Dataset],
    scored_on: str,
    leaking: str,
    shards: dsl.Output[dsl.Dataset],
    leaks: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Refuse triplets to train on that models are scored on, or leave them out; returns the report's address.

    Args:
        source: the data set.
        prompts: triplets that will be trained on too, once their edits are ranked.
        held_out: triplets that models are scored on.
        scored_on: folders of data sets that they are scored on as well, or s3:// addresses, with commas between.
        leaking: what happens to triplets that leak: refuse, drop.
        shards: what may be trained on.
        leaks: what was looked for, and found.
        page: the same to look at.
        metrics: how many were looked at and leak.
    """
    from pathlib import Path

    from instructdiffusion.components.screen import run
    from instructdiffusion.model.files import digest_of
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside("screen") as here:
        made = run(
            Path(source.path),
            Path(shards.path),
            Path(held_out.path),
            others=[place.strip() for place in scored_on.split(",") if place.strip()],
            also=[Path(prompts.path)],
            leaking=leaking,
            store=here.store,
            progress=here.progress,
        )
        left = sum(made.facts["counts"].values())
        here.keep(shards, made, name=source.metadata["name"], triplets=left)
        here.keep_file(leaks, made.facts["leaks"])
        here.measure(metrics, {"triplets": made.facts["leaks"]["triplets"], "leaks": made.facts["leaks"]["found"]})
        here.show(page, pages.leaks(made.facts["leaks"]))
        name = f"reports/leaks-{digest_of(Path(leaks.path)).removeprefix('sha256:')[:12]}.json"
        return here.store.put_file(Path(leaks.path), name) if here.store else str(leaks.path)
