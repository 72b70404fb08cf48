"""What the records of policies that learned by a rule come to: curves, their areas, and differences between rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.studies.estimates import estimate
from metarl.studies.study import Result

Floats = NDArray[np.float64]
LEARNED = "learned"


def curve(result: Result) -> Floats:
    """Return after so many updates, [points, tasks]."""
    return np.array(result.final["returns"], dtype=np.float64)


def area(result: Result) -> Floats:
    """The area under each task's curve, by trapezoids, over the number of updates: its mean return [tasks] while it
    learned, in units of return."""
    steps, values = np.array(result.final["steps"], dtype=np.float64), curve(result)
    return np.asarray(np.trapezoid(values, steps, axis=0) / (steps[-1] - steps[0]))


def _of(results: Sequence[Result], rule: str) -> dict[float, list[Result]]:
    """A rule's runs by step size, each in the order of its seeds."""
    found: dict[float, list[Result]] = {}
    for result in sorted(results, key=lambda one: one.cell.seed):
        cell: Any = result.cell
        if cell.rule == rule:
            found.setdefault(cell.step_size, []).append(result)
    return dict(sorted(found.items()))


def chosen(results: Sequence[Result], family: str, rules: Sequence[str]) -> dict[str, float | None]:
    """The step size of each rule with the largest mean area on the family that chooses; None without any run."""
    there: list[Result] = [result for result in results if getattr(result.cell, "family", None) == family]
    return {rule: _best(_of(there, rule)) for rule in rules}


def _best(runs: Mapping[float, Sequence[Result]]) -> float | None:
    means = {size: float(np.mean([area(result).mean() for result in found])) for size, found in runs.items()}
    return max(means, key=lambda size: means[size], default=None)


def of_training(results: Sequence[Result]) -> dict[str, Any]:
    """The runs that learned a rule."""
    if not results:
        return {"runs": []}
    return {
        "config": results[0].cell.config,
        "settings": results[0].config,
        "runs": [
            {
                "seed": result.cell.seed,
                "iterations": result.final["iteration"],
                "env_steps": result.final["env_steps"],
                "train_seconds": result.train_seconds,
                "evaluations": [[line["iteration"], line["mean"][-1]] for line in result.evaluations],
                "versions": result.made_with,
            }
            for result in results
        ],
    }


def of_family(results: Sequence[Result], sizes: Mapping[str, float | None]) -> dict[str, Any]:
    """Every rule on a family at every step size, and at the one that was ``chosen``; differences on the same tasks."""
    rules: dict[str, Any] = {}
    found = {rule: _of(results, rule) for rule in sizes}
    for rule, runs in found.items():
        rules[rule] = {
            "by_step_size": {f"{size:g}": _at(runs[size]) for size in runs},
            "chosen": None if sizes[rule] not in runs else f"{sizes[rule]:g}",
            "best": None if _best(runs) is None else f"{_best(runs):g}",
        }
    differences = {}
    for rule in found:
        if rule != LEARNED:
            how = {key: (rules[LEARNED][key], rules[rule][key]) for key in ("chosen", "best")}
            differences[rule] = {
                key: _difference(found[LEARNED].get(_size(ours), ()), found[rule].get(_size(theirs), ()))
                for key, (ours, theirs) in how.items()
            }
    steps = results[0].final["steps"] if results else []
    return {"steps": steps, "rules": rules, "differences": differences}


def _size(text: str | None) -> float:
    return float("nan") if text is None else float(text)


def _at(results: Sequence[Result]) -> dict[str, Any]:
    curves = [curve(result) for result in results]
    return {
        "seeds": [result.cell.seed for result in results],
        "area": estimate([area(result) for result in results]),
        "final": estimate([values[-1] for values in curves]),
        "by_seed": [float(area(result).mean()) for result in results],
        "curve": np.mean([values.mean(axis=1) for values in curves], axis=0).tolist(),
    }


def _difference(ours: Sequence[Result], theirs: Sequence[Result]) -> dict[str, Any] | None:
    """Area of one rule minus that of another, task by task of the same seeds; None without a seed in common."""
    others = {result.cell.seed: area(result) for result in theirs}
    pairs = [area(result) - others[result.cell.seed] for result in ours if result.cell.seed in others]
    return estimate(pairs) if pairs else None
