"""What a family's methods give is compared with what it declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probe_envs import ProbeConfig, ProbeDistribution, ProbeEnv

from metarl.errors import EnvError
from metarl.tasks import Task

TASKS: list[Task] = [{"id": 0}, {"id": 1}]


def env_with(*, reveal: bool = False, **methods: Any) -> ProbeEnv:
    """Two lanes of the probe family, some of whose methods give what ``methods`` say."""
    env = ProbeDistribution(ProbeConfig(reveal=reveal)).make_vector(2)
    for name, value in methods.items():
        setattr(env, name, lambda *args, value=value: value)
    env.set_tasks(TASKS)
    return env


@pytest.mark.parametrize(
    "observation", [np.zeros((2, 1)), np.zeros((1, 4)), np.zeros(8), np.full((2, 4), "a"), [[0.0] * 4] * 2]
)
def test_observations_of_another_shape_or_kind_are_refused(observation: Any) -> None:
    with pytest.raises(EnvError, match=r"ProbeEnv: expected observations, numbers in an array of shape \(2, 4\), got"):
        env_with(_observe=observation).reset(seed=[1, 2])


def test_with_the_task_revealed_both_parts_are_looked_at() -> None:
    with pytest.raises(EnvError, match=r"task vectors to reveal, .* shape \(2, 1\), got float64 of \(1, 1\)"):
        env_with(reveal=True, _task_vectors=np.zeros((1, 1))).reset(seed=[1, 2])
    with pytest.raises(EnvError, match=r"observations without the task, .* shape \(2, 4\), got float64 of \(2, 5\)"):
        env_with(reveal=True, _observe=np.zeros((2, 5))).reset(seed=[1, 2])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((np.zeros((2, 1)), np.zeros(2, bool)), r"a reward per lane, .* shape \(2,\), got float64 of \(2, 1\)"),
        ((0.0, np.zeros(2, bool)), "a reward per lane, .* got float 0.0"),
        ((np.zeros(2), np.zeros(2)), "terminated per lane, bools .* got float64"),
        ((np.zeros(2), False), "terminated per lane, bools .* got bool False"),
        ((np.zeros(2), np.zeros((2, 1), bool)), r"terminated per lane, bools .* got bool of \(2, 1\)"),
    ],
)
def test_rewards_and_flags_of_another_shape_or_kind_are_refused(answer: Any, words: str) -> None:
    env = env_with(_advance=answer)
    env.reset(seed=[1, 2])
    with pytest.raises(EnvError, match=words):
        env.step(np.zeros((2, 1)))


def test_a_reset_that_is_not_finite_is_refused_with_its_lane_and_task() -> None:
    env = env_with()
    env.reset(seed=[1, 2])
    observe = ProbeEnv._observe

    def poisoned() -> Any:
        obs = observe(env)
        obs[1, 2] = np.nan
        return obs

    env._observe = poisoned  # type: ignore[method-assign]
    env.reset(seed=[1, 2], options={"reset_mask": np.array([True, False])})  # not lane 1's reset: that is not judged
    with pytest.raises(EnvError, match=r"finite observations from a reset, .*nan.* in lane 1 with task {'id': 1}"):
        env.reset(seed=[1, 2])


def test_an_observation_that_is_a_view_does_not_change_afterwards() -> None:
    env = env_with()
    state = np.zeros((2, 6))
    env._observe = lambda: state[:, :4]  # type: ignore[method-assign]
    seen, _ = env.reset(seed=[1, 2])
    state += 1.0
    assert not seen.any()
