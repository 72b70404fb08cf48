"""A section of a configuration from given keys: its lineage fills in what it pins, then all is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from metarl.config import messages
from metarl.config.schema import AgentConfig, TaskConfig
from metarl.errors import ConfigError, nearest

Section = TypeVar("Section", TaskConfig, AgentConfig)


def fill(
    given: Mapping[str, Any], config_class: type[TaskConfig] | type[AgentConfig], *, prefix: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """``given`` with what its ``lineage`` pins, and a notice for every explicit value that differs from a pin.

    Explicit values win. ``prefix`` stands before the keys in notices and errors: ``task.`` in a run's configuration.

    Raises:
        ConfigError: the class has no lineage of that name.
    """
    name = given.get("lineage")
    if not isinstance(name, str):  # none; or of a wrong type, which validation reports
        return dict(given), []
    if name not in config_class.lineages:
        known = list(config_class.lineages)
        raise ConfigError(
            f"{prefix}lineage = {messages.show(name)}: {nearest(name, known)}"
            f"{given.get('name')} has: {', '.join(known) or 'none'}"
        )
    pins = json.loads(json.dumps(dict(config_class.lineages[name].pins)))  # tuples become lists, as in YAML
    notices: list[str] = []
    return _merge(prefix, given, pins, name, notices), notices


def checked(given: Mapping[str, Any], config_class: type[Section], *, prefix: str = "") -> Section:
    """The config of a section of its own, as a run's configuration would have it; lineages are filled in.

    Raises:
        ConfigError: no such lineage, or keys or values that the class refuses; one line for each.
    """
    data: dict[str, Any] = fill(given, config_class, prefix=prefix)[0]
    model: Any = config_class
    for section in reversed(prefix.split(".")[:-1]):  # so that messages have the whole path of a key
        fields: dict[str, Any] = {section: (model, ...)}
        model, data = create_model("Section", **fields), {section: data}
    try:
        found: Any = model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise ConfigError("\n".join(messages.explain(error, model, data).values())) from error
    for section in prefix.split(".")[:-1]:
        found = getattr(found, section)
    config: Section = found
    return config


def _merge(
    prefix: str, given: Mapping[str, Any], pins: dict[str, Any], lineage: str, notices: list[str]
) -> dict[str, Any]:
    merged = {**pins, **given}
    for key in given.keys() & pins.keys():
        value, pin = given[key], pins[key]
        if isinstance(value, dict) and isinstance(pin, dict):
            merged[key] = _merge(f"{prefix}{key}.", value, pin, lineage, notices)
        elif value != pin:
            shown = messages.show(value), messages.show(pin)
            notices.append(f"{prefix}{key} = {shown[0]} overrides {shown[1]} of lineage {lineage}")
    return merged
