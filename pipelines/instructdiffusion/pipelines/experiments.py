"""The paper's claims on small models: experiments that one command each runs, with intervals, a plot and a paragraph.

Every part is kept in the experiment's folder; the same command again goes on where it was stopped. What comes out says
something of small models on composed scenes after short trainings, and no more.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from instructdiffusion.model.effects import Effect, effect, paragraph
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.weights import resolution
from instructdiffusion.pipelines.report import effects_plot
from instructdiffusion.pipelines.work import evaluated, shown, synthesized

if TYPE_CHECKING:
    from instructdiffusion.model.config import Run
    from instructdiffusion.model.data.shards import Triplet

RESULT, PLOT, PAGE = "experiment.json", "experiment.svg", "experiment.md"
ONE_A_FAMILY = ("segmentation", "denoise", "recolour")  # tasks of which each is also learnt alone
HELD_OUT_SEED = 7
PROMPT_SEED = 1
FITTED = 1500  # pictures that an autoencoder is fitted to
Scores = Mapping[str, Sequence[float]]  # of every held-out sample, by task


@dataclass(frozen=True)
class Size:
    """How large an experiment is."""

    seeds: int = 3
    recipe: str = "little"  # of the trainings from nothing
    steps: int = 180  # optimizer steps of each, or of the longest tuning
    triplets: int = 6000  # to train on, of all tasks together
    held_out: int = 60  # of each task
    prompts: int = 12  # of each task, whose edits are picked
    edits: int = 4  # of each prompt


#: Up to an hour each on two cores: twelve trainings, six, and twenty-four short ones with many edits after each.
FULL: Mapping[str, Size] = {
    "multitask": Size(),
    "instructions": Size(steps=320),
    "alignment": Size(steps=80, held_out=30),
}
SMOKE = Size(
    seeds=1, recipe="smoke", steps=1, triplets=20, held_out=3, prompts=2, edits=2
)  # shows that it works, in seconds
Finding = tuple[list[Effect], str, dict[str, Any]]  # effects, the paragraph, and what else is kept


def run(name: str, out: Path, size: Size, console: Console) -> dict[str, Any]:
    """Run an experiment; returns the content of `experiment.json`, beside which lie the plot and a page.

    Raises:
        DataError: the folder holds one of another size.
    """
    settings, kept = {"experiment": name, **asdict(size)}, out / "settings.json"
    text = json.dumps(settings, indent=1)
    if kept.is_file() and kept.read_text() != text:
        raise DataError(f"{out} holds an experiment of other settings; choose another --out, or delete it")
    write_atomic(kept, text)
    effects, told, more = EXPERIMENTS[name](out, size, console)
    result = {**json.loads(text), "effects": [e.model_dump(mode="json") for e in effects], "paragraph": told, **more}
    write_atomic(out / RESULT, json.dumps(result, indent=1))
    plot = effects_plot(effects, more.get("curve"))
    write_atomic(out / PLOT, base64.b64decode(plot.partition(",")[2]))
    write_atomic(out / PAGE, page(name, effects, told))
    return result


def page(name: str, effects: Sequence[Effect], told: str) -> str:
    """The paragraph, the plot and the numbers in Markdown."""
    rows = [
        "| | mean | of the other | difference | 95 % interval | by seed | samples |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in effects:
        seeds = ", ".join(f"{value:+.3g}" for value in e.by_seed)
        means = f"{e.arms[0]:.3g} | {e.arms[1]:.3g}"
        rows.append(f"| {e.name} | {means} | {e.value:+.3g} | {e.low:+.3g} to {e.high:+.3g} | {seeds} | {e.n} |")
    return f"# Experiment {name}\n\n{told}\n\n![differences with their intervals]({PLOT})\n\n" + "\n".join(rows) + "\n"


def multitask(out: Path, size: Size, console: Console) -> Finding:
    """All tasks in one model, against a model for each of three tasks, from nothing and with as many steps."""
    together: list[Scores] = []
    alone: list[Scores] = []
    every = _held_out(out, size, console)
    held_out = _rewritten(every, out / "held-out-three", partial(_only, ONE_A_FAMILY))
    for seed in range(size.seeds):
        data = _data(out, size, seed, console)
        start = _start(out, size, seed, data)
        together.append(_trained("all", out, size, seed, data, start, held_out, console))
        scores: dict[str, Sequence[float]] = {}
        for task in ONE_A_FAMILY:
            of_task = _rewritten(data, out / f"data-{seed}-{task}", partial(_only, (task,)))
            scores[task] = _trained(task, out, size, seed, of_task, start, held_out, console)[task]
        alone.append(scores)
    effects = _effects(ONE_A_FAMILY, together, alone)
    claim = "a model that learns all tasks together is better at each than one that learns it alone"
    spent = "of which the model of all tasks spends few on each"
    setting = f"With {size.steps} steps from nothing by recipe {size.recipe}, {spent}, and {_seeds(size)}"
    return effects, paragraph(claim, "the model of all tasks", "that of one", effects, setting), {}


def instructions(out: Path, size: Size, console: Console) -> Finding:
    """Instructions in sentences, of many wordings, against the name of the task and what it is about."""
    detailed: list[Scores] = []
    simple: list[Scores] = []
    held_out = _held_out(out, size, console)
    short_held_out = _rewritten(held_out, out / "held-out-simple", shortened)
    for seed in range(size.seeds):
        data = _data(out, size, seed, console)
        start = _start(out, size, seed, data)
        detailed.append(_trained("detailed", out, size, seed, data, start, held_out, console))
        short = _rewritten(data, out / f"data-{seed}-simple", shortened)
        simple.append(_trained("simple", out, size, seed, short, start, short_held_out, console))
    effects = _effects(detailed[0], detailed, simple)
    claim = "detailed instructions teach a model better than the bare names of tasks"
    asked = "each model asked as it was taught"
    setting = f"With {size.steps} steps from nothing by recipe {size.recipe}, {asked}, and {_seeds(size)}"
    return effects, paragraph(claim, "detailed", "simple", effects, setting), {}


def alignment(out: Path, size: Size, console: Console) -> Finding:
    """Tuning on edits that were picked, by how long, against tuning as long on edits drawn by lot."""
    prompts, held_out = out / "prompts", out / "held-out"
    side = resolution(None)
    synthesized(prompts, "train", size.prompts, True, side, PROMPT_SEED, console)
    synthesized(held_out, "test", size.held_out, True, side, HELD_OUT_SEED, console)
    tunings = amounts(size.steps)
    truths: dict[tuple[str, int], list[Sequence[float]]] = {}
    for seed in range(size.seeds):
        before = _truths(None, held_out, out / f"before-{seed}", seed, console)
        for annotator in ("reference", "random"):
            picked = _picked(annotator, prompts, out, size, seed, console)
            truths.setdefault((annotator, 0), []).append(before)
            for amount in tunings:
                tuned = _tuned(annotator, amount, picked, out, seed, console)
                edits = out / f"{annotator}-{amount}-{seed}"
                truths.setdefault((annotator, amount), []).append(_truths(tuned, held_out, edits, seed, console))
    effects = [effect(f"{n} steps", "of truth, 0 to 1", truths["reference", n], truths["random", n]) for n in tunings]
    curve = {
        label: [_point(effect("", "", truths[who, n], truths[who, 0]), n) for n in (0, *tunings)]
        for who, label in (("reference", "picked"), ("random", "by lot"))
    }
    claim = "tuning on edits that were picked makes edits better than tuning on as many drawn by lot"
    setting = f"With tunings of {tunings[0]} to {tunings[-1]} steps on nano and {_seeds(size)}"
    told = paragraph(claim, "picked", "drawn by lot", effects, setting)
    return effects, f"{told} {since(curve)}", {"curve": curve}


def amounts(longest: int) -> list[int]:
    """Optimizer steps of the tunings: the longest, and what is left of it halved three times."""
    return sorted({max(1, longest // share) for share in (8, 4, 2, 1)})


def since(curve: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """What the longest tuning did to each arm, in a sentence: the better arm may still be worse than none."""
    ends = {label: points[-1] for label, points in curve.items()}
    changes = [f"{label} {p['value']:+.3g} ({p['low']:+.3g} to {p['high']:+.3g})" for label, p in ends.items()]
    return f"Since before the tuning, after its {next(iter(ends.values()))['amount']} steps: {', '.join(changes)}."


def _point(found: Effect, amount: int) -> dict[str, float]:
    """A point of a curve: the change since before the tuning."""
    return {"amount": amount, "value": found.value, "low": found.low, "high": found.high}


def shortened(triplet: Triplet) -> Triplet:
    """The same triplet, asked for by the task's name and what it is about."""
    from random import Random

    from instructdiffusion.model.instructions import SIMPLE
    from instructdiffusion.model.instructions.bank import bank, reword

    return replace(triplet, ask=reword(triplet.ask, triplet.label, bank(SIMPLE) or {}, Random(0)))


