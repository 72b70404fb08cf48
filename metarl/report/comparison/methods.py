"""Runs as methods: which differ in their seed alone, which meet the same tasks, and what they are called."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metarl.config.loading import leaves
from metarl.config.naming import UNNAMED, task_in_words
from metarl.errors import ConfigError, nearest
from metarl.report.comparison.runs import ComparedRun

# What tells no task distribution from another: who published its values, and the units of a policy's output.
NOT_OF_THE_TASK = ("lineage", "action_scale")
MOST = 24  # characters of a value in a name
MISSING = "not set"

Settings = Mapping[str, Any]  # dotted key → value


@dataclass(frozen=True)
class Group:
    """Runs on one task distribution, by method."""

    name: str
    task: Settings  # what makes the distribution, without the family's name
    methods: Mapping[str, list[ComparedRun]]
    within: Mapping[str, Mapping[str, list[str]]]  # of a method the keys that differ in it, and their values


def group(runs: Sequence[ComparedRun], by: str | None = None) -> list[Group]:
    """The runs of every task distribution by method: by all settings but the seed, or by the value of one key.

    Raises:
        ConfigError: no run has the key, or two runs have the same seed and settings; names both.
    """
    _require_different(runs)
    if by is not None:
        _require_known(by, runs)
    distributions = _gather(runs, task_of)
    names = _names(
        [_family(found[0]) for found in distributions],
        [task_of(found[0]) for found in distributions],
    )
    groups = []
    for name, found in zip(names, distributions, strict=True):
        if by is None:
            together = _gather(found, settings_of)
            titles = _names([one[0].agent for one in together], [settings_of(one[0]) for one in together])
        else:
            together = _gather(found, lambda run: {by: _value(run, by)})
            titles = _unique([_of_a_key(by, _value(one[0], by)) for one in together])
        methods = dict(zip(titles, together, strict=True))
        task = {key: value for key, value in task_of(found[0]).items() if key != "task.name"}
        groups.append(Group(name, task, methods, {title: differing(one) for title, one in methods.items()}))
    return groups


def task_of(run: ComparedRun) -> Settings:
    """What makes a run's task distribution."""
    task = {key: value for key, value in run.config["task"].items() if key not in NOT_OF_THE_TASK}
    return dict(leaves({"task": task}))


def settings_of(run: ComparedRun) -> Settings:
    """All else that decides what a run learns, but its seed, the agent's own keys first.

    The same keys count as for ``metarl evaluate RUN RUN``. Of the run that gave first parameters only that there was
    one counts: seeds that begin from others' seeds are seeds of one method.
    """
    task = task_of(run)
    given = {**run.config, "init_from": "a run" if run.config.get("init_from") else None}
    found = {key: value for key, value in leaves(given) if key not in task and decides(key)}
    return dict(sorted(found.items(), key=lambda item: (item[0].endswith("lineage"), not item[0].startswith("agent."))))


def differing(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """The settings in which runs differ, with their values as text."""
    found = [settings_of(run) for run in runs]
    return {key: list(dict.fromkeys(_text(one, key) for one in found)) for key in _varying(found)}


def decides(key: str) -> bool:
    """Whether a key decides what a run learns; its seed does not count."""
    return key not in UNNAMED and not any(key.startswith(part) for part in UNNAMED if part.endswith("."))


def _gather(runs: Sequence[ComparedRun], what: Callable[[ComparedRun], Settings]) -> list[list[ComparedRun]]:
    """Runs with equal settings together, in the order in which they come."""
    found: dict[str, list[ComparedRun]] = {}
    for run in runs:
        found.setdefault(json.dumps(what(run), sort_keys=True), []).append(run)
    return list(found.values())


def _require_different(runs: Sequence[ComparedRun]) -> None:
    """Raises ConfigError where runs would count twice."""
    seen: dict[str, ComparedRun] = {}
    problems = []
    for run in runs:
        key = json.dumps([run.seed, task_of(run), settings_of(run)], sort_keys=True)
        if key in seen:
            problems.append(
                f"{seen[key].path} and {run.path} have the same settings and seed {run.seed}: leave one of them out"
            )
        seen.setdefault(key, run)
    if problems:
        raise ConfigError("\n".join(problems))


def _require_known(by: str, runs: Iterable[ComparedRun]) -> None:
    keys = dict.fromkeys(key for run in runs for key, _ in leaves(run.config))
    if by not in keys:
        raise ConfigError(f"--by {by}: {nearest(by, list(keys), most=3)}expected a key of the runs' configurations")


def _value(run: ComparedRun, key: str) -> Any:
    return dict(leaves(run.config)).get(key, MISSING)


# Names


def _family(run: ComparedRun) -> str:
    """Family and environment; of a class of the user's own, the class."""
    task = run.config["task"]
    return task_in_words({**task, "name": str(task["name"]).rpartition(":")[2]})


def _names(bases: Sequence[str], settings: Sequence[Settings]) -> list[str]:
    """A name for each: its base, with the keys that tell it from the others of that base, where they are not as in
    most."""
    found = []
    for base, own in zip(bases, settings, strict=True):
        alike = [other for name, other in zip(bases, settings, strict=True) if name == base]
        changed = [key for key in _telling(alike) if _text(own, key) != _usual([_text(one, key) for one in alike])]
        found.append(" ".join([base, *(_of_a_key(key, own.get(key, MISSING)) for key in changed)]))
    return _unique(found)


def _usual(texts: Sequence[str]) -> str | None:
    """What most are, if one is more often there than every other."""
    (first, most), *others = Counter(texts).most_common(2)
    return first if not others or most > others[0][1] else None


def _telling(settings: Sequence[Settings]) -> list[str]:
    """The first keys, in order, that together tell every one from the others."""
    kept: list[str] = []
    told = 1
    for key in _varying(settings):
        different = len({tuple(_text(one, name) for name in (*kept, key)) for one in settings})
        if different > told:
            kept, told = [*kept, key], different
    return kept


def _varying(settings: Sequence[Settings]) -> list[str]:
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({_text(one, key) for one in settings}) > 1]


def _text(settings: Settings, key: str) -> str:
    return as_text(settings.get(key, MISSING))


def as_text(value: Any) -> str:
    """A value in a few characters."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _of_a_key(key: str, value: Any) -> str:
    """``inner_lr=0.05``; of a name the value alone."""
    text = f"{value:.6g}" if isinstance(value, float) else as_text(value)
    text = text if len(text) <= MOST else text[: MOST - 1] + "…"
    return text.rpartition(":")[2] if key in ("agent.name", "task.name") else f"{key.rpartition('.')[2]}={text}"


def _unique(names: Sequence[str]) -> list[str]:
    """Names that would be the same are numbered."""
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]
