"""Seeds that hang on what something is, not on where it stands."""

from __future__ import annotations

from zlib import crc32


def seed_of(key: str, seed: int) -> int:
    """A seed for a triplet that does not depend on its place in the data set."""
    return crc32(f"{seed}/{key}".encode())
