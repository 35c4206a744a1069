"""Edits of objects (table 5 of the paper, left half) and MagicBrush's test, one turn at a time and in turns.

The paper's 1000 samples were never released. Any folder with a `samples.jsonl` is read instead, a line a sample:

    {"key": "1", "source": "1.png", "instruction": "Remove the dog.", "kind": "remove", "caption": "a meadow",
     "source_caption": "a dog in a meadow", "target": "1-target.png", "mask": "1-mask.png"}

of which `key`, `source` and `instruction` are needed; what is measured depends on the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from instructdiffusion.model.benchmark import (
    Benchmark,
    Case,
    Measure,
    Order,
    Row,
    Sample,
    Tools,
    each,
    held_out,
    scenes,
    studio,
)
from instructdiffusion.model.data.pictures import load
from instructdiffusion.model.data.readers import EDIT, Example
from instructdiffusion.model.data.readers.people import within
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.metrics import Spec
from instructdiffusion.model.metrics import likeness as like
from instructdiffusion.model.metrics.pixels import BACKGROUND, L1, L2, TOLERANCE, background, changed, l1, l2
from instructdiffusion.model.metrics.pixels import like as at_size
from instructdiffusion.model.metrics.value import mean
from instructdiffusion.model.synthesis.scenes import phrase
from instructdiffusion.model.task import Ask, Image, Label
from instructdiffusion.model.tasks import TASKS, understand

SAMPLES = "samples.jsonl"
CAPTIONS = "local_descriptions.json"  # of MagicBrush: what each target shows where it was edited
KINDS = ("replace", "remove", "add", "recolour")
_UNCHANGED = BACKGROUND.model_copy(
    update={"parameters": (*BACKGROUND.parameters, ("changes", f"what the truth changes by more than {TOLERANCE}"))}
)
NO_CLIP = "no CLIP was named; give --clip"


def ask_of(instruction: str) -> Ask:
    """An instruction in anyone's words as an ask: of the task that it is recognised as, or of a plain edit."""
    heard = understand(instruction)
    return heard if heard and heard.task in KINDS else Ask(EDIT, instruction)


class Objects(Benchmark):
    """Objects removed, added, replaced or recoloured."""

    name = "editing"
    about = "edits of objects by CLIP-Sim, direction, aesthetics, background PSNR (table 5): any folder of samples"

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        for number, (key, line) in enumerate(listed(data)):
            if order.samples and number >= order.samples:
                return
            yield Case(key, partial(_sample, data, key, line))

    def composed(self, order: Order) -> Iterator[Case]:
        for key, make in scenes(order, KINDS, self.count):
            yield Case(key, partial(_composed, key, make))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        output, label, row = outputs[-1], sample.label, dict[str, Any]()
        if "mask" in label:
            row["background"] = background(output, sample.source, np.asarray(label["mask"]))
        if tools.clip is None:
            return row
        source, made = tools.clip.pictures([sample.source]) + tools.clip.pictures([output])
        if tools.aesthetic:
            row["aesthetic"] = like.aesthetic(made, tools.aesthetic)
        if caption := label.get("caption"):
            said = tools.clip.words([caption])[0]
            row["clip_sim"] = 100 * like.cosine(made, said)
            if before := label.get("source_caption"):
                row["direction"] = like.direction(source, made, tools.clip.words([before])[0], said)
        return row

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        clip = tools.clip
        scorer = "" if tools.aesthetic else "no aesthetic predictor was named; give --aesthetic"
        seen = like.AESTHETIC.model_copy(update={"parameters": (("layers", tools.aesthetic_name),)})
        return (
            Measure(clip.spec(like.CLIP_SIM) if clip else like.CLIP_SIM, each("clip_sim"), mean, missing_clip(tools)),
            Measure(
                clip.spec(like.DIRECTION) if clip else like.DIRECTION, each("direction"), mean, missing_clip(tools)
            ),
            Measure(
                clip.spec(seen) if clip else like.AESTHETIC, each("aesthetic"), mean, missing_clip(tools) or scorer
            ),
            Measure(BACKGROUND, each("background"), mean),
        )


