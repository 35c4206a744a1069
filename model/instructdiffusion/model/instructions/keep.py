"""Which paraphrases are kept: those that hold every slot, ask by a verb of the task, and stay near in meaning.

What an instruction is near to is told by sentence embeddings; with no network for them, by the letters that texts
share, which knows spelling and no meaning: it still tells tasks apart, for each has words of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.instructions.bank import Wording, slots, written
from instructdiffusion.model.tasks import EVERY

Embed = Callable[[Sequence[str]], NDArray[np.float32]]  # texts to rows of length 1

VERBS: dict[str, str] = {
    "keypoint": "put|find|mark|draw|place|look|locate|add|show|take|point|spot|highlight|paint|insert",
    "segmentation": "paint|segment|color|cover|use|lay|highlight|give|make|draw|mask|tint|shade|mark|fill",
    "referring": "paint|tint|mark|find|put|show|shade|select|spread|color|highlight|locate|spot|place|add|insert",
    "denoise": "remove|denoise|clean|get|make|reduce|take|suppress|give|erase|delete|eliminate|turn|filter|smooth",
    "deblur": "remove|deblur|make|sharpen|bring|undo|restore|fix|give|erase|delete|take|get|eliminate|turn|recover",
    "watermark": "remove|take|erase|get|clear|give|delete|restore|make|eliminate|lift|recover|turn",
    "remove": "remove|erase|delete|take|get|make|clear|want|cut|eliminate|lift|turn",
    "add": "add|put|place|insert|draw|be|let|like|include|paint",
    "replace": "replace|turn|swap|change|exchange|put|show|make|let|use|place|add|insert|substitute",
    "recolour": "want|make|change|recolor|dye|let|be|turn|give|repaint|paint",
    "colorize": "colorize|add|bring|turn|restore|give|color|make|fill|paint|recover|put|tint|place|insert|shade|draw",
    "brighten": "brighten|make|turn|lighten|correct|bring|raise|give|increase",
    "dehaze": "remove|dehaze|clear|take|get|make|lift|restore|give|erase|delete|eliminate|turn|recover",
}
#: What stands before the verb of somebody who asks, as often as there is more of it.
_LEAD = re.compile(
    r"(?:and|then|now|just|so|please|kindly|simply|go ahead and|help me|try to"
    r"|(?:can|could|would|will) you|i(?: would|'d)? (?:want|like|need) you to)\s+"
)
#: And before `want`, `like` and `be`, which ask as what they are said of.
_SUBJECT = re.compile(r"(?:i would|i do not|i'd|i|there should|(?:the )?\{\w+\} (?:should|must))\s+")
_SAID_OF = ("want", "like", "be")
#: Verbs that mean the task with one of these words alone: to take a thing is not to take it away.
_WITH = {"take": {"away", "out", "off", "from", "mark"}, "get": {"rid", "out", "off", "away"}}
_NEGATION = re.compile(r"\b(no|not|never|without)\s+(?:(?:the|a|an|any)\s+)?(\S+)")
LETTERS, WORDS = 200, 3  # an instruction is as long at most, and its own words as many at least, or one for a slot
NEAR_LETTERS, NEAR_MEANING = 0.2, 0.5  # cosine similarity to the nearest instruction of the task, at least


@dataclass(frozen=True)
class Rejected:
    """A paraphrase that is not kept, and why: `rule` is one of a few."""

    wording: Wording
    rule: str
    told: str


def sift(
    made: Iterable[Wording], embed: Embed | None = None, near: float | None = None
) -> tuple[list[Wording], list[Rejected]]:
    """Part paraphrases into those to keep and those not.

    Args:
        embed: sentence embeddings; None: by letters.
        near: least similarity to the task's own instructions; None: what fits `embed`.
    """
    own = written(VERBS)
    seen = {(w.task, _same(w.text)) for w in own}
    kept: list[Wording] = []
    rejected: list[Rejected] = []
    candidates = []
    for wording in made:
        said = (wording.task, _same(wording.text))
        if broken := fault(wording) or (("twice", "said already") if said in seen else None):
            rejected.append(Rejected(wording, *broken))
            continue
        seen.add(said)
        candidates.append(wording)
    least = near if near is not None else NEAR_MEANING if embed else NEAR_LETTERS
    for wording, told in zip(candidates, _far(candidates, own, embed or by_letters, least), strict=True):
        if told:
            rejected.append(Rejected(wording, "meaning", told))
        else:
            kept.append(wording)
    return kept, rejected


def fault(wording: Wording) -> tuple[str, str] | None:
    """The rule that a wording breaks by itself, and how; None: it may be kept."""
    try:
        found, wanted = sorted(slots(wording.text)), sorted(slots(EVERY[wording.task].templates[0]))
    except ValueError as error:
        return "slots", str(error)
    if found != wanted:
        return "slots", f"has {', '.join(found) or 'none'} in place of {', '.join(wanted) or 'none'}"
    if len(wording.text) > LETTERS or "\n" in wording.text:
        return "length", f"{len(wording.text)} letters or several lines"
    words = re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", wording.text.lower()))
    if len(words) + len(wanted) < WORDS - 1:
        return "length", "hardly a word"
    if beyond := _negations(wording.text) - {said for own in written([wording.task]) for said in _negations(own.text)}:
        return "negation", " and ".join(sorted(beyond))
    if not any(_asks(clause, VERBS[wording.task].split("|")) for clause in _clauses(wording.text)):
        return "verb", f"none that asks for {wording.task}"
    return None


def _negations(text: str) -> set[str]:
    """What a text denies, each as `not` and the word that it is said of."""
    plain = re.sub(r"[^\w\s{}]", " ", re.sub(r"n[’']t\b", " not", text.lower()))
    return {f"{negation} {word}" for negation, word in _NEGATION.findall(plain)}


def _clauses(text: str) -> list[str]:
    plain = re.sub(r"n't\b", " not", text.lower().replace("’", "'"))
    return [clause.strip() for clause in re.split(r"[.,:;?!]|\b(?=(?:and|then) )", plain)]


def _asks(clause: str, verbs: Sequence[str]) -> bool:
    """Whether a clause begins with one of the verbs, after what is polite or says who wants it."""
    while lead := _LEAD.match(clause):
        clause = clause[lead.end() :]
    subject = _SUBJECT.match(clause)
    words = re.findall(r"[\w{}]+", clause[subject.end() :] if subject else clause)
    if not words or words[0] not in verbs or (words[0] in _SAID_OF) != bool(subject):
        return False
    return words[0] not in _WITH or bool(_WITH[words[0]] & {*words})


def _far(made: Sequence[Wording], own: Sequence[Wording], embed: Embed, least: float) -> list[str]:
    """Why a wording's meaning is another one's; empty where it is not."""
    if not made:
        return []
    rows = embed([_bare(w.text) for w in (*made, *own)])
    like = rows[: len(made)] @ rows[len(made) :].T
    told = []
    for wording, row in zip(made, like, strict=True):
        mine = max(float(s) for s, w in zip(row, own, strict=True) if w.task == wording.task)
        nearest = own[int(row.argmax())]
        if mine < least:
            told.append(f"{mine:.2f} near, below {least:g}")
        elif nearest.task != wording.task and float(row.max()) > mine + 1e-6:
            told.append(f"nearer to {nearest.task}: {nearest.text}")
        else:
            told.append("")
    return told


def by_letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """Groups of three to five letters within words, as rows of length 1."""
    from sklearn.feature_extraction.text import HashingVectorizer

    made = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=2**14, alternate_sign=False)
    return np.asarray(made.transform(texts).toarray(), np.float32)


def by_network(folder: Path | str) -> Embed:
    """Sentence embeddings of a transformer: the mean over its tokens' states.

    Args:
        folder: in transformers' layout with safetensors, or a hub id.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    from instructdiffusion.model.device import best

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModel.from_pretrained(folder, use_safetensors=True).eval().to(best())

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(best())
        with torch.inference_mode():
            states = network(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        return np.asarray(torch.nn.functional.normalize(mean, dim=1).cpu().numpy(), np.float32)

    return embed


def _bare(text: str) -> str:
    """A wording as plain words: slots by their names."""
    return re.sub(r"[{}]", "", text.lower())


def _same(text: str) -> str:
    """What two wordings share that differ in signs and capitals only."""
    return " ".join(re.findall(r"[\w{}]+", text.lower()))
