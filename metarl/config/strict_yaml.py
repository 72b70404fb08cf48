"""Configuration text to plain data: YAML as OmegaConf reads it, without the parts that surprise or endanger.

Refused are anchors and aliases, tags, interpolation, duplicate keys, keys that are not text, numbers that YAML 1.1
reads in base 8 or 60, control characters, deep nesting and big files. Nothing is evaluated and nothing imported.
``None`` (as Python and parameter sweeps write it) means null.

Problems are collected, not raised, so that all can be shown together: key path → the line that explains it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarl.storage import open_plain

Problems = dict[str, str]

MAX_BYTES = 1_000_000
MAX_DEPTH = 16  # a configuration has three levels
MAX_DIGITS = 40
MAX_NODES = 10_000  # keys, values, lists and sections; each is looked at several times

_OVERRIDE = re.compile(r"(?:--)?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(.*)", re.ASCII | re.DOTALL)
_ODD_NUMBER = re.compile(r"[-+]?0[0-9_]|.*:")  # 010 is 8 and 1:30 is 90
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # for looking only; OmegaConf loads
_Node = yaml.MappingNode | yaml.SequenceNode | yaml.ScalarNode


def load(path: Path, problems: Problems) -> dict[str, Any] | None:
    """The content of a YAML file as data: :func:`read_file`, then :func:`parse`. None, with a problem, without one."""
    content = read_file(path, problems)
    return None if content is None else parse(content, str(path), problems)


def read_file(path: Path, problems: Problems) -> bytes | None:
    """The content of a file of at most ``MAX_BYTES``; None, with a problem under ``str(path)``, if there is none."""
    try:
        if not path.is_file():
            problems[str(path)] = f"{str(path)!r}: expected a YAML file, " + (
                "not a folder" if path.is_dir() else "found none"
            )
            return None
        with open_plain(path) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        problems[str(path)] = f"{str(path)!r}: cannot be read ({error})"
        return None
    if len(content) > MAX_BYTES:
        problems[str(path)] = f"{str(path)!r}: expected at most {MAX_BYTES} bytes"
        return None
    return content


def parse(content: bytes, source: str, problems: Problems) -> dict[str, Any] | None:
    """The mapping that a whole file holds; None if it cannot be had, with the reasons in ``problems``."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems[source] = f"{source}: expected UTF-8 text ({error.reason} at byte {error.start})"
        return None
    before = len(problems)
    node = _compose(text, source, problems)
    if node is None:
        if len(problems) == before:
            problems[source] = f"{source}: expected keys and sections, but the file is empty"
        return None
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else f"the single value {node.value[:40]!r}"
        problems[source] = f"{source}: expected keys and sections at the top level, got {kind}"
        return None
    _check(node, "", problems)
    try:
        # interpolations are refused above; without their mark the rest of the file can be checked as well
        return dict(_plain(OmegaConf.to_container(OmegaConf.create(text.replace("${", "$(")), resolve=False)))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        if len(problems) == before:
            problems[source] = f"{source}: {_brief(error)}"
        return None


def parse_overrides(overrides: Sequence[str], problems: Problems) -> dict[str, Any]:
    """Dotted key → value of ``key=value`` (or ``--key=value``) arguments, in order, without those with problems."""
    changes: dict[str, Any] = {}
    for override in overrides:
        match = _OVERRIDE.fullmatch(override)
        if match is None:
            problems[override] = f"{override!r}: expected key=value with a dotted key, such as agent.inner_lr=0.1"
            continue
        key, text = match.groups()
        before = len(problems)
        if key.count(".") >= MAX_DEPTH:
            problems[key] = f"{key[:60]}…: nested deeper than {MAX_DEPTH} levels"
            continue
        if key in changes:
            problems[key] = f"{key}: given twice on the command line"
            continue
        node = _compose(text, key, problems)
        if node is not None:
            _check(node, key, problems)
        elif len(problems) == before:
            problems[key] = f"{key}=: expected a value after '='; {key}=null unsets it"
        if len(problems) > before:
            continue
        try:
            changes[key] = _plain(OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False))[
                "value"
            ]
        except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
            problems[key] = f"{key}: {_brief(error)}"
    for key, value in changes.items():
        inner = [other for other in changes if other.startswith(f"{key}.")]
        if inner and not isinstance(value, dict):
            problems[key] = f"{key}: given as a value and, with {inner[0]}, as a section on the command line"
    return changes


