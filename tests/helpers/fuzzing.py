"""Files changed at random: bytes that flip, ends that are missing, JSON with other values; all from one seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from hostile import leaves, put

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e-308, 1e308, float("nan"), float("inf")),
    *("", "x", "../../x", "/etc/passwd", "evil:Class", "os:system", "${oc.env:HOME}"),
    *("\x1b[31m", "\u202e", "\ud800", "a" * 5000),
    *([], {}, [[]], [None], {"": 1}, {"a": {"b": []}}, [0] * 500, [1e308] * 3),
]  # fmt: skip
TOKENS = [b'"', b"{", b"}", b"[", b"]", b":", b",", b"-", b"&", b"*", b"!", b"%", b"${", b"\\u", b"\0", b"\xff", b"\n"]
Change = Callable[[bytes, random.Random], bytes]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """One to four bytes are others."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] ^= rng.randint(1, 255)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))]


def grown(data: bytes, rng: random.Random) -> bytes:
    """A part comes again, or many times."""
    start = rng.randrange(len(data))
    part = data[start : start + rng.randint(1, 64)]
    return data[:start] + part * rng.choice([2, 2, 3, 1000]) + data[start:]


def without(data: bytes, rng: random.Random) -> bytes:
    """A part is missing."""
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 64) :]


def stitched(data: bytes, rng: random.Random) -> bytes:
    """What means something to a parser stands where it should not."""
    start = rng.randrange(len(data))
    return data[:start] + rng.choice(TOKENS) * rng.choice([1, 1, 2, 2000]) + data[start:]


def revalued(data: bytes, rng: random.Random) -> bytes:
    """One to three values of JSON data are others, or have another key."""
    content = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(leaves(content)) or [()])
        if not path:
            break
        if rng.random() < 0.2 and isinstance(path[-1], str):
            put(
                content,
                (*path[:-1], rng.choice(["", "x", "__class__", "\ud800", path[-1] + " "])),
                copy.deepcopy(rng.choice(VALUES)),
            )
        put(content, path, copy.deepcopy(rng.choice(VALUES)))
    return json.dumps(content).encode()


BYTES: list[Change] = [flipped, cut, grown, without, stitched]
