"""Configuration: a YAML file and ``key=value`` overrides become one validated :class:`~metarl.config.schema.RunConfig`.

OmegaConf reads, pydantic validates; ``task`` and ``agent`` are validated by the ``config_class`` of the
family and the agent that they name. All that is wrong is reported at once. Validation is strict with JSON's types:
``list`` and ``tuple`` fields take YAML lists, an integer does for a float but not the other way round, and no number is
made from text.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from pydantic import ValidationError, create_model

from metarl import run_files
from metarl.config import devices, lineage, lookup, messages, naming, strict_yaml
from metarl.config.schema import AgentConfig, Frozen, RunConfig, SamplerConfig, TaskConfig
from metarl.config.strict_yaml import Problems
from metarl.errors import ConfigError, nearest

EVALUATED = ("eval.*", "task.*", "device", "learner.tasks_per_chunk")  # what an evaluation may change
RESUMABLE = (
    "iterations",
    "env_steps",
    "time_limit_s",
    "sampler.*",
    "learner.threads",
    "eval.*",
    "checkpoint.*",
    "wandb.*",
    "tensorboard",
    "device",
    "learner.tasks_per_chunk",
)
UNTUNED = {"iterations": 100, "meta_batch_size": 20}  # of a run that no configuration describes
SectionClass = type[TaskConfig] | type[AgentConfig]
_RUN_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)


@dataclass(frozen=True)
class Loaded:
    """A configuration that can be run.

    ``name`` is where its runs are filed: the file's name without suffix, or task/agent. ``title`` is what they are
    called after, and ``suffix`` what overrides changed, as the end of a run's name. ``notices`` are lines to show to
    the user (what was dropped or overridden), ``raw`` is what file and overrides gave explicitly, before lineages and
    defaults.
    """

    name: str
    config: RunConfig
    notices: list[str]
    raw: dict[str, Any]
    title: str
    suffix: str = ""


def load(config: str, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> Loaded:
    """Load and check a configuration: a path to a YAML file, or the bare name of one that comes with metarl.

    ``overrides`` are ``key=value`` with dotted keys and YAML values (a leading ``--`` is allowed); ``allow`` lists the
    classes outside metarl, as ``package.module:Class``, that ``task.name`` and ``agent.name`` may be. Nothing is
    written anywhere.

    Raises:
        ConfigError: one line per problem; all that could be found.
    """
    problems: Problems = {}
    name, given = _read(config, problems)
    changes = strict_yaml.parse_overrides(overrides, problems)
    if given is None:
        raise _error(problems)
    return _loaded(name, given, changes, allow, problems)


def load_pair(task: str, agent: str, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> Loaded:
    """:func:`load` of a task family and an agent by their names: the configuration ``<agent>_<task>`` if there is one,
    else the family's and the agent's own defaults, which nobody has tuned for each other.

    Raises:
        ConfigError: one line per problem; all that could be found.
    """
    known = f"{agent}_{task}"
    if known in lookup.available("configs"):
        tuned = load(known, overrides, allow)
        return replace(tuned, name=naming.folder(None, tuned.config.task.name, tuned.config.agent.name))
    problems: Problems = {}
    changes = strict_yaml.parse_overrides(overrides, problems)
    given = {"task": {"name": task}, "agent": {"name": agent}, **UNTUNED}
    try:
        given["rollouts_per_task"] = lookup.agent(agent, allow).config_class.usual_rollouts
    except ConfigError:
        given["rollouts_per_task"] = 1  # the name is among the problems that are told below
    loaded = _loaded(None, given, changes, allow, problems)
    notice = f"untuned: there is no configuration for {agent} on {task}, and these are the defaults of both"
    return replace(loaded, notices=[notice, *loaded.notices])


def load_words(config: str, words: Sequence[str] = (), allow: Sequence[str] = ()) -> Loaded:
    """:func:`load`, or :func:`load_pair` where a command line begins with TASK and AGENT, and raises what they do."""
    agent = lookup.agent_of_pair(config, words)
    if agent is None:
        return load(config, words, allow)
    return load_pair(config, agent, [word for word in words if "=" in word], allow)


def _loaded(
    name: str | None, given: Mapping[str, Any], changes: Mapping[str, Any], allow: Sequence[str], problems: Problems
) -> Loaded:
    """What a file of that name, or none, and overrides come to."""
    raw, notices = _merge(given, changes)
    checked, overridden = _check(raw, allow, problems)
    names = checked.task.name, checked.agent.name
    own = (_name(given.get("task")), _name(given.get("agent"))) == names
    return Loaded(
        naming.folder(name, *names),
        checked,
        notices + overridden + idle_notices(checked, dict(leaves(raw))),
        raw,
        naming.title(name if own else None, *names),
        naming.suffix(dict(leaves(changes)), checked.name),
    )


class Reloaded(NamedTuple):
    """A run's configuration as it can be used here, notices for the user, and the device that the run had."""

    config: RunConfig
    notices: list[str]
    device: str


