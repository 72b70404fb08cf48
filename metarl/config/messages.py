"""Configuration models in words, for error messages and ``--help``: read off the JSON schemas that pydantic makes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from metarl.config.schema import Lineage
from metarl.errors import nearest

Schema = dict[str, Any]
Path = tuple[str | int, ...]

MOST_OF_A_KEY = 200  # characters that are shown
MOST_PROBLEMS = 100  # that are told of at a time
_TYPES = {"integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false", "null": "null"}
_LIMITS = {
    "exclusiveMinimum": "> {}",
    "minimum": ">= {}",
    "exclusiveMaximum": "< {}",
    "maximum": "<= {}",
    "pattern": "matching {}",
    "minItems": "at least {} long",
}


def explain(error: ValidationError, model: type[BaseModel], data: Mapping[str, Any]) -> dict[Path, str]:
    """One line per wrong key: its path, its value, what is allowed, and the nearest valid key for an unknown one."""
    schema = model.model_json_schema()
    lines: dict[Path, str] = {}
    for detail in error.errors(include_url=False)[:MOST_PROBLEMS]:
        path, expected = _locate(detail["loc"], schema)
        lines.setdefault(path, _line(detail, path, expected, schema, data))
    return lines


def dotted(path: Sequence[str | int]) -> str:
    """A key path as it is written on the command line, e.g. ``agent.hidden_sizes[1]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def show(value: Any) -> str:
    """A value as it would be written in YAML, cut after 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


class Key(NamedTuple):
    """A key of a configuration in words: its path with dots, its value, its meaning (or ""), and what is allowed."""

    name: str
    value: str
    meaning: str
    allowed: str


def keys(model: type[BaseModel], values: Mapping[str, Any] | None = None) -> Iterator[Key]:
    """Every key with its value, or its default if no ``values`` are given; sections themselves are left out."""
    schema = model.model_json_schema()
    for path, key in _keys(schema, schema):
        if "properties" in key:
            continue
        if values is not None:
            value = show(_value(path, values))
        else:
            value = show(key["default"]) if "default" in key else "(required)" if key["required"] else "(computed)"
        yield Key(dotted(path), value, key.get("description", ""), _allowed(key, schema))


def describe_keys(model: type[BaseModel], values: Mapping[str, Any] | None = None) -> str:
    """Two lines per key: its value (its default if no ``values`` are given), then its meaning and allowed values."""
    lines = []
    for name, value, meaning, allowed in keys(model, values):
        lines += [f"{name} = {value}", f"    {meaning}{' ' if meaning else ''}[{allowed}]"]
    return "\n".join(lines)


def describe_lineage(heading: str, lineage: Lineage) -> str:
    """Where its values come from, what they are, and what cannot be reproduced."""
    pins = ", ".join(f"{key} = {show(value)}" for key, value in lineage.pins.items())
    lines = [heading, f"    {lineage.why}", f"    pins: {pins}"]
    return "\n".join([*lines, *([f"    differs: {lineage.differs}"] if lineage.differs else [])])


def _line(detail: ErrorDetails, path: Path, expected: Schema, root: Schema, data: Mapping[str, Any]) -> str:
    key = dotted(path)
    key = key if len(key) <= MOST_OF_A_KEY else f"{key[:MOST_OF_A_KEY]}…"
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key} = {show(detail['input'])}: {_suggestion(path, root)}"
    if detail["type"] == "missing":
        description = f" ({expected['description']})" if "description" in expected else ""
        return f"missing key {key}: expected {_allowed(expected, root)}{description}"
    value = _value(path, data)
    if detail["type"] in ("value_error", "assertion_error"):
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return f"{key}: {message}" if "properties" in expected else f"{key} = {show(value)}: {message}"
    line = f"{key} = {show(value)}: expected {_allowed(expected, root)}"
    if detail["type"] == "finite_number":
        return f"{line}, finite"
    if isinstance(value, bool):
        return f"{line} (without quotes YAML reads yes, no, on and off as true and false)"
    return line


def _suggestion(path: Path, root: Schema) -> str:
    keys = [key for key, _ in _keys(root, root)]
    siblings = [key for key in keys if key[:-1] == path[:-1]]
    same_name = [dotted(key) for key in keys if key[-1] == path[-1]]
    same_name = same_name or [dotted(key) for key in keys if str(key[-1]).endswith(f"_{path[-1]}")]  # lr of inner_lr
    if same_name:
        guess = f"did you mean {' or '.join(same_name)}? "
    else:
        guess = nearest(str(path[-1]), {str(key[-1]): dotted(key) for key in siblings})
        guess = guess or nearest(str(path[-1]), {str(key[-1]): dotted(key) for key in keys})
    return f"{guess}valid keys here: {', '.join(dotted(key) for key in siblings)}"


def _keys(schema: Schema, root: Schema, prefix: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Every key below a section, sections included, with its schema, in which ``required`` is about the key itself."""
    for name, key in schema["properties"].items():
        key = _resolve(key, root)
        yield (*prefix, name), {**key, "required": name in schema.get("required", ())}
        if "properties" in key:
            yield from _keys(key, root, (*prefix, name))


def _locate(location: Sequence[str | int], root: Schema) -> tuple[Path, Schema]:
    """The part of a location that names keys and list positions (the rest names union members), and its schema."""
    path: Path = ()
    schema = root
    for part in location:
        if "properties" in schema:
            inner = schema["properties"].get(part, {})
        elif schema.get("type") == "array" and isinstance(part, int):
            members = schema.get("prefixItems", [])
            inner = members[part] if part < len(members) else schema.get("items", {})
        elif isinstance(schema.get("additionalProperties"), dict):
            inner = schema["additionalProperties"]
        else:
            break
        path, schema = (*path, part), _resolve(inner, root)
    return path, schema


def _resolve(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        rest = {word: value for word, value in schema.items() if word != "$ref"}
        schema = {**root["$defs"][schema["$ref"].rpartition("/")[2]], **rest}
    return schema


def _allowed(schema: Schema, root: Schema) -> str:
    """What a value may be, in words."""
    schema = _resolve(schema, root)
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(_allowed(option, root) for option in schema.get("anyOf") or schema["oneOf"])
    if "const" in schema:
        return show(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(show(choice) for choice in schema["enum"])
    if "properties" in schema:
        return "a section with keys " + ", ".join(schema["properties"])
    if "prefixItems" in schema:
        return "a list of " + ", ".join(_allowed(item, root) for item in schema["prefixItems"])
    if schema.get("minLength") == 1:
        what = "text that is not empty"
    elif schema.get("type") == "array":
        what = f"a list, each {_allowed(schema['items'], root)}" if schema.get("items") else "a list"
    else:
        what = _TYPES.get(schema.get("type", ""), "a section" if schema.get("type") == "object" else "a value")
    limits = [text.format(schema[word]) for word, text in _LIMITS.items() if word in schema]
    return " ".join([what, *(limits[:1]), *(f"and {limit}" for limit in limits[1:])])


def _value(path: Sequence[str | int], data: Any) -> Any:
    """The value at a path; None where there is none."""
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data
