"""Triplets that were kept before, exactly or nearly. Of each that was kept, some forty bytes are remembered."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

from pydantic import Field

from instructdiffusion.model.data.looks import Pairs, look, plain
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.quality import Options, Score, Values

Hashes = tuple[int, int]  # of source and target


class Repeated(Score):
    """The same source with the same instruction, to the byte."""

    name = "repeated"
    about = "1 where a triplet with the same source and instruction was kept before, else 0"
    remembers = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.seen: set[bytes] = set()

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return [float(_digest(t) in self.seen) for t in triplets]

    def kept(self, triplet: Triplet) -> None:
        self.seen.add(_digest(triplet))


class NearOptions(Options):
    """What counts as asking for the same."""

    words: bool = Field(True, description="compare only triplets with the same instruction, letters and digits apart")


class Nearest(Score):
    """Nearly the same source and target, as after another JPEG compression or a resize."""

    name = "nearest"
    about = (
        "bits, of 128, that differ in the perceptual hashes of source and target from the nearest that was kept; none "
        "where both are plain"
    )
    remembers = True
    Options = NearOptions

    def __init__(self, options: NearOptions) -> None:
        super().__init__(options)
        self.seen: defaultdict[bytes, Pairs] = defaultdict(Pairs)
        self.last: tuple[Triplet | None, Hashes] = (None, (0, 0))

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return [self._nearest(triplet) for triplet in triplets]

    def kept(self, triplet: Triplet) -> None:
        self.seen[self._group(triplet)].add(self._hashes(triplet))

    def _nearest(self, triplet: Triplet) -> float | None:
        hashes = self._hashes(triplet)
        return None if all(map(plain, hashes)) else float(self.seen[self._group(triplet)].nearest(hashes))

    def _hashes(self, triplet: Triplet) -> Hashes:
        """Asked for twice in a row: to score, and to remember."""
        if self.last[0] is not triplet:
            self.last = triplet, (look(triplet.source), look(triplet.target))
        return self.last[1]

    def _group(self, triplet: Triplet) -> bytes:
        words = re.sub(r"\W+", " ", triplet.ask.instruction.casefold()).strip() if self.options.words else ""
        return hashlib.blake2b(words.encode(), digest_size=8).digest()


def _digest(triplet: Triplet) -> bytes:
    return hashlib.sha256(triplet.source.tobytes() + triplet.ask.instruction.encode()).digest()


SCORES = (Repeated, Nearest)
