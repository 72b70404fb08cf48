"""What a comparison takes of a run: its records, whatever code made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metarl.report.curves import GRADIENT, Curves, adapted_point, trained, unit_of
from metarl.report.estimates import ANY, Scores

State = Literal["running", "finished", "stopped"]


@dataclass(frozen=True)
class ComparedRun:
    """A run's configuration and records."""

    path: str  # as people are shown it
    config: Mapping[str, Any]  # resolved; has a seed, and a task and an agent that have names
    curves: Curves
    versions: Mapping[str, Any]
    state: State
    names: Sequence[str] | None = None  # which task each return of the newest evaluation is of; None: not known

    @property
    def seed(self) -> int:
        """The root of its random streams."""
        return int(self.config["seed"])

    @property
    def agent(self) -> str:
        """The agent's name; of a class of the user's own, the class's."""
        return str(self.config["agent"]["name"]).rpartition(":")[2]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """What it has recorded, oldest first."""
        return self.curves.evaluations

    @property
    def final(self) -> dict[str, Any]:
        """The newest evaluation; a run that is compared has one."""
        return self.evaluations[-1]

    @property
    def tasks(self) -> list[Any] | None:
        """The held-out tasks of that evaluation; None: records of before do not name them."""
        return self.final.get("tasks") or None

    @property
    def unit(self) -> str:
        """What its adaptation is counted in."""
        return unit_of(self.final)

    @property
    def point(self) -> int:
        """The point of its adaptation curve with as much adaptation as in training; the last where that had none."""
        return adapted_point(self.final, trained(self.config, self.curves))

    @property
    def scores(self) -> Scores:
        """Its newest evaluation, as figures are made of."""
        returns = np.array(self.final["returns"], dtype=np.float64)  # None becomes NaN
        return Scores(self.seed, returns, self.names or [ANY] * returns.shape[1])

    @property
    def iteration_steps(self) -> float:
        """Environment steps of its longest iteration, as far as is recorded."""
        steps = [0, *(line["env_steps"] for line in self.curves.training if "env_steps" in line)]
        gaps = np.diff(steps)
        return float(gaps.max()) if gaps.size else self.final["env_steps"] / max(1, self.final["iteration"])

    def by_steps(self, line: Mapping[str, Any]) -> float | None:
        """How far training was at an evaluation, in environment steps."""
        return float(line["env_steps"])

    def by_hours(self, line: Mapping[str, Any]) -> float | None:
        """The same in hours of training and evaluation; None: not recorded."""
        lines = (one for one in self.curves.training if one["iteration"] == line["iteration"])
        seconds = next(lines, {}).get("perf/seconds")
        return None if seconds is None else float(seconds) / 3600

    @property
    def is_by_gradient(self) -> bool:
        """Whether it adapts by gradient steps, not by what a memory keeps of episodes."""
        return self.unit == GRADIENT
