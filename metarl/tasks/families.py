"""Task families by name: built from a name and overrides, without an agent or a run, and all of them at a glance."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from metarl.config import lineage, loading, lookup, messages, strict_yaml
from metarl.errors import ConfigError, MetarlError, WorkerError
from metarl.faults import PASSES, RaisedBelowError, sentence
from metarl.spaces import Space
from metarl.tasks.distribution import TaskDistribution


def build(name: str, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> TaskDistribution:
    """The task distribution of a family (a module in envs/, or ``package.module:Class`` listed in ``allow``) with its
    config's defaults, but for overrides ``task.key=value``; ``task.lineage`` fills in what it pins.

    ``name`` may also be a file, ``….yaml``, with a section ``task``: a run's configuration, or this section alone.

    Raises:
        ConfigError: no such family, or values that its config refuses; one line per problem.
        WorkerError: the family's own code raised.
    """
    changes = loading.check_override_keys(overrides, ("task.*",), "in `metarl check-env`")
    if "task.name" in changes:
        raise ConfigError(f"task.name = {messages.show(changes['task.name'])}: the family is {name}, given by name")
    given = strict_yaml.nested(changes).get("task", {})
    if name.endswith((".yaml", ".yml")):
        given = loading.task_of_file(name, overrides)
        name = given["name"]
    try:
        family = lookup.task_distribution(name, allow)
    except ConfigError as error:
        raise ConfigError(f"{name!r}: {error}") from error
    except PASSES:
        raise
    except BaseException as error:
        raise WorkerError(f"importing {name} failed: {explain(error)}") from error
    validated = lineage.checked({**given, "name": name}, family.config_class, prefix="task.")
    lookup.require_allowed(validated, allow)
    try:
        made: TaskDistribution = family(validated)
        return made
    except (MetarlError, *PASSES):
        raise
    except BaseException as error:
        raise WorkerError(f"building {family.__name__} failed: {explain(error)}") from error


def overview() -> list[dict[str, Any]]:
    """A row of JSON data per family in envs/, with its defaults.

    ``name``, ``summary``, ``needs`` (keys without a default), ``lineages`` (name → pins, why, differs), ``horizon``;
    and where nothing is needed ``observation`` and ``action`` in words, ``train`` and ``test`` (numbers of tasks; null
    = infinitely many). A family that does not work has ``problem`` behind its summary, and nothing else.
    """
    return [
        {"name": name, "summary": lookup.summary("envs", name), **_describe(name)} for name in lookup.available("envs")
    ]


def describe_space(space: Space) -> str:
    """A space in a few words: ``6 in [-1, 1]``, ``17`` where it is unbounded, or ``5 choices``."""
    if space.kind == "discrete":
        return f"{space.size} choices"
    low, high = min(space.low, default=-np.inf), max(space.high, default=np.inf)
    return str(space.size) if np.isinf([low, high]).all() else f"{space.size} in [{low:g}, {high:g}]"


def explain(error: BaseException) -> str:
    """An exception in one line, with the file and line that raised it; an error of ours says all in its message."""
    if isinstance(error, MetarlError):
        return " ".join(str(error).split())
    raised = error.__cause__ if isinstance(error, RaisedBelowError) and error.__cause__ is not None else error
    frames = traceback.extract_tb(raised.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return sentence(error) + place


def _describe(name: str) -> dict[str, Any]:
    try:
        config_class = lookup.task_distribution(name).config_class
        fields = config_class.model_fields
        needs = [f"task.{key}" for key, field in fields.items() if field.is_required() and key != "name"]
        row: dict[str, Any] = {
            "needs": needs,
            "lineages": {key: asdict(published) for key, published in config_class.lineages.items()},
            "horizon": None if fields["horizon"].is_required() else fields["horizon"].get_default(),
        }
        if needs:
            return row
        distribution = build(name)
        spaces = distribution.spaces
        space_words = {"observation": describe_space(spaces.observation), "action": describe_space(spaces.action)}
        return row | space_words | {"train": distribution.size("train"), "test": distribution.size("test")}
    except PASSES:
        raise
    except BaseException as error:  # one broken family must not hide the others
        return {"problem": " ".join(str(error).split()) or type(error).__name__}
