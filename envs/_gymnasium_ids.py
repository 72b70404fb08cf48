"""Environments that a module registers with Gymnasium when it is imported: ``module:id``."""

from __future__ import annotations

import importlib
import re

import gymnasium

from metarl.errors import ConfigError, nearest

MODULE_AND_ID = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([^:\s]+)", re.ASCII)


def registered_id(env_id: str) -> str:
    """The id of ``id`` or ``module:id``, whose module is imported.

    Raises:
        ConfigError: the module cannot be imported, or no such environment is registered then.
    """
    match = MODULE_AND_ID.fullmatch(env_id)
    if match is None:
        return env_id
    module, name = match.groups()
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        where = "is its folder on PYTHONPATH?" if error.name == module.partition(".")[0] else "install what it needs"
        raise ConfigError(f"cannot import {module} ({error}); {where}") from error
    if name not in gymnasium.registry:
        known = nearest(name, list(gymnasium.registry))
        raise ConfigError(f"{known}expected an id that {module} registers with Gymnasium when it is imported")
    return name