def reload(saved: Mapping[str, Any], allow: Sequence[str] = ()) -> Reloaded:
    """A run's configuration from the data that :func:`as_data` gave; ``allow`` as for :func:`load`.

    The device belongs to the machine, not to the run: where a GPU is not there, another one or the CPU takes its place.

    Raises:
        ConfigError: one line per problem.
    """
    if not strict_yaml.is_shallow(saved):
        raise ConfigError(f"expected a configuration of at most {strict_yaml.MAX_DEPTH} levels")
    had, data = str(saved.get("device", "auto")), dict(saved)
    data["device"], notices = devices.instead_of(had)
    learner = data.get("learner")
    if isinstance(learner, Mapping) and "shares" not in learner and "threads" in learner:  # of before: one per thread
        data["learner"] = {**learner, "shares": learner["threads"] if had == "cpu" else 1}
    return Reloaded(_check(data, allow, {})[0], notices, had)


def _check(raw: Mapping[str, Any], allow: Sequence[str], problems: Problems) -> tuple[RunConfig, list[str]]:
    """The configuration of what was given explicitly, and where that overrides a lineage. Raises ConfigError."""
    overrides: list[str] = []
    task = _section_class(raw, "task", lambda name: lookup.task_distribution(name, allow).config_class, problems)
    agent = _section_class(raw, "agent", lambda name: lookup.agent(name, allow).config_class, problems)
    resolved = copy.deepcopy(dict(raw))
    for section, config_class in (("task", task), ("agent", agent)):
        if config_class is not None:
            try:
                resolved[section], overridden = lineage.fill(raw[section], config_class, prefix=f"{section}.")
                overrides += overridden
            except ConfigError as error:
                problems[f"{section}.lineage"] = str(error)
    checked = _validate(resolved, task, agent, problems)
    if checked is None or problems:
        raise _error(problems)
    lookup.require_allowed(checked.task, allow)
    return checked, overrides


def idle_notices(config: RunConfig, given: Iterable[str]) -> list[str]:
    """One line for every one of the ``given`` keys, with dots, that changes nothing in a run: the key and why."""
    idle = config.without_effect()
    return [f"{key} has no effect: {idle[key]}" for key in given if key in idle]


def keys_of(overrides: Sequence[str]) -> list[str]:
    """The dotted keys that overrides set; of those that are well formed."""
    return [key for key, _ in leaves(strict_yaml.parse_overrides(overrides, {}))]


def check_combinations(config: RunConfig) -> list[str]:
    """What cannot work although every key on its own is valid: one line each."""
    problems = []
    workers = config.sampler.workers
    if config.sampler.executor == "in_process" and workers != "auto" and workers > 0:
        problems.append(
            f"sampler.workers = {workers} contradicts sampler.executor = in_process: set workers to 0 or auto, "
            "or executor to processes"
        )
    problems += _ray_problems(config.sampler)
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        problems.append("tensorboard = true: expected its package; pip install 'metarl[tensorboard]', or leave it out")
    if isinstance(config.agent, AgentConfig):  # else its name is not known
        problems += config.agent.conflicts(config)
    missing = devices.missing(config.device)
    if missing:
        problems.append(f"device = {config.device}: {missing}")
    return problems


def _ray_problems(sampler: SamplerConfig) -> list[str]:
    address, problems = sampler.ray_address, []
    if sampler.executor == "ray" and importlib.util.find_spec("ray") is None:
        problems.append("sampler.executor = ray: expected its package; pip install 'metarl[ray]', or use processes")
    if address is not None and sampler.executor != "ray":
        problems.append(f"sampler.ray_address = {address}: expected sampler.executor = ray, got {sampler.executor}")
    if address is not None and "://" in address:
        problems.append(
            f"sampler.ray_address = {address}: expected host:port or auto; metarl runs on a node of the cluster"
        )
    return problems


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML, with every key; ``load`` gives an equal configuration from it."""
    text: str = OmegaConf.to_yaml(OmegaConf.create(as_data(config)))
    return text


def dump_to_keep(config: RunConfig) -> str:
    """:func:`dump`, after reading it back: what is kept can be loaded when the run goes on.

    Raises:
        ConfigError: it could not be, because it is too large or too deeply nested; says why.
    """
    problems: Problems = {}
    text = dump(config)
    data = strict_yaml.parse(text.encode(), run_files.CONFIG, problems)
    if data is None or problems:
        raise ConfigError(
            f"this configuration could not be read again when its run goes on: {_error(problems)}; "
            "shorten its longest list (of numbers: give a range), or nest less deeply"
        )
    again = reload(data, (config.task.name, config.agent.name)).config
    if again != config:
        changed = differences(as_data(again), as_data(config)) or ["a number that JSON does not have"]
        raise ConfigError(f"this configuration would be read otherwise when its run goes on: {changed[0]}")
    return text


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], free: Sequence[str] = ()) -> list[str]:
    """What data of a configuration has other than expected, one line per key; keys in ``free`` may differ.

    Only keys that are expected count: a newer version may have more of them.
    """
    ours = dict(leaves(found))
    missing = object()
    return [
        f"{key} is missing" if key not in ours else f"{key} = {messages.show(ours[key])}, not {messages.show(value)}"
        for key, value in leaves(expected)
        if ours.get(key, missing) != value and not matches(key, free)
    ]


def as_data(config: RunConfig) -> dict[str, Any]:
    """JSON data of a configuration, with all keys of its sections' own classes."""
    return config.model_dump(mode="json", serialize_as_any=True)


