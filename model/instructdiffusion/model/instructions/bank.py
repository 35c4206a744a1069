"""A bank of wordings: instructions with {slots}, by task, and asking the same in another one.

Ten are written by hand for each task (the paper's way, section 3.1); others paraphrase them, by a grammar or by a
language model. `simple` wordings name the task and what it is about, as in the paper's Table 6.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from string import Formatter
from typing import Literal

from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.instructions import EMBEDDED, HAND, SIMPLE
from instructdiffusion.model.task import Ask, Label, Task
from instructdiffusion.model.tasks import EVERY

FILE = Path(__file__).with_name("embedded.jsonl")
Bank = Mapping[str, Sequence[str]]  # wordings by task


@dataclass(frozen=True)
class Wording:
    """An instruction with {slots}; `of` is what it paraphrases, `model` the one that did, where one did."""

    task: str
    text: str
    by: Literal["hand", "grammar", "model"]
    of: str = ""
    model: str = ""


def written(tasks: Iterable[str] | None = None) -> list[Wording]:
    """Those written by hand, of some tasks or of all that have any."""
    return [Wording(name, text, "hand") for name in tasks or EVERY for text in EVERY[name].templates]


def slots(text: str) -> list[str]:
    """Names of the slots of a wording, in order.

    Raises:
        ValueError: its braces don't match.
    """
    return [name for _, name, _, _ in Formatter().parse(text) if name is not None]


def simple(task: Task) -> str:
    """The task's name and its slots, and no word more."""
    return " ".join([task.name, *(f"{{{name}}}" for name in slots(task.templates[0]))])


def save(wordings: Iterable[Wording], path: Path) -> None:
    """Write a bank: a wording a line."""
    write_atomic(path, "".join(json.dumps(asdict(w), ensure_ascii=False) + "\n" for w in wordings))


def load(path: Path) -> list[Wording]:
    """Read a bank.

    Raises:
        ConfigError: there is none at this path.
        DataError: a line of it is wrong; names it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"bank {path} can't be read ({error}); give hand, simple, embedded, or a file that "
            "`data instructions` wrote"
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            wording = Wording(**json.loads(line))
            fits = sorted(slots(wording.text)) == sorted(slots(EVERY[wording.task].templates[0]))
        except (ValueError, TypeError, LookupError) as error:
            raise DataError(f"line {number} of {path} is no wording of a task ({error}); take it out") from error
        if not fits:
            raise DataError(f"line {number} of {path} has other slots than {wording.task}; take it out")
        found.append(wording)
    return found


def bank(name: str) -> Bank | None:
    """The wordings that a setting names; None: the tasks' own, as they draw them themselves.

    Raises:
        ConfigError: there is no such bank.
        DataError: it is damaged.
    """
    if name == HAND:
        return None
    if name == SIMPLE:
        return {task.name: (simple(task),) for task in EVERY.values() if task.templates}
    return _by_task(load(FILE if name == EMBEDDED else Path(name)))


def told_of(name: str) -> str:
    """What a setting of wordings says, wherever the file lies: the digest of what is in a bank, else the setting.

    Raises:
        DataError: there is no such bank.
    """
    return name if name in (HAND, SIMPLE) else digest_of(FILE if name == EMBEDDED else Path(name))


def known(task: Task) -> tuple[str, ...]:
    """Every wording by which the task is recognised."""
    if not task.templates:
        return ()
    texts = (*task.templates, simple(task), *_embedded().get(task.name, ()))
    told = (text.replace("one {new}", "a {new}") for text in texts)  # by `articled`
    return tuple(dict.fromkeys((*texts, *told)))


@cache
def _embedded() -> Bank:
    return {name: tuple(texts) for name, texts in _by_task(load(FILE)).items()}


def _by_task(wordings: Iterable[Wording]) -> Bank:
    found: dict[str, list[str]] = {}
    for wording in wordings:
        found.setdefault(wording.task, []).append(wording.text)
    return found


def reword(ask: Ask, label: Label, bank: Bank, rng: Random) -> Ask:
    """The same ask in words of the bank; one in the words of its data set, or of another task, stays as it is."""
    texts = bank.get(ask.task)
    if not texts or "instruction" in label:
        return ask
    filled = rng.choice(texts).format(**EVERY[ask.task].slots(ask, label))
    return replace(ask, instruction=articled(filled, label))


def articled(instruction: str, label: Label) -> str:
    """ "a" before a new thing as English has it."""
    from instructdiffusion.model.synthesis.regions import with_article

    new = label.get("words", {}).get("new")
    return with_article(instruction, new) if new else instruction
