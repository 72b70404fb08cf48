"""What the lessons and runs of the study come to: medians over seeds, and every seed that stays below the bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metarl.studies.estimates import estimate
from metarl.studies.memories import sequences
from metarl.studies.rl2.summary import trial_returns
from metarl.studies.study import Result

CHANCE = 0.5  # of reward in every pull at random, where each arm's probability is drawn evenly from [0, 1]


def summarise_task(
    task: str, bars: Mapping[str, float], results: Mapping[str, Sequence[Mapping[str, Any] | None]]
) -> dict[str, Any]:
    """One sequence task; ``results`` by memory and seed, None for what has not been run."""
    return {
        "about": sequences.TASKS[task].about,
        "bars": dict(bars),
        "memories": {memory: _memory(bars, found) for memory, found in results.items() if found},
    }


def _memory(bars: Mapping[str, float], found: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """One memory on one task. ``failed``: by score, the seeds that are below its bar."""
    runs = [run for run in found if run is not None]
    names = list(runs[0]["scores"]) if runs else []
    return {
        "runs": runs,
        "missing_seeds": [seed for seed, run in enumerate(found) if run is None],
        "median": {
            name: {key: float(np.median([run["scores"][name][key] for run in runs])) for key in ("bits", "sequences")}
            for name in names
        },
        "failed": {
            name: [run["seed"] for run in runs if run["scores"][name]["bits"] < bar]
            for name, bar in bars.items()
            if runs
        },
        "settings": {"learner": {"threads": 1}},
    }


def summarise_bandit(results: Sequence[Result]) -> dict[str, Any]:
    """One memory's runs on the bandit."""
    if not results:
        return {"runs": []}
    config = results[0].config
    trials = [trial_returns(result) for result in results]
    return {
        "config": results[0].cell.config,
        "settings": config,
        "random": CHANCE * config["agent"]["episodes_per_trial"],
        "trial": estimate(trials),
        "runs": [
            {
                "seed": result.cell.seed,
                "trial": float(trial.mean()),
                "env_steps": result.final["env_steps"],
                "seconds": result.train_seconds,
                "versions": result.made_with,
            }
            for result, trial in zip(results, trials, strict=True)
        ],
    }


def with_gains(bandit: Mapping[str, Any], base: str, bar: float) -> dict[str, Any]:
    """The same with ``gain``, the share of the base's gain over random play, of the median seed and of each seed
    against the base's median; None where the base has not been run, or has not gained anything."""
    unit = float(np.median(_gains(bandit.get(base, {"runs": []})) or [0.0]))
    found = {}
    for memory, entry in bandit.items():
        shares = [gain / unit for gain in _gains(entry)] if unit > 0 else []
        gain = {"median": float(np.median(shares)), "by_seed": shares} if shares else None
        failed = [run["seed"] for run, share in zip(entry["runs"], shares, strict=False) if share < bar]
        found[memory] = {**entry, "gain": gain, "bar": bar, "failed": failed}
    return found


def _gains(entry: Mapping[str, Any]) -> list[float]:
    return [run["trial"] - entry["random"] for run in entry["runs"]]
