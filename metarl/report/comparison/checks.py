"""What makes runs hard to compare, in words: each line names the runs and what is the matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from metarl.config.loading import leaves
from metarl.report.comparison.methods import NOT_OF_THE_TASK, as_text
from metarl.report.comparison.runs import ComparedRun
from metarl.report.numbers import count

Methods = Mapping[str, Sequence[ComparedRun]]

OF_ALL = ("eval.num_tasks", "eval.score_episodes", "eval.deterministic")  # what decides a figure,
OF_STEPS = ("eval.adapt_episodes", "eval.adapt_env_steps")  # and a figure of agents that adapt by gradients


def pairs(
    ours: Sequence[ComparedRun], theirs: Sequence[ComparedRun]
) -> tuple[list[tuple[ComparedRun, ComparedRun]], list[str]]:
    """The runs of two methods that have one seed and met the same held-out tasks, and why there are not more."""
    for runs in (ours, theirs):
        seeds = [run.seed for run in runs]
        if len(set(seeds)) < len(seeds):
            return [], ["no differences, as a group has several runs of one seed"]
    by_seed = {run.seed: run for run in theirs}
    found, problems = [], []
    for run in ours:
        other = by_seed.get(run.seed)
        if other is None:
            continue
        if run.tasks is None or other.tasks is None:
            problems.append(f"no difference for seed {run.seed}, as records do not name the held-out tasks")
        elif run.tasks != other.tasks:
            problems.append(
                f"no difference for seed {run.seed}, as {run.path} and {other.path} met different held-out tasks"
            )
        else:
            found.append((run, other))
    if not found and not problems:
        problems.append("no differences, as they have no seed in common")
    return found, problems


def of_runs(methods: Methods) -> list[str]:
    """Runs that go on, have stopped, or whose tasks are not known."""
    lines = []
    for run in _all(methods):
        done, planned = run.final["iteration"], run.config.get("iterations")
        if run.state != "finished":
            lines.append(f"{run.path} is {run.state}: evaluated at iteration {done} of {planned}")
        if run.names is None:
            lines.append(
                f"{run.path} does not record which tasks were held out, and its family cannot be asked: "
                "all count as a sample, even if they come several times"
            )
    return lines


def of_budgets(methods: Methods) -> list[str]:
    """Environment steps that are further apart than an iteration is long."""
    runs = _all(methods)
    steps = [run.final["env_steps"] for run in runs]
    if max(steps) - min(steps) <= max(run.iteration_steps for run in runs):
        return []
    parts = [f"{name} {_range([run.final['env_steps'] for run in found])}" for name, found in methods.items()]
    return [f"environment steps of training differ by more than an iteration: {', '.join(parts)}"]


def of_evaluations(methods: Methods) -> list[str]:
    """Evaluations that are not alike."""
    by_gradient = {
        name: [run for run in found if run.is_by_gradient]
        for name, found in methods.items()
        if any(run.is_by_gradient for run in found)
    }
    lines = [
        f"{name} takes together runs that count {' and '.join(sorted(units))}: its figures mean nothing"
        for name, found in methods.items()
        if len(units := {run.unit for run in found}) > 1
    ]
    lines += [_differing(key, methods) for key in OF_ALL] + [_differing(key, by_gradient) for key in OF_STEPS]
    lines.append(
        _values("the number of adaptation steps evaluated", by_gradient, lambda run: len(run.final["steps"]) - 1)
    )
    lines.append(_values("the number of held-out tasks evaluated", methods, lambda run: len(run.final["returns"][0])))
    return [line for line in lines if line]


def of_curves(methods: Methods) -> list[str]:
    """Returns that are undefined, as episodes diverged."""
    lines = []
    for run in _all(methods):
        returns = np.array(run.final["returns"], dtype=np.float64)
        gaps = int(np.isnan(returns).sum())
        if np.isnan(returns).all(axis=1).any():
            lines.append(f"{run.path}: every episode diverged at a point, where its method's return is undefined")
        elif gaps:
            lines.append(f"{run.path}: all episodes of a held-out task diverged {gaps} times, which are in no figure")
    return lines


def of_units(methods: Methods) -> list[str]:
    """What differs in a task section and makes no other distribution."""
    lines = [_differing(f"task.{key}", methods) for key in NOT_OF_THE_TASK]
    return [f"{line}; it makes no other tasks" for line in lines if line]


def _all(methods: Methods) -> list[ComparedRun]:
    return [run for found in methods.values() for run in found]


def _differing(key: str, methods: Methods) -> str:
    return _values(key, methods, lambda run: dict(leaves(run.config)).get(key))


def _values(what: str, methods: Methods, value: Callable[[ComparedRun], Any]) -> str:
    """Which methods, or single runs of theirs, have which value; empty where all have the same."""
    found: dict[str, list[str]] = {}
    for name, runs in methods.items():
        texts = [as_text(value(run)) for run in runs]
        for text in dict.fromkeys(texts):
            those = [run.path for run, one in zip(runs, texts, strict=True) if one == text]
            found.setdefault(text, []).extend([name] if len(those) == len(runs) else those)
    if len(found) < 2:
        return ""
    return f"{what} differs: " + "; ".join(f"{text} in {', '.join(those)}" for text, those in found.items())


def _range(values: Sequence[float]) -> str:
    low, high = count(min(values)), count(max(values))
    return low if low == high else f"{low} … {high}"
