"""What names in a module's source stand for."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import MappingProxyType


def qualified(node: ast.expr, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """``a.b.c`` of a name or an attribute of one, whose first part may be another name's; empty for anything else."""
    if isinstance(node, ast.Attribute):
        base = qualified(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def imported_as(module: ast.Module) -> dict[str, str]:
    """The full name of everything that a module imports under another one: ``np`` is numpy."""
    found = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found
