"""Seeds of random streams that have nothing to do with each other."""

from __future__ import annotations

import hashlib


def stream(*parts: object) -> int:
    """A seed in [0, 2^63) from anything with a ``repr``: the run's seed, and what the stream is for."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1