def is_shallow(data: Any) -> bool:
    """Whether data has no more levels than a file may have."""
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        parts = (item.values() if isinstance(item, dict) else item for item in level)
        level = [inner for part in parts for inner in part if isinstance(inner, dict | list)]
        if not level:
            return True
    return False


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key → value as a tree of sections; of two values of one key the later one holds."""
    tree: dict[str, Any] = {}
    for key, value in changes.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = merged(tree, value)
    return tree


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of sections under changes to it: sections are merged, any other value takes the place of what was."""
    found = dict(tree)
    for key, value in changes.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def _compose(text: str, source: str, problems: Problems) -> _Node | None:
    """The node tree of a text; events come first, because aliases and deep nesting must not even be expanded."""
    depth = nodes = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            nodes += isinstance(event, yaml.NodeEvent)
            if nodes > MAX_NODES:
                problems[source] = f"{source}: expected at most {MAX_NODES} keys and values; give ranges, not lists"
                return None
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            refused = _refused(event, depth)
            if refused:
                problems[source] = f"{source}: {_place(event.start_mark, text)}{refused}"
                return None
        return cast("_Node | None", yaml.compose(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        hint = (
            "; indent with spaces, not tabs" if "\\t" in (error.problem or "") or "tab" in (error.problem or "") else ""
        )
        problems[source] = f"{source}: {_place(error.problem_mark, text)}not valid YAML ({error.problem}{hint})"
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        problems[source] = f"{source}: not valid YAML ({' '.join(str(error).split())})"
    return None


def _brief(error: Exception) -> str:
    """The first sentence of an error of OmegaConf's, which may go on for many lines."""
    return re.split(r"\.\s|\n", str(error).strip())[0]


def _place(mark: Any, text: str) -> str:
    """Where in a file something is; nothing for the one line of an override."""
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None and "\n" in text else ""


def _refused(event: yaml.Event, depth: int) -> str | None:
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        return "anchors and aliases (& and *) are not supported; write the values out"
    tag = getattr(event, "tag", None)
    if tag is not None:
        return f"tags ({tag}) are not supported; write plain values"
    return f"nested deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else None


def _check(node: _Node, path: str, problems: Problems) -> None:
    """Note what is wrong with a node and the nodes below it."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            inner = f"{path}.{name}" if path else name
            if key.tag != "tag:yaml.org,2002:str":
                problems[inner] = (
                    f"{inner}: line {line}: expected a key that is text; put {name} in quotes if it is meant"
                )
            elif "." in name:
                problems[inner] = (
                    f"{inner}: line {line}: dotted keys belong on the command line; in a file, nest the sections"
                )
            if name in seen:
                problems[inner] = f"{inner}: given twice, on lines {seen[name]} and {line}"
            seen[name] = line
            _check_text(name, inner, problems)
            _check(value, inner, problems)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _check(value, f"{path}[{index}]", problems)
    else:
        _check_text(node.value, path, problems)
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            if _ODD_NUMBER.match(node.value):
                problems[path] = (
                    f"{path} = {node.value}: YAML reads this in base 8 or 60; write a decimal number or quotes"
                )
            elif len(node.value) > MAX_DIGITS:
                problems[path] = f"{path} = {node.value[:10]}…: expected a number of at most {MAX_DIGITS} digits"


def _check_text(text: str, path: str, problems: Problems) -> None:
    if "${" in text:
        problems[path] = f"{path}: {text[:60]!r}: interpolation is not supported; write the value itself"
    elif text == "???":
        problems[path] = f"{path} = ???: expected a value"
    elif _CONTROL.search(text):
        problems[path] = f"{path}: {text[:60]!r}: expected text without control characters or line breaks"


def _plain(value: Any) -> Any:
    """The same data with ``None``, as Python writes it, for null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if value == "None" else value
