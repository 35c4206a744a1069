"""Editing objects: remove, add, replace and recolour (section 4.5 of the paper, and its object-level data of 3.2).

The target is rendered from the same scene without the object, with another, or with the object in another colour: it is
exact, where inpainting would guess. New objects are drawn at rest, so that an instruction has one answer.
"""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

import cv2
import numpy as np

from instructdiffusion.model.colors import OBJECTS, nearest
from instructdiffusion.model.synthesis.scenes import PLACES, Scene, Studio, phrase, truth
from instructdiffusion.model.task import Ask, Image, Label, Mask, Metric, Task, psnr
from instructdiffusion.model.tasks.segmentation import region_found

NEW_SIZE = 0.42  # longer side of an added object, as a share of the picture's
CHANGE = 60.0  # summed difference over RGB from which a pixel counts as changed


def changed(output: Image, source: Image) -> Mask:
    """Pixels that an edit changed, single ones left out."""
    difference = np.abs(output.astype(np.float32) - source.astype(np.float32)).sum(-1)
    return np.asarray(cv2.blur(difference, (3, 3)) > CHANGE)


class Editing(Task):
    """Label: the `target` picture, the `mask` of all pixels that may change, and the words of the instruction."""

    family = "editing"
    needs: ClassVar[tuple[str, ...]] = ("target", "mask", "words")
    also = (Metric("background", "dB of PSNR of what should stay as it was", 30.0),)

    def ask(self, label: Label, rng: Random) -> Ask:
        self.check(label)
        words = label["words"]
        return Ask(self.name, rng.choice(self.templates).format(**words), tuple(sorted(words.items())))

    def slots(self, ask: Ask, label: Label) -> dict[str, str]:
        return dict(ask.marks)

    def paint(self, source: Image, label: Label, ask: Ask) -> Image:
        return np.asarray(label["target"]).copy()

    def read(self, output: Image, source: Image, ask: Ask) -> dict[str, Any]:
        return region_found(changed(output, source))

    def score(self, output: Image, source: Image, label: Label, ask: Ask) -> dict[str, float]:
        mask = np.asarray(label["mask"])
        scores = {"gain": psnr(output, label["target"], mask) - psnr(source, label["target"], mask)}
        return scores | {"background": psnr(output, source, ~_grown(mask))}

    def heard(self, instruction: str, slots: dict[str, str]) -> Ask | None:
        return Ask(self.name, instruction, tuple(sorted(slots.items())))


class Remove(Editing):
    """The object goes, what was behind it comes."""

    name = "remove"
    weight = 11.0
    metric = Metric("gain", "dB of PSNR inside the mask over doing nothing", 9.0)
    templates = (
        "Remove the {phrase}.",
        "Erase the {phrase}.",
        "Delete the {phrase} from the picture.",
        "Take away the {phrase}.",
        "Get rid of the {phrase}.",
        "Make the {phrase} disappear.",
        "Take the {phrase} out of the photo.",
        "Clear away the {phrase} and fill in what is behind it.",
        "I do not want the {phrase} here.",
        "Cut out the {phrase} and restore the background.",
    )

    def stage(self, studio: Studio, rng: Random) -> tuple[Image, Label]:
        scene = studio.scene(rng)
        target = scene.without(0).render()
        mask = np.any(scene.render() != target, axis=-1)
        return scene.render(), truth(scene, 0, target=target, mask=mask, words={"phrase": phrase(scene, 0, rng)})


class Add(Editing):
    """A new object at a named place."""

    name = "add"
    weight = 12.0
    metric = Metric("right", "share with the right colour at the right place", 0.70)
    templates = (
        "Add a {new} {place}.",
        "Put a {new} {place}.",
        "Place a {new} {place}.",
        "Insert a {new} {place}.",
        "Draw a {new} {place}.",
        "There should be a {new} {place}.",
        "Let a {new} appear {place}.",
        "I would like a {new} {place}.",
        "Add one {new} {place} of the picture.",
        "Include a {new} {place}.",
    )

    def stage(self, studio: Studio, rng: Random) -> tuple[Image, Label]:
        place = rng.choice(sorted(PLACES))
        new = studio.thing_at(*studio.pair(rng), _jittered(place, studio.size, rng), round(NEW_SIZE * studio.size))
        scene = studio.scene(rng, most=2, first=new)
        source = scene.without(0).render()
        back = Scene(scene.background, (*scene.things[1:], new))  # the new object is in front
        target = back.render()
        mask = np.any(source != target, axis=-1)
        words = {"new": f"{new.color} {new.kind}", "place": place}
        return source, truth(back, len(back.things) - 1, target=target, mask=mask, words=words)

    def score(self, output: Image, source: Image, label: Label, ask: Ask) -> dict[str, float]:
        scores = super().score(output, source, label, ask)
        found = changed(output, source)
        right_place = right_color = False
        if 0.01 < found.mean() < 0.5:
            ys, xs = np.nonzero(found)
            wanted_y, wanted_x = (float(c.mean()) for c in np.nonzero(label["mask"]))
            right_place = np.hypot(xs.mean() - wanted_x, ys.mean() - wanted_y) < 0.15 * source.shape[0]
            right_color = _color_of(output, found & np.asarray(label["mask"])) == label["color"]
        return scores | {
            "right": float(right_place and right_color),
            "right_place": float(right_place),
            "right_color": float(right_color),
        }


