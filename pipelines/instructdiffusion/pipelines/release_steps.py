"""Steps that put a model into service. Each reads the state of a service, or changes it.

A step's body is all that is shipped with it: it imports what it needs and calls one function of its component.
"""

from kfp import dsl

from instructdiffusion.pipelines.data_steps import step


@step
def seat(model: dsl.Input[dsl.Model], evaluation: dsl.Input[dsl.Artifact]) -> str:
    """Make a model the first champion; where there is one already nothing changes.

    Args:
        model: that the run starts from.
        evaluation: its scores.

    Returns:
        The champion's version.
    """
    from pathlib import Path

    from instructdiffusion.components.promote import seat
    from instructdiffusion.pipelines.inside import inside

    name, key, source = model.metadata["name"], model.metadata["key"], model.metadata["uri"]
    with inside("seat the first champion") as here, here.needed_run(name, key=key) as tracked:
        return seat(Path(model.path), source, Path(evaluation.path), registry=here.registry, tracked=tracked)


@step
def promote(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
) -> str:
    """Register a model with its verdict; one that passed becomes the champion.

    Args:
        model: to register.
        evaluation: its scores.
        verdict: of the gate.

    Returns:
        The champion's version from now on; empty where no model was good enough yet.
    """
    from pathlib import Path

    from instructdiffusion.components.promote import run
    from instructdiffusion.pipelines.inside import inside

    with inside(f"promote ({model.metadata['name']})") as here:
        with here.needed_run(model.metadata["name"], key=model.metadata["key"]) as tracked:
            promoted = run(
                Path(model.path),
                model.metadata["uri"],
                Path(evaluation.path),
                Path(verdict.path),
                registry=here.registry,
                tracked=tracked,
            )
        return promoted["champion"]


@step
def package(version: str, work: str) -> str:
    """Make a Bento of a registered version.

    Args:
        version: its number in the registry, as callers will see it.
        work: folder below which the weights and Bento's stores lie.

    Returns:
        The Bento's tag.
    """
    from pathlib import Path

    from instructdiffusion.components.champion import fetched
    from instructdiffusion.components.package import run
    from instructdiffusion.pipelines.inside import inside

    with inside("package") as here:
        found = here.registry.version(version)
        model = fetched(found, Path(work) / "releases" / version, here.needed_store)
        facts = {"model": here.registry.model, "run_id": found.run_id}
        return run(model, version, Path(work) / "bento", facts)["tag"]


@step
def deploy(tag: str, work: str, port: int) -> str:
    """Serve a Bento, in place of the one that was served before.

    Args:
        tag: of the Bento.
        work: folder below which Bento's stores lie.
        port: where it listens; 0: any free port.

    Returns:
        The address of the service.
    """
    from pathlib import Path

    from instructdiffusion.components.deploy import run
    from instructdiffusion.pipelines.inside import inside

    with inside("deploy"):
        return run(tag, Path(work) / "bento", port).address
