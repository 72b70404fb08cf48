"""Text that was written for a terminal, as Markdown."""

from __future__ import annotations

import re

_CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", flags=re.DOTALL)


def escaped(text: str) -> str:
    """Text in which nothing is markup but what stands in backticks."""
    found, end = [], 0
    for code in _CODE.finditer(text):
        found += [_plain(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*found, _plain(text[end:])])


def _plain(text: str) -> str:
    """A ``_`` inside a word is none, and names of parameters stay as they are."""
    return re.sub(r"([\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text).replace("<", "&lt;")