def describe(target: type[Frozen] | Loaded) -> str:
    """Every key with its value (of a config class: its default), meaning and allowed values, and the lineages."""
    if not isinstance(target, Loaded):
        return messages.describe_keys(target)
    config = target.config
    text = messages.describe_keys(_run_model(type(config.task), type(config.agent)), as_data(config))
    lineages = [
        messages.describe_lineage(f"{section}.lineage = {name}", published)
        for section, model in (("task", config.task), ("agent", config.agent))
        for name, published in model.lineages.items()
    ]
    return "\n".join([text, *(["", "lineages:", *lineages] if lineages else [])])


def resume_config(saved: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The configuration with which a saved run goes on; only keys in ``RESUMABLE``, which undo no result, may differ.

    The caller checks that ``iterations`` is at least what has been done.

    Raises:
        ConfigError: another key, or an invalid value; one line per problem.
    """
    return _changed(saved, check_override_keys(overrides, RESUMABLE, "on resume"))


def evaluation_config(saved: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The configuration with which a saved run is evaluated; only keys in ``EVALUATED`` may differ.

    Raises:
        ConfigError: another key, or an invalid value; one line per problem.
    """
    changes = check_override_keys(overrides, EVALUATED, "in an evaluation")
    if "task.name" in changes:
        raise ConfigError("task.name: an agent is evaluated on its own family; give other keys of it, or --tasks")
    return _changed(saved, changes)


def _changed(saved: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    problems: Problems = {}
    config = _validate(_merge(as_data(saved), changes)[0], type(saved.task), type(saved.agent), problems)
    if config is None:
        raise _error(problems)
    return config


def check_override_keys(overrides: Sequence[str], changeable: Sequence[str], occasion: str) -> dict[str, Any]:
    """Parse overrides that may only touch some keys, without loading anything. Returns dotted key → value.

    Raises:
        ConfigError: bad syntax, or a key outside ``changeable`` (``section.*`` stands for all of a section).
    """
    problems: Problems = {}
    changes = dict(leaves(strict_yaml.parse_overrides(overrides, problems)))
    for key in changes:
        if not matches(key, changeable):
            problems[key] = f"{key} cannot change {occasion}; what can: {', '.join(changeable)}"
    if problems:
        raise _error(problems)
    return changes


def matches(key: str, keys: Sequence[str]) -> bool:
    """Whether a dotted key is one of some, of which ``section.*`` stands for all of a section."""
    return key in keys or ("." in key and f"{key.partition('.')[0]}.*" in keys)


def _no_configuration(config: str, shipped: Sequence[str]) -> str:
    """What a word is that names no configuration, and what there is."""
    families, agents = lookup.available("envs"), lookup.available("agents")
    if config in families:
        return f"{config} is a task: expected an agent behind it, one of {', '.join(agents)}"
    if config in agents:
        return f"{config} is an agent: expected a task before it, as in `metarl train point {config}`"
    near = nearest(config, [*shipped, *families], most=3)
    return (
        f"no configuration or task called {config!r}: {near}expected the path of a .yaml file, "
        "a name that `metarl list configs` shows, or a task and an agent"
    )


def _read(config: str, problems: Problems) -> tuple[str, dict[str, Any] | None]:
    """Name and content of a configuration given by path or bare name."""
    is_path = "/" in config or config.endswith((".yaml", ".yml"))
    shipped = lookup.available("configs")
    if not is_path and config not in shipped:
        problems[config] = _no_configuration(config, shipped)
        return config, None
    path = Path(os.path.expanduser(config))
    name = path.stem if is_path else config
    if not _RUN_NAME.fullmatch(name):
        problems[config] = (
            f"{config!r}: expected a file name of letters, digits and ._+-, because runs are named after it"
        )
        return name, None
    content = strict_yaml.read_file(path, problems) if is_path else lookup.shipped_config(name)
    if content is None:
        problems[str(path)] += f" {nearest(name, shipped)}".rstrip()
        return name, None
    return name, strict_yaml.parse(content, config, problems)


def _merge(given: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The file's content under the overrides, and notices: a new task or agent name drops the file's section.

    A mapping on the command line takes the place of the file's: else none of its keys could be taken out, as null is
    a value that a key may have. Whole sections are merged: what is left out of them is not meant to go.
    """
    notices = []
    nested = strict_yaml.nested(changes)
    base = copy.deepcopy(dict(given))
    for section in ("task", "agent"):
        old, new = _name(given.get(section)), _name(nested.get(section))
        if old is not None and new is not None and new != old:
            dropped = [f"{key} = {messages.show(value)}" for key, value in given[section].items() if key != "name"]
            notices.append(
                f"{section}.name = {new} replaces {old}: the file's {', '.join(dropped) or 'section'} is dropped"
            )
            base[section] = {}
    for key, value in changes.items():
        if isinstance(value, dict) and "." in key:
            _drop(base, key.split("."))
    return strict_yaml.merged(base, nested), notices


def _drop(tree: Any, path: Sequence[str]) -> None:
    """Take what lies at ``path`` out of the tree, if anything does."""
    for key in path[:-1]:
        tree = tree.get(key) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree.pop(path[-1], None)


def _name(section: Any) -> Any:
    return section.get("name") if isinstance(section, dict) else None


def task_of_file(config: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the task section of a YAML file says, under ``overrides`` of ``task.*``; nothing else of it is looked at.

    Raises:
        ConfigError: no such file, or one without a section ``task`` that has a ``name``.
    """
    problems: Problems = {}
    given = _read(config, problems)[1]
    if given is None:
        raise _error(problems)
    section = given.get("task")
    if not isinstance(_name(section), str):
        raise ConfigError(f"{config}: expected a section task with a name")
    task: dict[str, Any] = _merge({"task": section}, strict_yaml.parse_overrides(overrides, problems))[0]["task"]
    return task


def _section_class(
    raw: Mapping[str, Any], section: str, find: Callable[[str], SectionClass], problems: Problems
) -> SectionClass | None:
    """The config class that the section's ``name`` stands for; None, with a problem noted, if there is none."""
    content = raw.get(section)
    name = _name(content)
    if isinstance(name, str):
        try:
            return find(name)
        except ConfigError as error:
            problems[f"{section}.name"] = f"{section}.name = {messages.show(name)}: {error}"
            return None
    choices = ", ".join(lookup.available("envs" if section == "task" else "agents"))
    if content is not None and not isinstance(content, dict):
        problems[section] = f"{section} = {messages.show(content)}: expected a section whose name is one of {choices}"
    elif name is None:
        problems[f"{section}.name"] = f"missing key {section}.name: expected one of {choices}"
    else:
        problems[f"{section}.name"] = f"{section}.name = {messages.show(name)}: expected one of {choices}"
    return None


def _validate(
    data: Mapping[str, Any], task: SectionClass | None, agent: SectionClass | None, problems: Problems
) -> RunConfig | None:
    """The configuration, its sections of their own classes; None, with all problems noted, if there are any."""
    model = _run_model(task, agent)
    try:
        checked = model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        lines = messages.explain(error, model, data)
        for path, line in lines.items():
            problems.setdefault(messages.dotted(path), line)
        rest = _without(data, lines)
        try:  # combinations are checked on what is left, so that these problems are reported in the same go
            checked = model.model_validate_json(json.dumps(rest))
        except ValidationError:
            return None
    for line in check_combinations(checked):
        problems.setdefault(line, line)
    return RunConfig(**dict(checked)) if not problems else None


def _run_model(task: SectionClass | None, agent: SectionClass | None) -> type[RunConfig]:
    """``RunConfig`` with the given section classes; a section whose class is not known is not looked into."""
    sections: dict[str, Any] = {"task": (task or Any, None), "agent": (agent or Any, None)}
    sections |= {name: (cls, ...) for name, cls in (("task", task), ("agent", agent)) if cls is not None}
    return create_model("RunConfig", __base__=RunConfig, **sections)


def _without(data: Mapping[str, Any], paths: Iterable[messages.Path]) -> dict[str, Any]:
    """A copy without the values at ``paths``; a list goes as a whole."""
    rest: dict[str, Any] = copy.deepcopy(dict(data))
    for path in paths:
        keys = [str(key) for key in itertools.takewhile(lambda part: isinstance(part, str), path)]
        inner = rest
        for key in keys[:-1]:
            inner = inner.get(key, {})
        inner.pop(keys[-1], None)
    return rest


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a tree of sections, in order."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _error(problems: Problems) -> ConfigError:
    return ConfigError("\n".join(problems.values()))