class MagicBrush(Benchmark):
    """MagicBrush's test by its own recipe: each turn from the true picture before it.

    Beside it the background, which is where the truth leaves the source alone; its masks are not read.
    """

    name = "magicbrush"
    about = "every turn of MagicBrush from the true picture by its own recipe: L1, L2, CLIP-I, DINO, CLIP-T; background"
    tasks = (EDIT,)
    in_turns = False

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        captions = _captions(data)
        sessions = groupby(held_out(order, data, self.tasks), key=lambda example: example.picture)
        for number, (picture, turns) in enumerate(sessions):
            if order.samples and number >= order.samples:
                return
            yield from self._session(picture, list(turns), captions)

    def _session(self, picture: str, turns: list[Example], captions: Mapping[str, str]) -> Iterator[Case]:
        for chain in [turns] if self.in_turns else [[turn] for turn in turns]:
            key = chain[-1].key
            yield Case(key, partial(_session, key, picture, chain, captions))

    def composed(self, order: Order) -> Iterator[Case]:
        for number in range(order.samples or self.count):
            key = f"{order.seed}-benchmark-turns-{number}"
            for last in (1,) if self.in_turns else (0, 1):
                name = f"{key}-{last + 1}"
                yield Case(name, partial(_turns, name, key, order.size, last, self.in_turns))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        target = sample.targets[-1]
        assert target is not None
        output = at_size(outputs[-1], target)
        before = at_size(sample.source, target)
        row: Row = {
            "l1": l1(output, target),
            "l2": l2(output, target),
            "background": background(output, before, changed(target, before)),
        }
        if tools.clip is not None:
            made, wanted = tools.clip.pictures([outputs[-1]]) + tools.clip.pictures([target])
            row["clip_i"] = like.cosine(made, wanted)
            if caption := sample.label["captions"][-1]:
                row["clip_t"] = like.cosine(made, tools.clip.words([caption])[0])
        if tools.dino is not None:
            row["dino"] = like.cosine(*tools.dino.pictures([outputs[-1]]), *tools.dino.pictures([target]))
        return row

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        clip, dino = tools.clip, tools.dino
        no_dino = "" if dino else "no DINO was named; give --dino"
        return (
            Measure(self._spec(L1), each("l1"), mean),
            Measure(self._spec(L2), each("l2"), mean),
            Measure(self._spec(_UNCHANGED), each("background"), mean),
            Measure(
                self._spec(clip.spec(like.CLIP_I) if clip else like.CLIP_I), each("clip_i"), mean, missing_clip(tools)
            ),
            Measure(self._spec(dino.spec(like.DINO) if dino else like.DINO), each("dino"), mean, no_dino),
            Measure(
                self._spec(clip.spec(like.CLIP_T) if clip else like.CLIP_T), each("clip_t"), mean, missing_clip(tools)
            ),
        )

    def _spec(self, spec: Spec) -> Spec:
        turns = "last, each from the output before" if self.in_turns else "all, each from the truth before"
        return spec.model_copy(update={"parameters": (*spec.parameters, ("turns", turns))})


class MagicBrushInTurns(MagicBrush):
    """The same in turns: each edits what the model made of the turn before, and the last one counts."""

    name = "magicbrush-turns"
    about = "the last turn of MagicBrush's sessions, each turn from the model's own picture"
    in_turns = True


def _turns(name: str, key: str, size: int, last: int, in_turns: bool) -> Sample:
    """A session of two turns: a thing is recoloured, then removed; the turns up to the last one, or that one alone."""
    rng = Random(key)
    scene = studio(size).scene(rng)
    color = studio(size).other_colors(scene.things[0], rng)
    after = scene.put(0, studio(size).repainted(scene.things[0], color))
    pictures = [scene.render(), after.render(), after.without(0).render()]
    said = [
        ("recolour", {"phrase": phrase(scene, 0, rng, ("name",)), "color": color}),
        ("remove", {"phrase": phrase(after, 0, rng, ("name",))}),
    ]
    asks = [TASKS[kind].ask({"target": None, "mask": None, "words": words}, rng) for kind, words in said]
    captions = [f"a {color} {scene.things[0].kind}", ""]
    at = slice(0 if in_turns else last, last + 1)
    targets = tuple(pictures[1:][at])
    return Sample(name, pictures[at.start], tuple(asks[at]), targets, {"captions": captions[at]}, key)


