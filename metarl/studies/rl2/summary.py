"""What the records of RL² runs come to, beside reference strategies on the same tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metarl.studies.estimates import estimate
from metarl.studies.rl2 import references
from metarl.studies.rl2.references import Floats, Line, Problem
from metarl.studies.study import Result


def trial_returns(result: Result) -> Floats:
    """Return of a trial of the training length on every held-out task, [tasks]."""
    trained: Floats = _returns(result)[: result.config["agent"]["episodes_per_trial"]].sum(axis=0)
    return trained


def _returns(result: Result) -> Floats:
    """[episodes, tasks], of twice the episodes of training."""
    return np.array(result.final["returns"], dtype=np.float64)


def beside(base: str | None, found: Mapping[str, Sequence[Result]], results: Sequence[Result]) -> dict[str, Any] | None:
    """How runs do beside those of the same seeds, and so on the same tasks, with the memory of another setting."""
    others = {result.cell.seed: trial_returns(result) for result in found.get(base or "", ())}
    pairs = [(trial_returns(r), others[r.cell.seed]) for r in results if r.cell.seed in others]
    if not pairs:
        return None
    ours, theirs = (float(np.mean([pair[side].mean() for pair in pairs])) for side in (0, 1))
    return {
        "setting": base,
        "share": ours / theirs,
        "difference": estimate([ours - theirs for ours, theirs in pairs]),
    }


def summarise_setting(problem: type[Problem], results: Sequence[Result], small: bool) -> dict[str, Any]:
    """One setting over all its runs, and the runs themselves."""
    if not results:
        return {"runs": []}
    config = results[0].config
    chosen = references.choose(problem, config, small)
    lines = [references.play(problem, result.config, chosen, small) for result in results]
    trials = [trial_returns(result) for result in results]
    optimum = references.held_out(problem, config).bayes_optimum()
    trial = estimate(trials)
    return {
        "config": results[0].cell.config,
        "overrides": dict(results[0].cell.overrides),
        "settings": config,
        "optimum": optimum,
        "trial": trial,
        "share": None if optimum is None else trial["mean"] / optimum,
        "references": {name: _reference([line[name] for line in lines], trials) for name in chosen},
        "runs": [_summarise_run(result, line, optimum) for result, line in zip(results, lines, strict=True)],
    }


def _reference(lines: Sequence[Line], trials: Sequence[Floats]) -> dict[str, Any]:
    """A strategy on every seed's tasks, and RL² minus it, task by task."""
    totals = [line.returns.sum(axis=1) for line in lines]
    return {
        "setting": lines[0].setting,
        "trial": estimate(totals),
        "difference": estimate([ours - theirs for ours, theirs in zip(trials, totals, strict=True)]),
        "by_episode": np.mean([line.returns.mean(axis=0) for line in lines], axis=0).tolist(),
    }


def _summarise_run(result: Result, lines: Mapping[str, Line], optimum: float | None) -> dict[str, Any]:
    trial = trial_returns(result)
    by_episode = _returns(result).mean(axis=1)
    trained = result.config["agent"]["episodes_per_trial"]
    return {
        "seed": result.cell.seed,
        "iterations": result.final["iteration"],
        "env_steps": result.final["env_steps"],
        "train_seconds": result.train_seconds,
        "trial": estimate([trial]),
        "share": None if optimum is None else float(trial.mean()) / optimum,
        "first_episode": float(by_episode[0]),
        "last_episode": float(by_episode[trained - 1]),
        "by_episode": by_episode.tolist(),  # [2n]
        "restored": result.final["restored"],
        "references": {name: _reference([line], [trial]) for name, line in lines.items()},
        "versions": result.made_with,
    }
