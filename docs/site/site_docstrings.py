"""An extension of Griffe, which reads the sources for mkdocstrings (see mkdocs.yml): docstrings and comments of metarl
as Markdown.

* ``:func:`name``` and its like are links where the reference has the name, else code.
* All other text stands as it is written: shapes such as [N, E, T] and signs such as * are no markup.
* What a comment says of a field, behind it or above it, is its docstring; of a key of a configuration, its description.
* The names that ``import metarl`` offers when they are asked for are members of metarl.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from pathlib import Path
from typing import Any

import griffe
from site_text import escaped

import metarl

_ROLE = re.compile(r":\w+:`(~?)([\w.]+)`")
_BLOCK = re.compile(r"(?<=::)\n\n((?: {4,}.*\n|\n)+)")


class Docstrings(griffe.Extension):
    """See the module."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """The lazy names of metarl; then every docstring of it."""
        if pkg.name == "metarl":
            for name, module in metarl.API.items():
                pkg.set_member(name, griffe.Alias(name, f"metarl.api.{module}.{name}"))
            rewrite(pkg)

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **kwargs: Any) -> None:
        """What is said of a field beside it."""
        if attr.docstring is None and isinstance(node, ast.AnnAssign | ast.Assign):
            said = description(node) or comment(attr)
            attr.docstring = griffe.Docstring(said, parent=attr) if said else None


def description(node: ast.AnnAssign | ast.Assign) -> str:
    """The description of a key: ``description=`` of pydantic's ``Field``."""
    if not isinstance(node.value, ast.Call):
        return ""
    given = [keyword.value for keyword in node.value.keywords if keyword.arg == "description"]
    return "".join(str(value.value) for value in given if isinstance(value, ast.Constant))


def comment(attr: griffe.Attribute) -> str:
    """The comment behind an attribute on its last line, or those right above it."""
    path = attr.filepath
    if attr.lineno is None or attr.endlineno is None or not isinstance(path, Path):
        return ""
    lines = attr.lines_collection[path]
    behind = lines[attr.endlineno - 1].partition("  # ")[2]
    if behind:
        return "" if behind.startswith(("type:", "noqa")) else behind
    above = itertools.takewhile(lambda line: line.startswith("# "), map(str.strip, reversed(lines[: attr.lineno - 1])))
    return " ".join(line[2:] for line in reversed([*above]))


def rewrite(obj: Any) -> None:
    """Make Markdown of the docstrings of an object and of its members."""
    if obj.docstring is not None:
        obj.docstring.value = as_markdown(inspect.cleandoc(obj.docstring.value), obj)
    for member in obj.members.values():
        if not member.is_alias:
            rewrite(member)


def as_markdown(text: str, scope: Any) -> str:
    """A docstring of metarl as Markdown; names are looked up in ``scope``."""

    def block(match: re.Match[str]) -> str:
        return f"\n\n```python\n{textwrap.dedent(match[1]).strip()}\n```\n"

    fenced = _BLOCK.sub(block, text + "\n").replace("::\n\n```", ":\n\n```").rstrip("\n")
    parts = re.split(r"^(```.*?^```)$", fenced, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _prose(part, scope) for part in parts)


def _prose(text: str, scope: Any) -> str:
    found, end = [], 0
    for role in _ROLE.finditer(text):
        found += [escaped(text[end : role.start()]), reference(role[2], short=bool(role[1]), scope=scope)]
        end = role.end()
    return "".join([*found, escaped(text[end:])])


def reference(name: str, *, short: bool, scope: Any) -> str:
    """A name as code, which is a link where the reference has it."""
    first, dot, rest = name.partition(".")
    try:
        path = name if first == "metarl" else scope.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'