def missing_clip(tools: Tools) -> str:
    """Why CLIP's metrics can't be had, if they can't."""
    return "" if tools.clip else NO_CLIP


def listed(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a folder's `samples.jsonl`, by key.

    Raises:
        DataError: the file is missing, or a line is none of ours; names it.
    """
    path = data / SAMPLES
    if not path.is_file():
        raise DataError(f"{path} is missing; docs/evaluating.md shows what it holds")
    with path.open(encoding="utf-8") as lines:
        for number, text in enumerate(filter(str.strip, lines), 1):
            try:
                line = json.loads(text)
                wanted = [str(line[name]) for name in ("key", "source", "instruction")]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path} line {number} lacks key, source or instruction ({error}); mend it") from None
            yield wanted[0], line


def _sample(data: Path, key: str, line: Mapping[str, Any]) -> Sample:
    pictures = {name: picture_of(data, line[name]) for name in ("source", "target", "mask") if line.get(name)}
    label = {name: line[name] for name in ("caption", "source_caption") if line.get(name)}
    if "mask" in pictures:
        label["mask"] = pictures["mask"][..., 0] > 127
    ask = ask_of(str(line["instruction"]))
    return Sample(key, pictures["source"], (ask,), (pictures.get("target"),), label, key, str(line.get("kind", "")))


def picture_of(data: Path, name: Any) -> Image:
    """A picture that a line names, from below the folder.

    Raises:
        DataError: it is missing or broken, or lies elsewhere; names it.
    """
    path = within(data, str(name))
    if path is None:
        raise DataError(f"{data / SAMPLES}: {name!r} leads out of its folder; name a file below it")
    return load(path)


def _composed(key: str, make: Callable[[], Triplet]) -> Sample:
    triplet = make()
    label: Label = {"mask": triplet.label["mask"], **_captioned(triplet)}
    return Sample(key, triplet.source, (triplet.ask,), (triplet.target,), label, key, triplet.ask.task)


def _captioned(triplet: Triplet) -> dict[str, str]:
    """What a composed picture shows where it is edited, after and before; nothing is left where a thing was removed."""
    before = "" if triplet.ask.task == "add" else f"a {triplet.label['color']} {triplet.label['kind']}"
    found = {"caption": _caption(triplet), "source_caption": before}
    return {name: text for name, text in found.items() if text}


def _caption(triplet: Triplet) -> str:
    words = triplet.label["words"]
    after = {"add": words.get("new"), "replace": words.get("new")}
    after["recolour"] = f"{words.get('color')} {triplet.label['kind']}"
    return f"a {after[triplet.ask.task]}" if triplet.ask.task in after else ""


def _captions(data: Path) -> dict[str, str]:
    """MagicBrush's local captions by the name of the target; empty where they are not there."""
    path = next((p for p in (data / CAPTIONS, data / "test" / CAPTIONS) if p.is_file()), None)
    if path is None:
        return {}
    try:
        return {
            Path(name).stem: str(text)
            for turns in json.loads(path.read_text()).values()
            for name, text in turns.items()
        }
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} holds no captions by picture ({error}); download it again") from error


def _session(key: str, picture: str, turns: Sequence[Example], captions: Mapping[str, str]) -> Sample:
    loaded = [turn.loaded() for turn in turns]
    asks = tuple(ask_of(turn.instructions[0]) for turn in turns)
    found = [captions.get(turn.key.removeprefix("test-"), "") for turn in turns]
    return Sample(key, loaded[0][0], asks, tuple(target for _, target, _ in loaded), {"captions": found}, picture)


BENCHMARKS = (Objects(), MagicBrush(), MagicBrushInTurns())
