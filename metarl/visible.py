"""Text of others on a terminal, which takes some characters for commands: a run's name must not move the cursor, set
the window's title, or turn the rest of a line around."""

from __future__ import annotations

import re

# C0 without tab and line break, DEL, C1, and what changes the direction of text.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text, with its control characters as escapes that can be read, such as ``\\x1b``."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_cell(text: str) -> str:
    """:func:`visible`, with line breaks and tabs as escapes, too: no cell of a table may begin another row."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")