class Replace(Editing):
    """One object gives way to another of the same size at the same place."""

    name = "replace"
    weight = 10.0
    metric = Metric("gain", "dB of PSNR where either object is, over doing nothing", 3.0)
    templates = (
        "Replace the {phrase} with a {new}.",
        "Turn the {phrase} into a {new}.",
        "Swap the {phrase} for a {new}.",
        "Change the {phrase} to a {new}.",
        "Exchange the {phrase} for a {new}.",
        "Put a {new} where the {phrase} is.",
        "Instead of the {phrase}, show a {new}.",
        "Make the {phrase} become a {new}.",
        "Let a {new} take the place of the {phrase}.",
        "Use a {new} in place of the {phrase}.",
    )

    def stage(self, studio: Studio, rng: Random) -> tuple[Image, Label]:
        scene = studio.scene(rng)
        old = scene.things[0]
        taken = {t.kind for t in scene.things}
        kind, color = studio.pair(rng)
        while kind in taken:
            kind, color = studio.pair(rng)
        new = studio.thing_at(kind, color, old.centre, old.size, mirror=False)
        after = scene.put(0, new)
        target, source = after.render(), scene.render()
        mask = np.any(source != target, axis=-1)
        words = {"phrase": phrase(scene, 0, rng, ("name", "kind", "position")), "new": f"{color} {kind}"}
        return source, truth(scene, 0, target=target, mask=mask, words=words, new_color=color) | {
            "held_out": old.held_out or new.held_out
        }


class Recolour(Editing):
    """The object keeps its shape and takes another colour."""

    name = "recolour"
    weight = 10.0
    metric = Metric("right", "share with the right colour", 0.85)
    templates = (
        "Make the {phrase} {color}.",
        "Change the color of the {phrase} to {color}.",
        "Recolor the {phrase} {color}.",
        "Dye the {phrase} {color}.",
        "Let the {phrase} be {color}.",
        "The {phrase} should be {color}.",
        "Turn the color of the {phrase} to {color}.",
        "Give the {phrase} a {color} color.",
        "I want the {phrase} to be {color}.",
        "Repaint the {phrase} as {color}.",
    )

    def stage(self, studio: Studio, rng: Random) -> tuple[Image, Label]:
        scene = studio.scene(rng)
        old = scene.things[0]
        color = studio.other_colors(old, rng)
        new = studio.repainted(old, color)
        target, source = scene.put(0, new).render(), scene.render()
        mask = np.any(source != target, axis=-1)
        words = {"phrase": phrase(scene, 0, rng, ("name", "kind", "position")), "color": color}
        return source, truth(scene, 0, target=target, mask=mask, words=words) | {
            "held_out": old.held_out or new.held_out
        }

    def score(self, output: Image, source: Image, label: Label, ask: Ask) -> dict[str, float]:
        scores = super().score(output, source, label, ask)
        same = _color_of(output, np.asarray(label["mask"])) == label["words"]["color"]
        return scores | {"right": float(same)}

    def heard(self, instruction: str, slots: dict[str, str]) -> Ask | None:
        return super().heard(instruction, slots) if slots["color"] in OBJECTS else None


def _color_of(picture: Image, where: Mask) -> str:
    """The object colour nearest to what most of a region shows; empty for an empty region."""
    return nearest(np.median(picture[where], axis=0).astype(float), OBJECTS) if where.any() else ""


def _jittered(place: str, size: int, rng: Random) -> tuple[float, float]:
    x, y = PLACES[place]
    return (x + rng.uniform(-0.04, 0.04)) * size, (y + rng.uniform(-0.04, 0.04)) * size


def _grown(mask: Mask, reach: int = 5) -> Mask:
    """The mask and the pixels around it, which an edit may touch."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0)


TASKS = (Remove(), Add(), Replace(), Recolour())
