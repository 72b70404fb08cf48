"""Command lines of several runs: ``key=a,b,c`` and ``seed=0..4`` become the settings of a grid."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from metarl.config import naming, strict_yaml
from metarl.errors import ConfigError

MOST = 1000  # settings, unless more are asked for
SEED = "seed"
OWN_KEYS = {"run_dir": "every run has a folder of its own; --out says where they are"}  # of which there is one value
_RANGE = re.compile(r"\s*(-?[\d.]*\d)\.\.(-?\d[\d.]*)\s*", re.ASCII)
_NUMBER = re.compile(r"-?\d+", re.ASCII)


@dataclass(frozen=True)
class Axis:
    """A key with several values: as they were written, and as they are read."""

    key: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Setting:
    """One point of a grid. As text it is the path of its folder: the values but for the seed, then the seed."""

    common: tuple[str, ...]  # CONFIG, or TASK and AGENT, and overrides with one value
    chosen: tuple[str, ...]  # this setting's override of every key that has several
    values: Mapping[str, Any]  # of those keys
    seed: int | None  # if the command line says it
    allow: tuple[str, ...] = ()
    more: tuple[str, ...] = ()  # overrides that the sweep adds, run_dir among them

    def __str__(self) -> str:
        others = {key: value for key, value in self.values.items() if key != SEED}
        parts = [naming.setting(others)] if others else []
        parts += [] if self.seed is None else [f"s{self.seed}"]
        return "/".join(parts) or "run"

    @property
    def words(self) -> tuple[str, ...]:
        """What the command line says of it."""
        return *self.common, *self.chosen

    def arguments(self, out: Path) -> list[str]:
        """The words for ``metarl train``, with what the sweep adds."""
        return [*(word for word in self.words if not word.startswith("run_dir=")), *self.more]


@dataclass(frozen=True)
class Grid:
    """All settings of a command line."""

    config: str
    axes: tuple[Axis, ...]  # in the order of the command line
    fixed: tuple[str, ...]  # words with one value, and AGENT
    given: Mapping[str, Any] = field(default_factory=dict)  # keys with one value

    @property
    def size(self) -> int:
        """How many settings there are."""
        return math.prod(len(axis.values) for axis in self.axes)

    def settings(self, allow: Sequence[str] = ()) -> list[Setting]:
        """The product of all values: seeds change last, so that a part of them compares all others; of the other keys
        the last one on the command line changes first."""
        outer = sorted(self.axes, key=lambda axis: axis.key != SEED)  # stable
        found = []
        for places in product(*(range(len(axis.values)) for axis in outer)):
            chosen = {axis.key: place for axis, place in zip(outer, places, strict=True)}
            words = tuple(f"{axis.key}={axis.texts[chosen[axis.key]]}" for axis in self.axes)
            values = {axis.key: axis.values[chosen[axis.key]] for axis in self.axes}
            seed = values.get(SEED, self.given.get(SEED))
            known = seed if isinstance(seed, int) else None
            found.append(Setting((self.config, *self.fixed), words, values, known, tuple(allow)))
        return found


def parse(config: str, words: Sequence[str], most: int = MOST) -> Grid:
    """The grid of a command line's words behind ``metarl sweep``.

    Args:
        config: CONFIG or TASK.
        words: overrides, and AGENT.
        most: settings.

    Raises:
        ConfigError: a key twice, an empty or repeated value, a range that goes backwards, or too many settings; all
            that could be found, one line each.
    """
    problems: strict_yaml.Problems = {}
    axes, fixed, given, seen = [], [], {}, set()
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            fixed.append(word)
            continue
        if key in seen:
            problems[key] = f"{key}: given twice on the command line; several values are {key}=A,B"
            continue
        seen.add(key)
        texts = _texts(key, text, most, problems)
        if key in problems:
            continue
        values = [strict_yaml.parse_overrides([f"{key}={one}"], problems).get(key) for one in texts]
        if len(texts) == 1:
            fixed.append(f"{key}={texts[0]}")
            given[key] = values[0]
            continue
        if key in OWN_KEYS:
            problems[key] = f"{key}={text}: expected one value: {OWN_KEYS[key]}"
        twice = [one for place, one in enumerate(texts) if values[place] in values[:place]]
        if twice and not problems:
            problems[key] = f"{key}={text}: expected different values, got {twice[0]} twice"
        axes.append(Axis(key, tuple(texts), tuple(values)))
    grid = Grid(config, tuple(axes), tuple(fixed), given)
    if not problems and grid.size > most:
        count = " × ".join(f"{len(axis.values)} of {axis.key}" for axis in axes)
        problems["size"] = f"expected at most {most} runs, got {grid.size} ({count}); --most {grid.size} allows them"
    if problems:
        raise ConfigError("\n".join(problems.values()))
    return grid


def _texts(key: str, text: str, most: int, problems: strict_yaml.Problems) -> list[str]:
    """The values of an override as texts, ranges written out; a problem is noted where there is one."""
    found: list[str] = []
    for part in split(text):
        ends = _RANGE.fullmatch(part)
        if not part.strip():
            problems[key] = f"{key}={text}: expected a value before and behind every comma; quotes hold one with commas"
            if not text.strip():
                problems[key] = f"{key}=: expected a value after '='; {key}=null unsets it"
        elif ends is None:
            found.append(part.strip())
        elif not all(map(_NUMBER.fullmatch, ends.groups())):
            problems[key] = f"{key}={part}: expected a range of whole numbers, such as 0..4; write out others"
        else:
            first, last = map(int, ends.groups())
            if first > last:
                problems[key] = f"{key}={part}: expected a range that goes up; {last}..{first} is the same"
            elif last - first >= most:
                count = last - first + 1
                problems[key] = (
                    f"{key}={part}: expected at most {most} runs, got {count} values; --most {count} allows them"
                )
            else:
                found += map(str, range(first, last + 1))
    return found


def split(text: str) -> list[str]:
    """A text at its commas, but for those inside brackets, braces and quotes.

    As in YAML, a quote opens only where a value begins, and ``''`` in single and ``\\"`` in double quotes is a letter.
    """
    parts, depth, quote = [""], 0, ""
    begins, closed, escaped = True, False, False  # a value begins here; a quote has just ended; behind a backslash
    for letter in text:
        ends = letter == quote and not escaped
        escaped = quote == '"' and letter == "\\" and not escaped
        if quote:
            quote = "" if ends else quote
        elif letter in ("'", '"') and (begins or (closed and letter == "'")):
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth = max(0, depth - 1)
        closed, begins = ends, not quote and (letter in "[{,:" or (begins and letter.isspace()))
        if letter == "," and not depth and not quote and not ends:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
