"""RL² on the problems of Duan et al. 2016 (arXiv:1611.02779): which runs, and what their records come to.

Every run is evaluated at its end, on tasks that training does not see, and reference strategies play the same tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metarl.studies.rl2 import references
from metarl.studies.rl2.references import Floats, Line
from metarl.studies.study import Cell, Result, command_line, finished, require_part

LEVEL, QUANTILE = 0.95, 1.959964  # of the standard normal distribution


@dataclass(frozen=True)
class Setting:
    """One problem and one memory: the configuration ``<agent>_<task>`` of its agent in AGENTS under a few overrides."""

    task: str
    episodes: int  # of a trial
    seeds: int
    iterations: int
    tasks: int  # per iteration
    overrides: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)  # mean return of a trial, by strategy
    beside: str | None = None  # the setting with a GRU that it is held against


def _published(*figures: float) -> dict[str, float]:
    return dict(zip(("random", "gittins", "ucb1", "rl2"), figures, strict=True))


def _published_mdp(*figures: float) -> dict[str, float]:
    return dict(zip(("random", "psrl", "opsrl", "rl2"), figures, strict=True))


BANDIT, MDP = "bernoulli_bandit", "tabular_mdp"
AGENTS = {BANDIT: "rl2_ppo", MDP: "rl2_trpo"}
ARMS, MEMORY = "task.num_arms", "agent.memory"
FIVE = {ARMS: 5}
LOOK_BACK = {"agent.memory_context": 20}  # all of a trial that goes on for twice ten pulls, and no empty place
LONG = {"agent.critic": "linear", "agent.gae_lambda": 0.9}  # a choice early in a hundred pulls pays late
TEN_PULLS = _published(5.0, 6.6, 6.7, 6.7)
# Published: Duan et al. 2016, tables 1 and 2; means over 1000 tasks, strategies in the best setting of a grid.
SETTINGS: Mapping[str, Setting] = {
    #                                 n  seeds iter. tasks
    "bandit_10_5": Setting(BANDIT, 10, 3, 150, 10_000, FIVE, TEN_PULLS),
    "bandit_10_10": Setting(BANDIT, 10, 3, 150, 10_000, {ARMS: 10}, _published(5.0, 6.6, 6.7, 6.7)),
    "bandit_10_50": Setting(BANDIT, 10, 3, 300, 10_000, {ARMS: 50}, _published(5.1, 6.5, 6.6, 6.8)),
    "mdp_10": Setting(MDP, 10, 3, 200, 1000, {}, _published_mdp(100.1, 138.1, 144.1, 156.2)),
    "bandit_100_5": Setting(BANDIT, 100, 1, 300, 1000, {**FIVE, **LONG}, _published(49.9, 78.3, 78.0, 78.7)),
    "bandit_100_10": Setting(BANDIT, 100, 1, 300, 1000, {ARMS: 10, **LONG}, _published(49.9, 82.8, 82.4, 83.5)),
    "mdp_25": Setting(MDP, 25, 1, 200, 400, {"agent.memory_context": 250}, _published_mdp(250.2, 408.8, 425.2, 445.7)),
    **{
        f"bandit_10_5_{memory}": Setting(
            BANDIT, 10, 1, 150, 10_000, {**FIVE, MEMORY: memory, **context}, TEN_PULLS, beside="bandit_10_5"
        )
        for memory, context in {"lstm": {}, "transformer": LOOK_BACK, "retrieval": LOOK_BACK}.items()
    },
}
SHARED = {
    "eval.every": None,  # only at the end
    "eval.score_episodes": 1,
    "eval.restored_episodes": 1,
    "eval.deterministic": False,  # the policy as it was trained
    "wandb.mode": "disabled",
}
EVAL_TASKS = {BANDIT: 10_000, MDP: 1000}
SMALL = {  # for tests: seconds, and numbers without meaning
    "iterations": 2,
    "meta_batch_size": 4,
    "agent.episodes_per_trial": 3,
    "agent.memory_size": 8,
    "eval.num_tasks": 4,
    "sampler.executor": "in_process",
    "sampler.workers": 0,
}
SMALL_SEEDS = 1


@dataclass(frozen=True)
class MemoryCell(Cell):
    """One run of the study."""

    setting: str

    @property
    def config(self) -> str:
        task = SETTINGS[self.setting].task
        return f"{AGENTS[task]}_{task}"

    def __str__(self) -> str:
        return f"{self.setting}/s{self.seed}"


@dataclass(frozen=True)
class MemoryStudy:
    """The settings that are wanted. ``seeds``: by setting, how many; they are 0, 1, …"""

    name: ClassVar[str] = "rl2"
    settings: list[str]
    seeds: Mapping[str, int]
    small: bool

    @property
    def command(self) -> str:
        """The command that makes it, wherever it is kept."""
        planned = {name: _default_seeds(name, self.small) for name in self.settings}
        return command_line(self.name, {"--settings": (self.settings, SETTINGS)}, self.seeds, planned, self.small)

    def cells(self) -> list[MemoryCell]:
        """All runs, seed by seed, so that a part of them already has all problems."""
        wanted = product(range(max(self.seeds.values())), self.settings)
        return [self._cell(name, seed) for seed, name in wanted if seed < self.seeds[name]]

    def _cell(self, name: str, seed: int) -> MemoryCell:
        setting = SETTINGS[name]
        iterations = SMALL["iterations"] if self.small else setting.iterations
        planned = {
            "iterations": iterations,
            **({"agent.lr_iterations": iterations} if AGENTS[setting.task] == "rl2_ppo" else {}),
            "meta_batch_size": setting.tasks,
            "agent.episodes_per_trial": setting.episodes,
            "eval.num_tasks": EVAL_TASKS[setting.task],
        }
        return MemoryCell(seed, {**planned, **SHARED, **setting.overrides, **(SMALL if self.small else {})}, name)

    def summarise(self, results: Sequence[Result]) -> dict[str, Any]:
        """All numbers as plain JSON data; what has not been run is listed as ``missing_seeds``."""
        settings: dict[str, Any] = {}
        found: dict[str, list[Result]] = {}
        for name in self.settings:
            cells = [self._cell(name, seed) for seed in range(self.seeds[name])]
            found[name], missing = finished(cells, results)
            settings[name] = {
                "task": SETTINGS[name].task,
                "arms": SETTINGS[name].overrides.get(ARMS),
                "episodes": cells[0].overrides["agent.episodes_per_trial"],
                "published": dict(SETTINGS[name].published),
                "seeds": self.seeds[name],
                "missing_seeds": missing,
                "beside": _beside(SETTINGS[name].beside, found, found[name]),
                **_summarise_setting(found[name], self.small),
            }
        return {"command": self.command, "small": self.small, "level": LEVEL, "settings": settings}

    def write_page(self, summary: Mapping[str, Any], page: Path) -> None:
        """Write the page with its picture and curves. Raises StorageError."""
        from metarl.studies.rl2.page import write_page  # matplotlib takes a while

        write_page(summary, page)


def make_study(settings: Sequence[str] | None, seeds: int | None, *, small: bool = False) -> MemoryStudy:
    """The runs of some settings, by default all, in the order of the tables.

    Raises:
        ConfigError: an unknown setting, or no seeds; one line each.
    """
    require_part("rl2", {"setting": (settings or (), SETTINGS)}, seeds)
    chosen = [name for name in SETTINGS if not settings or name in settings]
    return MemoryStudy(chosen, {name: seeds or _default_seeds(name, small) for name in chosen}, small)


def _default_seeds(name: str, small: bool) -> int:
    return SMALL_SEEDS if small else SETTINGS[name].seeds


def estimate(by_seed: Sequence[Floats]) -> dict[str, float]:
    """Mean of one value per held-out task [tasks] for each seed, with standard error and normal 95 % interval.

    The mean is that of the seeds' means. Tasks are taken as drawn anew, seeds as they are: the interval does not
    contain how much further seeds would differ.
    """
    mean = float(np.mean([values.mean() for values in by_seed]))
    error = float(np.sqrt(sum(values.var(ddof=1) / len(values) for values in by_seed)) / len(by_seed))
    return {"mean": mean, "standard_error": error, "low": mean - QUANTILE * error, "high": mean + QUANTILE * error}


def trial_returns(result: Result) -> Floats:
    """Return of a trial of the training length on every held-out task, [tasks]."""
    trained: Floats = _returns(result)[: result.config["agent"]["episodes_per_trial"]].sum(axis=0)
    return trained


def _returns(result: Result) -> Floats:
    """[episodes, tasks], of twice the episodes of training."""
    return np.array(result.final["returns"], dtype=np.float64)


def _beside(
    base: str | None, found: Mapping[str, Sequence[Result]], results: Sequence[Result]
) -> dict[str, Any] | None:
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


def _summarise_setting(results: Sequence[Result], small: bool) -> dict[str, Any]:
    """One setting over all its runs, and the runs themselves."""
    if not results:
        return {"runs": []}
    config = results[0].config
    chosen = references.choose(config, small)
    lines = [references.play(result.config, chosen, small) for result in results]
    trials = [trial_returns(result) for result in results]
    optimum = references.bayes_optimum(config)
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
