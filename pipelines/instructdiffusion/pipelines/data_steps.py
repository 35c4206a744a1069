"""Steps that make data: scenes, latents, candidates, picks.

A step's body is all that is shipped with it: it imports what it needs and calls one function of its component.
"""

from kfp import dsl

step = dsl.component(base_image="python:3.11", install_kfp_package=False)


@step
def fetch(source: str, name: str, model: dsl.Output[dsl.Model], page: dsl.Output[dsl.HTML]) -> int:
    """Take a model into the pipeline.

    Args:
        source: folder of a model, or its address in the store (s3://...); empty: the base inside the package.
        name: of the model, in the tracker.
        model: its copy.
        page: what it is.

    Returns:
        The side in pixels of the pictures that it edits.
    """
    from pathlib import Path

    from instructdiffusion.components.fetch import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside(f"fetch the {name}") as here:
        out = Path(model.path)
        made = run(here.folder(source, out.with_name("download")) if source else None, out, store=here.store)
        here.keep(model, made, name=name, key=f"{name}-{made.digest.removeprefix('sha256:')[:12]}")
        here.show(page, pages.model(out, name, model.metadata))
        return int(made.facts["resolution"])


@step
def load(source: str, name: str, shards: dsl.Output[dsl.Dataset], page: dsl.Output[dsl.HTML]) -> None:
    """Take a data set into the pipeline.

    Args:
        source: folder of a data set, or its address in the store (s3://...).
        name: of the data set.
        shards: its copy.
        page: what is in it.
    """
    from pathlib import Path

    from instructdiffusion.components.step import Made
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.files import digest_of
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import copy, inside

    with inside(f"load ({name})") as here:
        found = here.folder(source, Path(shards.path).with_name("download"))
        Manifest.load(found)
        out = copy(found, shards)
        here.keep(shards, Made(out, digest_of(out), source), name=name)
        here.show(page, pages.data(out, name))


