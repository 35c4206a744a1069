"""Words that stay true in a mirror: left for right and right for left, or no mirror at all.

The original mirrors half of its editing pictures and leaves their instructions as they are, which teaches the model
that left is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from instructdiffusion.model.task import Label

_SIDES = {"left": "right", "right": "left"}
_SIDE = re.compile(r"\b(left|right)(?=(?:most|hand|ward|wards|side|s|ie|y|ies)?\b)", re.IGNORECASE)
#: Where "left" or "right" names no side, or may not.
_NO_SIDE = re.compile(
    r"\b(?:left(?:overs?|[ -](?:over|alone|out|behind|unattended|untouched|empty|open|blank))"
    r"|(?:was|were|is|are|has|have|had|been|be|being|nothing|anything|one|only|just|who|that|he|she|they|it)[ -]left"
    r"|left (?:it|them|him|her|his|their|its)"
    r"|right (?:now|away|there|here|behind|above|below|beneath|under|over|beside|next|in|on|at|by|before|after|angles?"
    r"|where|through|across|into|down|up|as|out|colou?rs?|size|way|thing|one|amount|tone)|rights|(?:all|just|is|that's|looks?"
    r"|be|make it|human|copy|civil)[ -]right|make (?:it|this|that) right|righty?[ -]o|lefties)\b",
    re.IGNORECASE,
)
#: What a mirror falsifies without either word: writing, numbers that are read, turns of the clock, points of the
#: compass, and sides that are cut short or misspelt.
_WRITING = re.compile(
    r"\b(?:clockwise|anti-?clockwise|counter-?clockwise|o'?clock|texts?|words?|letters?|lettering|written|writing|writes?"
    r"|reads?|reading|says?|saying|spells?|spelling|labell?ed|titled?|caption(?:ed)?|logos?|slogan|numbers?|numeral|digits?"
    r"|numbered|jersey|licen[cs]e plate|east(?:ern)?|west(?:ern)?|flip|flipped|mirror(?:ed)? image|starboard)\b"
    r"|[\"“”«»]|#\s?\d|\b(?:l|r|lt|rt|lft|rght|rigth|rihgt)\b",
    re.IGNORECASE,
)


def mirrored_text(text: str) -> str | None:
    """A text as it is true in a mirror: left for right and right for left; None when that can't be told.

    Not done where the words may name no side ("right behind", "what is left") or where writing, numbers or turns would
    come out wrong.
    """
    if _WRITING.search(text) or (_SIDE.search(text) and _NO_SIDE.search(text)):
        return None
    return _SIDE.sub(lambda found: _cased(_SIDES[found[1].lower()], found[1]), text)


def _cased(word: str, like: str) -> str:
    return word.upper() if like.isupper() else word.capitalize() if like[0].isupper() else word


def mirrored_words(label: Label) -> dict[str, Any] | None:
    """The texts of a label as they are true in a mirror, by name; None when one of them can't be."""
    found = {}
    for name, value in label.items():
        if isinstance(value, str | tuple | list) or (isinstance(value, Mapping) and name not in ("joints", "visible")):
            try:
                found[name] = _mirrored(value)
            except _NotMirrored:
                return None
    return found


class _NotMirrored(Exception):
    """A text that a mirror would make untrue."""


def _mirrored(value: Any) -> Any:
    if isinstance(value, str):
        text = mirrored_text(value)
        if text is None:
            raise _NotMirrored
        return text
    if isinstance(value, Mapping):
        return {key: _mirrored(part) for key, part in value.items()}
    return type(value)(_mirrored(part) for part in value) if isinstance(value, tuple | list) else value
