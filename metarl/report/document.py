"""What a page consists of, whatever it is written in: :mod:`metarl.report.html`, or :mod:`metarl.report.markdown`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pages without pictures need no matplotlib
    from matplotlib.figure import Figure


class Code(str):
    """Text that is shown as code, such as a name or a command."""

    __slots__ = ()


Text = str | Sequence[str]  # plain, or parts of which some are Code


@dataclass(frozen=True)
class Heading:
    """A heading below the page's title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: Text


@dataclass(frozen=True)
class Warnings:
    """What must not be overlooked; nothing if there is nothing."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first column says what a row is about."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    about: str = ""  # a line that says what it shows


@dataclass(frozen=True)
class Commands:
    """Lines to copy."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """A figure; ``name`` is that of its file where it has one."""

    name: str
    about: str  # for those who do not see it
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Details:
    """Blocks that are folded up where that is possible."""

    title: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Warnings | Table | Commands | Picture | Details


def parts(text: Text) -> Sequence[str]:
    """The parts of a text."""
    return [text] if isinstance(text, str) else text
