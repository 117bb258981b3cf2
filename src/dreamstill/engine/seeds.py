"""Seeds of independent random streams."""

from __future__ import annotations

import hashlib


def stream(*parts: object) -> int:
    """A seed in [0, 2^63) from anything with a ``repr``: the run's seed, and the purpose of the stream."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1