@step
def synthesize(
    name: str,
    split: str,
    triplets: int,
    even: bool,
    size: int,
    seed: int,
    shards: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Compose triplets with exact truth.

    Args:
        name: of the data set.
        split: train or test; photographs and pairs of kind and colour belong to one of them.
        triplets: how many, of all tasks or of each.
        even: the same number of every task, instead of by the tasks' weights.
        size: side of the pictures, pixels.
        seed: of everything random.
        shards: the data set.
        page: what is in it.
    """
    from pathlib import Path
    from typing import cast

    from instructdiffusion.components.synthesize import run
    from instructdiffusion.model.data.photos import Split
    from instructdiffusion.model.synthesis.write import mixture
    from instructdiffusion.model.tasks import TASKS
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside
    from instructdiffusion.pipelines.parameters import require

    with inside(f"synthesize ({name})") as here:
        count = {"held-out": "held_out", "prompts": "prompts"}.get(name, "triplets")
        require(**{count: triplets}, seed=seed)
        counts = dict.fromkeys(TASKS, triplets) if even else mixture(triplets)
        out = Path(shards.path)
        part = cast(Split, split)
        drawn = seed + (name == "prompts")  # with the same seed they would be triplets that are trained on
        made = run(out, split=part, counts=counts, size=size, seed=drawn, store=here.store, progress=here.progress)
        here.keep(shards, made, name=name, size=size, split=split, triplets=sum(made.facts["counts"].values()))
        here.show(page, pages.data(out, name))


@step
def filter(
    source: dsl.Input[dsl.Dataset],
    policy: str,
    shards: dsl.Output[dsl.Dataset],
    audit: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Drop triplets that are not worth training on, report why, and draw some for people to judge.

    Args:
        source: the data set as it was made.
        policy: embedded, paper, or a YAML file, or its s3:// address.
        shards: what is left of it.
        audit: some of what was kept and rejected, to be judged by people.
        page: what is left, how the scores are spread, what was rejected and why.
        metrics: how many were made and are left.
    """
    from pathlib import Path

    from instructdiffusion.components.filter import draw, run, track
    from instructdiffusion.pipelines import quality_page
    from instructdiffusion.pipelines.inside import inside

    with inside("filter") as here:
        made = run(Path(source.path), Path(shards.path), policy=policy, store=here.store, progress=here.progress)
        left = sum(made.facts["counts"].values())
        here.keep(shards, made, name=source.metadata["name"], triplets=left)
        here.keep(audit, draw(Path(shards.path), Path(audit.path), here.store), name=source.metadata["name"])
        here.measure(metrics, {"made": source.metadata["triplets"], "left": left})
        name = source.metadata["name"]
        told = quality_page.page_of(Path(shards.path), name)
        here.show(page, told)
        with here.tracked(f"data ({name})", key=f"data-{made.digest.removeprefix('sha256:')[:12]}") as tracked:
            if tracked is not None:
                track(tracked, made, name, told)


@step
def encode(
    shards: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    work: str,
    latents: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Run autoencoder and text encoder once, so that training runs neither; what was finished before stays.

    Args:
        shards: triplets.
        model: whose encoders are used.
        work: folder that outlives the step, so that one that was stopped goes on.
        latents: the triplets, encoded.
        page: how many of each task.
    """
    from pathlib import Path

    from instructdiffusion.components.encode import run
    from instructdiffusion.model.data.latents import FIRST
    from instructdiffusion.model.files import share
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import folder_for, inside

    with inside(f"encode ({shards.metadata['name']})") as here:
        job = folder_for(Path(work), "encode", [shards.metadata["digest"], model.metadata["digest"]])
        made = run(Path(shards.path), Path(model.path), job, store=here.store, progress=here.progress)
        for file in [shard["name"] for shard in made.facts["shards"]] + [FIRST, "manifest.json"]:
            share(job / file, Path(latents.path) / file)
        name = f"latents of {shards.metadata['name']}"
        here.keep(latents, made, name=name, encoder=model.metadata["digest"])
        here.show(page, pages.data(Path(latents.path), name))


@step
def propose(
    model: dsl.Input[dsl.Model],
    shards: dsl.Input[dsl.Dataset],
    edits: int,
    seed: int,
    candidates: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Make several edits of each triplet, under different seeds and guidance.

    Args:
        model: that edits.
        shards: whose sources are edited, as their instructions say.
        edits: how many of each.
        seed: of the edits.
        candidates: the edits, without a hint of which is which.
        page: some of them.
    """
    from pathlib import Path

    from instructdiffusion.components.propose import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside
    from instructdiffusion.pipelines.parameters import require

    title = f"propose ({model.metadata['name']}, {shards.metadata['name']})"
    with inside(title) as here:
        require(edits=edits, seed=seed)
        made = run(
            Path(model.path),
            Path(shards.path),
            Path(candidates.path),
            count=edits,
            seed=seed,
            store=here.store,
            progress=here.progress,
        )
        here.keep(candidates, made, prompts=made.facts["prompts"], edits=made.facts["edits"])
        here.show(page, pages.candidates(Path(candidates.path), title))


@step
def rank(
    candidates: dsl.Input[dsl.Dataset],
    shards: dsl.Input[dsl.Dataset],
    annotator: str,
    seed: int,
    rankings: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Order the edits of each triplet, the best first.

    Args:
        candidates: the edits.
        shards: the triplets they were made of, with the truth.
        annotator: reference ranks by the known truth, random by chance, label-studio like the reference but through
            that server; people are waited for there. Every record names who it is of.
        seed: of the random one.
        rankings: who preferred what.
        page: some of the picks.
    """
    from pathlib import Path

    from instructdiffusion.components.rank import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside(f"rank ({annotator})") as here:
        made = run(
            Path(candidates.path),
            Path(shards.path),
            Path(rankings.path),
            annotator=annotator,
            seed=seed,
            store=here.store,
            settings=here.settings,
        )
        here.keep(rankings, made, name=annotator)
        here.show(page, pages.rankings(Path(rankings.path), Path(candidates.path), f"rank ({annotator})"))


@step
def collect(
    candidates: dsl.Input[dsl.Dataset],
    rankings: dsl.Input[dsl.Artifact],
    shards: dsl.Input[dsl.Dataset],
    picked: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Turn the edits that were ranked first into triplets to train on.

    Args:
        candidates: the edits.
        rankings: who preferred what.
        shards: the triplets that the edits were made of.
        picked: the same triplets, with the chosen edit as target.
        page: some of them.
    """
    from pathlib import Path

    from instructdiffusion.components.collect import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside(f"collect ({rankings.metadata['name']})") as here:
        made = run(
            Path(candidates.path),
            Path(rankings.path),
            Path(shards.path),
            Path(picked.path),
            store=here.store,
        )
        name = f"{rankings.metadata['name']} picks"
        here.keep(picked, made, name=name, triplets=sum(made.facts["counts"].values()))
        here.show(page, pages.data(Path(picked.path), name))
