"""Step: drop triplets that are not good enough, and say why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store, located
from instructdiffusion.model.addresses import S3
from instructdiffusion.model.files import digest_of

if TYPE_CHECKING:
    from instructdiffusion.components.tracking import TrackedRun
    from instructdiffusion.model.quality.policy import Policy

REPORT = "data-quality.html"
DEFAULT = "embedded"
AUDITED = 100  # triplets that people are given to judge


def read(policy: str, copies: Path, store: Store | None, settings: Iterable[str] = ()) -> Policy:
    """The policy of that name, in a file or at an s3:// address; what it names is looked for beside it.

    Args:
        copies: where what the store has is downloaded to.
        settings: changes of single rules, as in `aesthetic.at_least=5`.

    Raises:
        ConfigError: it can't be read; one line with all that is wrong in it.
    """
    from instructdiffusion.model.quality.policy import Policy

    held = Policy.read(located(policy, copies, store), settings)
    return held.below(policy.rpartition("/")[0]) if policy.startswith(S3) else held


def run(
    source: Path,
    out: Path,
    *,
    policy: str = DEFAULT,
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Copy the shards in `source` without the triplets that a policy refuses, which go to `rejected`.

    Args:
        policy: embedded, paper, a YAML file, its s3:// address, or its text.
        store: where that file comes from, and files and networks that it names by their addresses.

    Returns:
        What was kept; facts: the manifest.
    """
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.quality.filtering import filter_shards

    copies = out.with_name(f"{out.name}.policy")
    held = read(policy, copies, store)
    here = partial(located, copies=copies, store=store)
    inputs = {"source": data_digest(source), "policy": held.digest}
    digest = once(out, inputs, lambda: filter_shards(source, out, held, here=here, progress=progress))
    return made(out, "datasets", digest, store, Manifest.load(out).model_dump(mode="json"))


def draw(filtered: Path, out: Path, store: Store | None) -> Made:
    """Draw some of what a filter kept and rejected, for people to judge: see `instructdiffusion data audit`."""
    from instructdiffusion.model.quality import audit

    audit.draw(filtered, out, count=AUDITED, seed=0)
    return made(out, "audits", digest_of(out), store, {})


def track(tracked: TrackedRun, kept: Made, name: str, page: str) -> None:
    """Tell a tracker what was kept: the data set as the run's input, its manifest, counts, and the report's page.

    Args:
        name: of the data set.
        page: self-contained HTML.
    """
    source, facts = kept.uri or str(kept.path), kept.facts
    tracked.dataset(name, digest=kept.digest, source=source, context="training", counts=facts["counts"])
    tracked.document("manifest.json", facts)
    tracked.metrics({f"triplets/{task}": count for task, count in facts["counts"].items()}, step=0)
    tracked.page(REPORT, page)