EXPERIMENTS: Mapping[str, Callable[[Path, Size, Console], Finding]] = {
    "multitask": multitask,
    "instructions": instructions,
    "alignment": alignment,
}


def _seeds(size: Size) -> str:
    return f"{size.seeds} seed{'s' if size.seeds > 1 else ''}"


def _side(size: Size) -> int:
    from instructdiffusion.model.recipes import recipe

    return recipe(size.recipe).network.size


def _effects(tasks: Iterable[str], arm: Sequence[Scores], other: Sequence[Scores]) -> list[Effect]:
    from instructdiffusion.model.tasks import TASKS

    def rows(scores: Sequence[Scores], task: str) -> list[Sequence[float]]:
        return [found[task] for found in scores]

    return [effect(task, TASKS[task].metric.unit, rows(arm, task), rows(other, task)) for task in tasks]


def _held_out(out: Path, size: Size, console: Console) -> Path:
    synthesized(out / "held-out", "test", size.held_out, True, _side(size), HELD_OUT_SEED, console)
    return out / "held-out"


def _data(out: Path, size: Size, seed: int, console: Console) -> Path:
    folder = out / f"data-{seed}"
    synthesized(folder, "train", size.triplets, False, _side(size), seed, console)
    return folder


def _start(out: Path, size: Size, seed: int, data: Path) -> Path:
    """Networks that know nothing; the arms of a seed start from the same ones."""
    from instructdiffusion.model import network, weights
    from instructdiffusion.model.data.shards import read_triplets
    from instructdiffusion.model.recipes import recipe

    folder, run = out / f"start-{seed}", recipe(size.recipe)
    if not (folder / weights.SETTINGS).is_file():
        targets = [t.target for t in itertools.islice(read_triplets(data), FITTED)]
        network.save(network.create(run.network, run.diffusion, targets, seed), folder)
    return folder


