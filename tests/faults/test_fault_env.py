"""The environment that fails where it is told to: each kind of fault comes in its place, and once where it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_envs import FaultConfig, FaultEnv, FaultFamily
from scorecard import HELPERS

TASK = {"target": 0.5, "call": 2, "slot": 1}


def played(kind: Any, at: Any = (2, 1, 1, 3), once: Path | None = None, episodes: int = 3) -> list[Any]:
    """What every step of some episodes answers, five steps each."""
    config = FaultConfig(name="faulty_envs:FaultFamily", horizon=5, kind=kind, at=at, once=once and str(once))
    env, answers = FaultEnv(config), []
    env.set_task(TASK)
    for _ in range(episodes):
        env.reset(seed=0)
        answers += [env.step(np.array([1.0])) for _ in range(5)]
    return answers


@pytest.mark.parametrize("kind", ["nan_obs", "inf_obs", "wrong_shape", "nan_reward", "no_info"])
def test_an_answer_is_spoilt_in_its_place_and_nowhere_else(kind: str) -> None:
    sound, spoilt = played("none"), played(kind)
    differ = [i for i, (one, other) in enumerate(zip(sound, spoilt, strict=True)) if repr(one) != repr(other)]
    assert differ == [5 + 2]  # the third step of the second episode


def test_null_is_any_place() -> None:
    answers = played("nan_reward", at=(2, None, None, 1))
    assert [i for i, answer in enumerate(answers) if np.isnan(answer[1])] == [0, 5, 10]
    assert not any(np.isnan(answer[1]) for answer in played("nan_reward", at=(3, None, None, None)))


def test_once_is_once_over_all_processes(tmp_path: Path) -> None:
    """A worker that is killed leaves the mark behind, and the unit that is run again is sound."""
    code = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parent), str(HELPERS)]!r}
from pathlib import Path
from test_fault_env import played
played("kill", once=Path({str(tmp_path / "mark")!r}))
print("whole")
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(2)]
    assert [(run.returncode, run.stdout) for run in runs] == [(-9, ""), (0, "whole\n")]


def test_what_ends_or_raises() -> None:
    with pytest.raises(ArithmeticError, match="the simulator has failed"):
        played("raise")
    with pytest.raises(SystemExit):
        played("exit")


def test_training_tasks_know_their_call_and_held_out_ones_have_none() -> None:
    family = FaultFamily(FaultConfig(name="faulty_envs:FaultFamily", horizon=5))
    rng = np.random.default_rng(0)
    first, second = (family.sample(2, split="train", rng=rng) for _ in range(2))
    assert [(task["call"], task["slot"]) for task in [*first, *second]] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert {task["call"] for task in family.sample(2, split="test", rng=rng)} == {0}
