"""Paraphrases by a small grammar: another verb, another frame around it. Slots are never touched.

Remove the {phrase}.  ->  Could you erase the {phrase}?
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from instructdiffusion.model.instructions.bank import Wording
from instructdiffusion.model.tasks import EVERY

#: Verbs that mean the same where an instruction begins with one of them.
ALIKE: tuple[tuple[str, ...], ...] = (
    ("remove", "erase", "delete", "take away", "get rid of", "eliminate"),
    ("add", "put", "place", "insert"),
    ("replace", "exchange", "swap"),
    ("paint", "color", "tint", "shade"),
    ("mark", "highlight"),
    ("find", "locate", "spot"),
    ("draw", "paint"),
    ("segment", "mask"),
    ("sharpen", "deblur"),
    ("brighten", "lighten"),
    ("reduce", "suppress"),
    ("restore", "recover"),
    ("recolor", "repaint"),
)
WITH = {"replace": "with", "exchange": "for", "swap": "for"}  # what stands before the new thing
ALONE = (  # verbs that have no other of the kind
    *("bring", "change", "clean", "clear", "colorize", "correct", "cover", "cut", "dehaze", "denoise", "fill", "fix"),
    *("get", "give", "include", "lay", "let", "lift", "look", "make", "point", "raise", "select", "show", "spread"),
    *("take", "turn", "undo", "use"),
)
FRAMES = (
    "Please {}.",
    "{}, please.",
    "Can you {}?",
    "Could you {}?",
    "I want you to {}.",
    "Now {}.",
    "Edit the picture: {}.",
)
LOCAL = ("In this picture, {}.", "{} and leave the rest as it is.", "{}, and nothing else.")  # not of the whole picture


def paraphrases(wording: Wording, rng: Random, count: int) -> Iterator[Wording]:
    """Some paraphrases, all different; fewer where the grammar has no more. The same `rng` state gives the same."""
    plain = wording.text.rstrip(".")
    bodies = [plain, *_verbs(plain)] if _imperative(plain) else []
    texts = [f"{body}." for body in bodies[1:]]
    frames = FRAMES if EVERY[wording.task].family == "restoration" else (*FRAMES, *LOCAL)
    texts += [_framed(frame, body) for body in bodies for frame in frames]
    for text in rng.sample(texts, min(count, len(texts))):
        yield Wording(wording.task, text, "grammar", wording.text)


def _imperative(text: str) -> bool:
    return (
        any(_begins(text, verb) for group in (*ALIKE, ALONE) for verb in group) and ". " not in text and "?" not in text
    )


def _begins(text: str, verb: str) -> bool:
    return text.lower().startswith(f"{verb} ")


def _verbs(text: str) -> list[str]:
    """The same with another verb in the first one's place."""
    found = []
    for group in ALIKE:
        for verb in (v for v in group if _begins(text, v)):
            for other in (o for o in group if o != verb):
                rest = text[len(verb) :]
                if verb in WITH:
                    rest = rest.replace(f" {WITH[verb]} ", f" {WITH[other]} ")
                found.append(other.capitalize() + rest)
    return found


def _framed(frame: str, body: str) -> str:
    starts = frame.startswith("{")
    return frame.format(body if starts else body[0].lower() + body[1:])