def _only(tasks: Sequence[str], triplet: Triplet) -> Triplet | None:
    return triplet if triplet.ask.task in tasks else None


def _rewritten(data: Path, out: Path, change: Callable[[Triplet], Triplet | None]) -> Path:
    """The data set with every triplet changed, or left out."""
    from instructdiffusion.model.data.shards import MANIFEST, Manifest, read_triplets, write_shard
    from instructdiffusion.model.files import digest_of

    if (out / MANIFEST).is_file():
        return out
    triplets = [made for t in read_triplets(data) if (made := change(t)) is not None]
    counts: dict[str, int] = {}
    for triplet in triplets:
        counts[triplet.ask.task] = counts.get(triplet.ask.task, 0) + 1
    shard = write_shard(out / "shard-00000.tar", triplets)
    changes = {"shards": (shard,), "counts": counts, "parents": (digest_of(data / MANIFEST),)}
    Manifest.load(data).model_copy(update=changes).save(out)
    return out


def _trained(
    arm: str, out: Path, size: Size, seed: int, data: Path, start: Path, held_out: Path, console: Console
) -> Scores:
    """Train an arm under a seed and score it on the held-out samples."""
    from instructdiffusion.model.config import override
    from instructdiffusion.model.recipes import recipe

    settings = {"steps": size.steps, "warmup": size.steps // 10}
    kept = {"seed": seed, "checkpoint_every": max(1, size.steps // 4)}
    run = override(
        recipe(size.recipe),
        [*(f"optim.{name}={value}" for name, value in settings.items()), *(f"{k}={v}" for k, v in kept.items())],
    )
    folder = out / f"{arm}-{seed}"
    model = _fitted(run, data, start, folder, console)
    tasks = evaluated(model, held_out, size.held_out, folder, console)["tasks"]
    return {task: row["scores"] for task, row in tasks.items()}


def _picked(annotator: str, prompts: Path, out: Path, size: Size, seed: int, console: Console) -> Path:
    """Triplets whose targets are edits that were picked."""
    from instructdiffusion.components import collect, propose, rank

    with shown(console, f"propose (seed {seed})"):
        edits = propose.run(None, prompts, out / f"candidates-{seed}", count=size.edits, seed=seed).path
    ranked = rank.run(edits, prompts, out / f"rankings-{annotator}-{seed}", annotator=annotator, seed=seed).path
    return collect.run(edits, ranked, prompts, out / f"picked-{annotator}-{seed}").path


def _tuned(annotator: str, amount: int, data: Path, out: Path, seed: int, console: Console) -> Path:
    from instructdiffusion.model.config import override
    from instructdiffusion.model.recipes import recipe

    run = override(recipe("align"), [f"optim.steps={amount}", f"seed={seed}"])
    return _fitted(run, data, None, out / f"tuned-{annotator}-{amount}-{seed}", console)


def _fitted(run: Run, data: Path, start: Path | None, out: Path, console: Console) -> Path:
    """Train in this process: of so many short trainings each would be slower to start than to run."""
    from instructdiffusion.components import encode
    from instructdiffusion.model.report import Silent
    from instructdiffusion.model.train import train

    with shown(console, f"train ({out.name})"):
        latents = encode.run(data, start, out / "latents", states=not run.train_text).path
        return train(run, latents, start, out / "training", Silent())


def _truths(model: Path | None, held_out: Path, out: Path, seed: int, console: Console) -> list[float]:
    """The truth of a model's own edit of each held-out triplet."""
    from instructdiffusion.components import propose
    from instructdiffusion.model.candidates import truth_scores

    with shown(console, f"edit held-out triplets ({out.name})"):
        edits = propose.run(model, held_out, out, count=1, seed=seed).path
    return [sum(found.values()) / len(found) for _, found in sorted(truth_scores(edits, held_out).items())]
