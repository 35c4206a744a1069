"""Steps that make data: scenes, latents, candidates, picks.

A step's body is all that is shipped with it: it imports what it needs and calls one function of its component.
"""

from kfp import dsl

step = dsl.component(base_image="python:3.11", install_kfp_package=False)


@step
def fetch(source: str, model: dsl.Output[dsl.Model]) -> None:
    """Take the model to start from into the pipeline.

    Args:
        source: folder of a model; empty: the base inside the package.
        model: its copy.
    """
    from pathlib import Path

    from instructdiffusion.components.fetch import run
    from instructdiffusion.pipelines.inside import inside

    with inside("fetch the base") as here:
        made = run(Path(source) if source else None, Path(model.path), store=here.store)
        here.keep(model, made, name="base", key=f"base-{made.digest.removeprefix('sha256:')[:12]}")


@step
def synthesize(
    name: str, split: str, triplets: int, even: bool, size: int, seed: int, shards: dsl.Output[dsl.Dataset]
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
    """
    from pathlib import Path
    from typing import cast

    from instructdiffusion.components.synthesize import run
    from instructdiffusion.model.data.photos import Split
    from instructdiffusion.model.synthesis.write import mixture
    from instructdiffusion.model.tasks import TASKS
    from instructdiffusion.pipelines.inside import inside

    with inside(f"synthesize ({name})") as here:
        counts = dict.fromkeys(TASKS, triplets) if even else mixture(triplets)
        out = Path(shards.path)
        side = cast(Split, split)
        made = run(out, split=side, counts=counts, size=size, seed=seed, store=here.store, progress=here.progress)
        here.keep(shards, made, name=name)


@step
def filter(source: dsl.Input[dsl.Dataset], shards: dsl.Output[dsl.Dataset]) -> None:
    """Drop triplets that are not worth training on, and report why.

    Args:
        source: the data set as it was made.
        shards: what is left of it.
    """
    from pathlib import Path

    from instructdiffusion.components.filter import run
    from instructdiffusion.pipelines.inside import inside

    with inside("filter") as here:
        made = run(Path(source.path), Path(shards.path), store=here.store)
        here.keep(shards, made, name=source.metadata["name"])


@step
def encode(shards: dsl.Input[dsl.Dataset], model: dsl.Input[dsl.Model], latents: dsl.Output[dsl.Dataset]) -> None:
    """Run autoencoder and text encoder once, so that training runs neither.

    Args:
        shards: triplets.
        model: whose encoders are used.
        latents: the triplets, encoded.
    """
    from pathlib import Path

    from instructdiffusion.components.encode import run
    from instructdiffusion.pipelines.inside import inside

    with inside(f"encode ({shards.metadata['name']})") as here:
        folders = (Path(shards.path), Path(model.path), Path(latents.path))
        here.keep(latents, run(*folders, store=here.store, progress=here.progress))


@step
def propose(
    model: dsl.Input[dsl.Model],
    shards: dsl.Input[dsl.Dataset],
    edits: int,
    seed: int,
    candidates: dsl.Output[dsl.Dataset],
) -> None:
    """Make several edits of each triplet, under different seeds and guidance.

    Args:
        model: that edits.
        shards: whose sources are edited, as their instructions say.
        edits: how many of each.
        seed: of the edits.
        candidates: the edits, without a hint of which is which.
    """
    from pathlib import Path

    from instructdiffusion.components.propose import run
    from instructdiffusion.pipelines.inside import inside

    with inside(f"propose ({model.metadata['name']}, {shards.metadata['name']})") as here:
        made = run(
            Path(model.path),
            Path(shards.path),
            Path(candidates.path),
            count=edits,
            seed=seed,
            store=here.store,
            progress=here.progress,
        )
        here.keep(candidates, made)


@step
def rank(
    candidates: dsl.Input[dsl.Dataset],
    shards: dsl.Input[dsl.Dataset],
    annotator: str,
    seed: int,
    rankings: dsl.Output[dsl.Artifact],
) -> None:
    """Order the edits of each triplet, the best first.

    Args:
        candidates: the edits.
        shards: the triplets they were made of, with the truth.
        annotator: reference ranks by the known truth, random by chance; every record names it.
        seed: of the random one.
        rankings: who preferred what.
    """
    from pathlib import Path

    from instructdiffusion.components.rank import run
    from instructdiffusion.pipelines.inside import inside

    with inside(f"rank ({annotator})") as here:
        made = run(
            Path(candidates.path),
            Path(shards.path),
            Path(rankings.path),
            annotator=annotator,
            seed=seed,
            store=here.store,
        )
        here.keep(rankings, made, name=annotator)


@step
def collect(
    candidates: dsl.Input[dsl.Dataset],
    rankings: dsl.Input[dsl.Artifact],
    shards: dsl.Input[dsl.Dataset],
    picked: dsl.Output[dsl.Dataset],
) -> None:
    """Turn the edits that were ranked first into triplets to train on.

    Args:
        candidates: the edits.
        rankings: who preferred what.
        shards: the triplets that the edits were made of.
        picked: the same triplets, with the chosen edit as target.
    """
    from pathlib import Path

    from instructdiffusion.components.collect import run
    from instructdiffusion.pipelines.inside import inside

    with inside(f"collect ({rankings.metadata['name']})") as here:
        made = run(
            Path(candidates.path),
            Path(rankings.path),
            Path(shards.path),
            Path(picked.path),
            store=here.store,
        )
        here.keep(picked, made, name=f"{rankings.metadata['name']} picks")
