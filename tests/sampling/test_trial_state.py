"""Where trials stand: what a policy takes from one collect into another, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from probe_policies import CountingPolicy, MirrorPolicy, ScriptDistribution, shown

from metarl.config.schema import TaskConfig
from metarl.nn.policies import Policy
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.rollout import Arrays, Lanes, Rollout, RolloutUnit, Shared, rollout
from metarl.sampling.sampler import Sampler
from metarl.sampling.trial_state import TrialState
from metarl.seeding import Stream
from metarl.spaces import Space
from metarl.tasks import Task

STREAM, LATER = Stream(root=1, iteration=2, phase=3), Stream(root=1, iteration=2, phase=4)
ADAPTED = [[2, 1], [1, 1]]  # steps of each lane's two episodes


def run(
    lengths: list[list[int]],
    *,
    episodes: int,
    start: TrialState | None = None,
    policy: Policy | None = None,
    deterministic: bool = False,
) -> tuple[Arrays, Rollout]:
    """One task, a lane for each list of lengths; reward 100 + 10·lane + t."""
    tasks: tuple[Task, ...] = ({"n": 1, "lengths": lengths},)
    policy, params = policy or CountingPolicy(), np.array([[0.5]], np.float32)
    stream = STREAM if start is None else LATER
    how = Lanes(tasks, stream, len(lengths), episodes, deterministic, 0, start, start is None)
    found = rollout(RolloutUnit(how), Shared(ScriptDistribution(TaskConfig(name="script", horizon=9)), policy, params))
    return found.arrays | shown(found.arrays), found


def left_by(lengths: list[list[int]]) -> TrialState:
    """Where trials of those lengths stand behind their last episode."""
    state = run(lengths, episodes=len(lengths[0]))[1].state
    assert state is not None
    return state


def test_episodes_start_with_the_memory_that_a_trial_has_left() -> None:
    """Lane 0 remembers 3 steps, lane 1, which ends earlier, 2: what it is shown behind its end does not count."""
    state = left_by(ADAPTED)
    steps = run([[3, 1], [1, 2]], episodes=2, start=state)[0]["shown/steps"][0, :, :, 0].tolist()
    assert steps == [[3, 4, 5, 6], [2, 3, 4, 0]]


def test_what_the_last_step_came_to_is_shown_with_it() -> None:
    """Rewards 100 + 10·lane + t: 102 is lane 0's third, 111 lane 1's second; both episodes were terminated."""
    arrays, _ = run([[2], [2]], episodes=1, start=left_by(ADAPTED))
    assert arrays["shown/prev_reward"][0, :, :, 0].tolist() == [[102, 100], [111, 110]]
    assert arrays["shown/first"][0, :, :, 0].tolist() == [[1, 0], [1, 0]]
    assert arrays["shown/prev_terminated"][0, :, :, 0].tolist() == [[1, 0], [1, 0]]
    assert arrays["shown/prev_action"][0, :, :, 0].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_a_state_serves_more_than_once() -> None:
    state = left_by(ADAPTED)
    once, again = (run([[3], [1]], episodes=1, start=state)[0] for _ in range(2))
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert once["shown/steps"][0, 0, 0] == 3


def test_without_a_state_a_trial_begins() -> None:
    arrays, _ = run([[2, 1, 3, 2]], episodes=4)
    assert arrays["shown/steps"][0, 0, :, 0].tolist() == list(range(8))


def test_scored_by_mode_are_the_episodes_behind_the_adapted_ones() -> None:
    """What a memory adapts by is sampled, as what a gradient adapts by is."""
    noisy = CountingPolicy(scale=0.1)
    sampled, found = run(ADAPTED, episodes=2, policy=noisy)
    assert (sampled["action"][sampled["valid"]] != 0.5).all()
    mode, _ = run([[3], [1]], episodes=1, start=found.state, policy=noisy, deterministic=True)
    assert (mode["action"][mode["valid"]] == 0.5).all() and mode["shown/prev_action"][0, 0, 0] != 0.5


def test_states_travel_in_the_order_of_tasks_and_lanes_whatever_the_units() -> None:
    """Five tasks of two lanes in units of two tasks: rows 2n and 2n + 1 are those of task n."""
    distribution = ScriptDistribution(TaskConfig(name="script", horizon=9))
    tasks: list[Task] = [{"n": n, "lengths": [[n + 1], [1]]} for n in range(5)]
    sampler, params = Sampler(distribution, InProcess(), tasks_per_unit=2), torch.tensor([[0.5]])
    batch, state = sampler.collect_with_state(CountingPolicy(), params, tasks, STREAM, lanes=2)
    assert state.policy_state[0].tolist() == [1, 1, 2, 1, 3, 1, 4, 1, 5, 1]
    assert state.outcome[0].tolist() == batch.reward.gather(2, batch.valid.sum(-1, keepdim=True) - 1).flatten().tolist()
    once: list[Task] = [{**task, "lengths": [[1]] * 4} for task in tasks]
    sampler.collect(CountingPolicy(), params, once[4:], LATER, lanes=4, start=state.rows(slice(8, 10)).repeat(2))
    assert shown({"valid": np.ones((1, 4, 1), bool)})["shown/steps"].ravel().tolist() == [5, 5, 1, 1]


@pytest.mark.parametrize("action", [Space("box", 2, (-1.0,) * 2, (1.0,) * 2), Space("discrete", 3)])
def test_rows_are_taken_repeated_joined_and_chosen(action: Space) -> None:
    """A row is told by its number, in every field."""

    def numbered(*numbers: int) -> TrialState:
        state = TrialState.at_start(CountingPolicy(), action, len(numbers))
        number = torch.tensor(numbers)
        state.policy_state = (number.float(),)
        state.action = number.clone() if action.kind == "discrete" else number[:, None].repeat(1, 2).float()
        state.outcome[0] = number
        return state

    def numbers(state: TrialState) -> list[list[float]]:
        action_rows = state.action.view(len(state.action), -1)[:, 0]
        return [state.policy_state[0].tolist(), action_rows.tolist(), state.outcome[0].tolist()]

    state = numbered(5, 6, 7)
    assert numbers(state.rows(slice(1, 3))) == [[6, 7]] * 3
    assert numbers(state.repeat(2)) == [[5, 5, 6, 6, 7, 7]] * 3
    assert numbers(TrialState.cat([state, numbered(8)])) == [[5, 6, 7, 8]] * 3
    assert numbers(state.where(torch.tensor([True, False, True]), numbered(1, 2, 3))) == [[5, 2, 7]] * 3
    alone = state.where(torch.tensor([False] * 3), None)
    state.outcome[0] = 0
    assert numbers(alone) == [[5, 6, 7]] * 3


def test_a_trial_begins_without_an_action_and_with_a_first_step() -> None:
    box = TrialState.at_start(MirrorPolicy(), Space("box", 2), 3)
    assert box.action.tolist() == [[0, 0]] * 3 and box.outcome.tolist() == [[0] * 3] * 3 + [[1] * 3]
    assert TrialState.at_start(MirrorPolicy(), Space("discrete", 4), 2).action.tolist() == [-1, -1]
