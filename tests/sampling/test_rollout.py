"""The rollout unit: every number ends up in its task, lane and time, for exactly as many episodes as were asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from probe_envs import ProbeConfig, ProbeDistribution, ProbeEnv, episode_length
from probe_policies import MirrorPolicy, NaNPolicy, ScriptDistribution, UniformMirrorPolicy, shown

from metarl.config.schema import TaskConfig
from metarl.envs.point import PointConfig, PointDistribution
from metarl.errors import NumericError
from metarl.nn.policies import MLPPolicy, Policy, init_parameters, make_policy
from metarl.sampling.rollout import (
    Arrays,
    Lanes,
    RolloutUnit,
    Shared,
    close_environments,
    draw_reset_seeds,
    record,
    rollout,
)
from metarl.seeding import Domain, Stream, generator
from metarl.tasks import Task, TaskDistribution

STREAM = Stream(root=1, iteration=2, phase=3)

# Horizon 3. Lanes take 3 and 6, 4 and 4 steps; every kind of end is there.
SCRIPT: list[Task] = [
    {"n": 1, "lengths": [[1, 2], [3, 9]]},  # terminated, terminated; both at once, truncated
    {"n": 2, "lengths": [[9, 1], [2, 2]]},  # truncated, terminated; terminated, terminated
]


def run(
    distribution: TaskDistribution,
    policy: Policy,
    tasks: list[Task],
    params: Any,
    *,
    lanes: int,
    episodes: int = 1,
    first_slot: int = 0,
    stream: Stream = STREAM,
    deterministic: bool = False,
) -> Arrays:
    rows = np.asarray(params, dtype=np.float32)
    how = Lanes(tuple(tasks), stream, lanes, episodes, deterministic, first_slot)
    arrays = rollout(RolloutUnit(how, rows), Shared(distribution, policy, None)).arrays
    return arrays | (shown(arrays) if isinstance(policy, MirrorPolicy) else {})


def script(**kwargs: Any) -> ScriptDistribution:
    return ScriptDistribution(TaskConfig(name="script", **{"horizon": 3, **kwargs}))


def run_script(policy: Policy | None = None, params: Any = ((0.1,), (0.2,))) -> Arrays:
    return run(script(), policy or MirrorPolicy(), SCRIPT, params, lanes=2, episodes=2)


def assert_same_up_to_padding(found: Arrays, expected: Arrays) -> None:
    """The same numbers; where one of them goes on for longer, it is zero there."""
    assert found.keys() == expected.keys()
    for name, values in found.items():
        short, long = sorted((values, expected[name]), key=lambda field: field.shape[2] if field.ndim > 2 else 0)
        if name not in ("final_obs", "diverged"):
            assert not long[:, :, short.shape[2] :].any(), name
            long = long[:, :, : short.shape[2]]
        np.testing.assert_array_equal(short, long, err_msg=name)


def probe(**kwargs: Any) -> ProbeDistribution:
    return ProbeDistribution(ProbeConfig(**kwargs))


def point(horizon: int) -> PointDistribution:
    return PointDistribution(PointConfig(name="point", horizon=horizon))


def network(distribution: TaskDistribution, num_tasks: int, init_std: float = 0.7) -> tuple[MLPPolicy, torch.Tensor]:
    """A small policy and different parameters for each task."""
    policy = make_policy(distribution.spaces, (8,), "tanh", min_std=1e-6)
    rows = [init_parameters(policy, init_std, generator(9, Domain.INIT, task_slot=slot)) for slot in range(num_tasks)]
    return policy, torch.stack(rows)


def bits(text: str) -> list[bool]:
    return [character == "x" for character in text]


def test_every_observation_and_reward_lies_at_its_task_lane_and_time() -> None:
    """An observation is 100·n + 10·e + t: misplaced by one task, lane or step it is another number."""
    arrays = run_script()
    assert arrays["obs"][..., 0].tolist() == [
        [[100, 101, 102, 0, 0, 0], [110, 111, 112, 113, 114, 115]],
        [[200, 201, 202, 203, 0, 0], [210, 211, 212, 213, 0, 0]],
    ]
    assert arrays["reward"].tolist() == arrays["obs"][..., 0].tolist()


def test_episodes_follow_one_another_without_gaps() -> None:
    arrays = run_script()
    assert arrays["obs"][..., 1].tolist() == [  # the episode's number
        [[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]],
        [[0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0]],
    ]
    assert arrays["valid"].tolist() == [[bits("xxx..."), bits("xxxxxx")], [bits("xxxx.."), bits("xxxx..")]]
    assert arrays["first"].tolist() == [[bits("xx...."), bits("x..x..")], [bits("x..x.."), bits("x.x...")]]


def test_terminated_and_truncated_mark_last_steps_and_never_merge() -> None:
    arrays = run_script()
    assert arrays["terminated"].tolist() == [[bits("x.x..."), bits("..x...")], [bits("...x.."), bits(".x.x..")]]
    assert arrays["truncated"].tolist() == [[bits("......"), bits("..x..x")], [bits("..x..."), bits("......")]]


def test_final_observations_are_those_before_the_reset() -> None:
    """A reset would show the next episode's number, 1 or 2, in the second place."""
    assert run_script()["final_obs"].tolist() == [
        [[[101, 0], [103, 1]], [[113, 0], [116, 1]]],
        [[[203, 0], [204, 1]], [[212, 0], [214, 1]]],
    ]


def test_padding_is_zero_in_every_field() -> None:
    arrays = run_script(MirrorPolicy(scale=1.0))
    padding = ~arrays["valid"]
    assert padding.sum() == 3 + 0 + 2 + 2
    for name, values in arrays.items():
        if name not in ("valid", "final_obs", "diverged"):
            assert not values[padding].any(), name
            assert values[arrays["valid"]].any(), name


def test_success_is_recorded_step_by_step_and_ends_nothing() -> None:
    tasks = [{**SCRIPT[0], "succeeds": [0, 4]}, SCRIPT[1]]
    arrays = run(script(), MirrorPolicy(), tasks, [[0.1], [0.2]], lanes=2, episodes=2)
    # Lane 0 of task 1 plays 3 steps in all, so its time 4 never comes; task 2 knows no success.
    assert arrays["success"].tolist() == [[bits("x....."), bits("x...x.")], [bits("......"), bits("......")]]
    plain = run_script()
    assert "success" not in plain
    for name in plain:
        assert np.array_equal(arrays[name], plain[name]), name


def test_a_diverged_lane_is_truncated_at_its_last_good_state_and_plays_on() -> None:
    """Lane 1 diverges in its step 1: reward 0, cut off there, and its second episode follows."""
    tasks = [{**SCRIPT[0], "diverges": 1}, SCRIPT[1]]
    arrays = run(script(), MirrorPolicy(), tasks, [[0.1], [0.2]], lanes=2, episodes=2)
    cut = [[False, False], [True, True]], [[False, False], [False, False]]
    assert arrays["diverged"].tolist() == list(cut)  # the lane's time stands still: it diverges at once again
    assert arrays["truncated"][0, 1].tolist() == bits(".xx.")
    assert not arrays["terminated"][0, 1].any()
    assert arrays["reward"][0, 1].tolist() == [110, 0, 0, 0]
    assert arrays["final_obs"][0, 1].tolist() == [[111, 0], [111, 1]]
    plain = run_script()
    assert_same_up_to_padding(
        {name: values[1:] for name, values in arrays.items()}, {name: values[1:] for name, values in plain.items()}
    )
    assert np.array_equal(arrays["reward"][0, 0], plain["reward"][0, 0, :4])


def test_arrays_end_with_the_longest_lane() -> None:
    arrays = run(script(), MirrorPolicy(), [{"n": 1, "lengths": [[1], [2]]}], [[0.1]], lanes=2)
    assert arrays["valid"].tolist() == [[[True, False], [True, True]]]
    assert {values.shape[2] for name, values in arrays.items() if name not in ("final_obs", "diverged")} == {2}


def test_shapes_and_dtypes() -> None:
    arrays = run_script()
    assert {name: (values.shape[2:], values.dtype.name) for name, values in arrays.items()} == {
        "obs": ((6, 2), "float32"),
        "action": ((6, 1), "float32"),
        "reward": ((6,), "float32"),
        "terminated": ((6,), "bool"),
        "truncated": ((6,), "bool"),
        "first": ((6,), "bool"),
        "valid": ((6,), "bool"),
        "log_prob": ((6,), "float32"),
        "final_obs": ((2, 2), "float32"),
        "diverged": ((2,), "bool"),
        "shown/obs": ((6, 2), "float32"),
        **{f"shown/{name}": ((6, 1), "float32") for name in ("prev_action", "prev_reward", "prev_terminated")},
        **{f"shown/{name}": ((6, 1), "float32") for name in ("prev_truncated", "first", "steps")},
    }
    assert {values.shape[:2] for values in arrays.values()} == {(2, 2)}
    recorded = [values for name, values in arrays.items() if not name.startswith("shown/")]
    assert all(values.flags.c_contiguous for values in recorded)


def test_each_task_acts_with_its_own_parameters() -> None:
    """Action = parameter; the "log-probability" of the probe policy is 10·parameter − action."""
    arrays = run_script(params=[[0.25], [-0.5]])
    valid = arrays["valid"]
    for task, value in enumerate((0.25, -0.5)):
        assert set(arrays["action"][task][valid[task]].ravel().tolist()) == {value}
        assert set(arrays["log_prob"][task][valid[task]].tolist()) == {9 * value}


def test_the_policy_sees_the_last_reward_of_an_episode() -> None:
    """Together with the next episode's first observation; zeros only at the start of the trial (a known bug of RL²)."""
    seen = {
        name: run_script()[f"shown/{name}"][1, 0, :4, 0].tolist() for name in ("prev_reward", "prev_action", "first")
    }
    assert seen["prev_reward"] == [0, 200, 201, 202]
    assert seen["first"] == [1, 0, 0, 1]
    assert seen["prev_action"] == pytest.approx([0, 0.2, 0.2, 0.2])


def test_the_policy_sees_how_the_last_episode_ended() -> None:
    arrays = run_script()
    assert arrays["shown/prev_terminated"][0, 1, :, 0].tolist() == [0, 0, 0, 1, 0, 0]  # ended both ways after 3 steps
    assert arrays["shown/prev_truncated"][0, 1, :, 0].tolist() == [0, 0, 0, 1, 0, 0]
    assert arrays["shown/prev_terminated"][1, 1, :4, 0].tolist() == [0, 0, 1, 0]
    assert arrays["shown/prev_truncated"][1, 1, :4, 0].tolist() == [0, 0, 0, 0]
    assert arrays["shown/prev_truncated"][1, 0, :4, 0].tolist() == [0, 0, 0, 1]


def test_a_one_step_bandit_shows_its_reward_to_the_policy() -> None:
    task: Task = {"n": 3, "lengths": [[1, 1, 1, 1]]}
    arrays = run(script(), MirrorPolicy(), [task], [[0.0]], lanes=1, episodes=4)
    assert arrays["shown/prev_reward"][0, 0, :4, 0].tolist() == [0, 300, 301, 302]
    assert arrays["shown/prev_terminated"][0, 0, :4, 0].tolist() == [0, 1, 1, 1]
    assert arrays["shown/first"][0, 0, :4, 0].tolist() == [1, 1, 1, 1]


def test_the_policys_state_lives_through_a_trial() -> None:
    """It is reset per trial, not per episode."""
    assert run_script()["shown/steps"][0, 1, :, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_the_policy_acts_on_the_observation_that_is_recorded() -> None:
    arrays = run_script()
    np.testing.assert_array_equal(arrays["shown/obs"], arrays["obs"])


@pytest.mark.parametrize(("action_scale", "executed"), [(1.0, 1.0), (10.0, 0.25)])
def test_the_action_is_recorded_as_drawn_and_shown_as_executed_in_units_of_the_control_range(
    action_scale: float, executed: float
) -> None:
    arrays = run(script(action_scale=action_scale), MirrorPolicy(), SCRIPT, [[2.5], [2.5]], lanes=2, episodes=2)
    assert set(arrays["action"][arrays["valid"]].ravel().tolist()) == {2.5}
    assert arrays["shown/prev_action"][0, 1, :, 0].tolist() == [0] + 5 * [executed]


def test_every_lane_runs_its_own_episodes_to_their_ends() -> None:
    """Episodes of random length: the j-th of a lane is the one of the lane's j-th reset seed, however long it is.

    A sampler that stops at a number of steps, or drops unfinished episodes, has too many short ones.
    """
    distribution = probe(ends="random", horizon=5)
    arrays = run(distribution, MirrorPolicy(), [{"id": 0}, {"id": 1}], [[0.0], [0.0]], lanes=100, episodes=3)
    seeds = draw_reset_seeds(STREAM, 0, 2, 100, 3)
    draws = np.array([np.random.default_rng(seed).random() for seed in seeds.ravel()])
    lengths = episode_length(draws, 5).reshape(2, 100, 3)
    assert set(lengths.ravel().tolist()) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(arrays["valid"].sum(-1), lengths.sum(-1))
    for task, lane in np.ndindex(2, 100):
        starts = np.flatnonzero(arrays["first"][task, lane])
        assert starts.tolist() == [0, *np.cumsum(lengths[task, lane])[:2].tolist()]
    np.testing.assert_array_equal(arrays["obs"][..., 1][arrays["first"]], draws.astype(np.float32))
    np.testing.assert_array_equal(arrays["final_obs"][..., 2], lengths)


def test_noise_is_one_block_per_lane_from_the_lanes_own_stream() -> None:
    arrays = run(probe(), MirrorPolicy(scale=1.0), [{"id": 0}, {"id": 1}], [[0.0], [0.0]], lanes=3, first_slot=4)
    for task, lane in np.ndindex(2, 3):
        expected = STREAM.noise(4 + task, lane).standard_normal((5, 1), dtype=np.float32)
        np.testing.assert_array_equal(arrays["action"][task, lane], expected)


def test_uniform_noise_for_policies_that_want_it() -> None:
    arrays = run(probe(), UniformMirrorPolicy(scale=1.0), [{"id": 0}], [[0.0]], lanes=2)
    expected = [STREAM.noise(0, lane).random((5, 1), dtype=np.float32) for lane in range(2)]
    np.testing.assert_array_equal(arrays["action"][0], expected)


@pytest.mark.parametrize(
    "distribution", [probe(ends="random"), PointDistribution(PointConfig(name="point", horizon=6))]
)
def test_a_task_alone_gives_the_bits_it_gives_among_others(distribution: TaskDistribution) -> None:
    policy, params = network(distribution, 5)
    tasks = distribution.sample(5, split="train", rng=generator(0, Domain.TASKS))
    together = run(distribution, policy, tasks, params, lanes=4, episodes=2)
    alone = run(distribution, policy, tasks[3:4], params[3:4], lanes=4, episodes=2, first_slot=3)
    assert_same_up_to_padding(alone, {name: values[3:4] for name, values in together.items()})


def test_a_lane_does_not_notice_how_many_others_there_are() -> None:
    few = run(probe(ends="random"), MirrorPolicy(scale=1.0), [{"id": 0}, {"id": 1}], [[0.0], [1.0]], lanes=2)
    many = run(probe(ends="random"), MirrorPolicy(scale=1.0), [{"id": 0}, {"id": 1}], [[0.0], [1.0]], lanes=7)
    assert_same_up_to_padding(few, {name: values[:, :2] for name, values in many.items()})


def test_first_actions_differ_between_lanes_tasks_phases_and_iterations() -> None:
    """Forked workers that share a generator would draw the same ones."""
    streams = [Stream(1, 0, 0), Stream(1, 0, 1), Stream(1, 1, 0), Stream(2, 0, 0), Stream(1, 0, 0, evaluation=True)]
    first = [
        run(probe(), MirrorPolicy(scale=1.0), [{"id": 0}, {"id": 0}], [[0.0], [0.0]], lanes=4, stream=stream)
        for stream in streams
    ]
    assert len({action for arrays in first for action in arrays["action"][:, :, 0].ravel().tolist()}) == 5 * 2 * 4
    assert len({draw for arrays in first for draw in arrays["obs"][:, :, 0, 1].ravel().tolist()}) == 5 * 2 * 4


def test_a_unit_run_twice_gives_the_same_bits_even_after_a_failed_one() -> None:
    first = run_script(MirrorPolicy(scale=1.0))
    with pytest.raises(NumericError):
        run_script(NaNPolicy())
    again = run_script(MirrorPolicy(scale=1.0))
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def forward(policy: MLPPolicy, params: torch.Tensor, obs: np.ndarray) -> np.ndarray:
    """The network's outputs in float64, layer by layer: one task's parameters [P], observations [M, obs]."""
    values = params.double().numpy()
    hidden, start = obs.astype(np.float64), 0
    shapes = [shape for shape in policy.mlp.shapes().values() if len(shape) == 2]
    for layer, (rows, columns) in enumerate(shapes):
        weight = values[start : start + rows * columns].reshape(rows, columns)
        bias = values[start + rows * columns : start + (rows + 1) * columns]
        start += (rows + 1) * columns
        hidden = hidden @ weight + bias
        hidden = np.tanh(hidden) if layer < len(shapes) - 1 else hidden
    return hidden


def test_recorded_log_probabilities_are_the_gaussians() -> None:
    distribution = point(horizon=20)
    policy, params = network(distribution, 3)
    tasks = distribution.sample(3, split="train", rng=generator(0, Domain.TASKS))
    arrays = run(distribution, policy, tasks, params, lanes=5)
    std = 0.7
    for task, lane in np.ndindex(3, 5):
        valid = arrays["valid"][task, lane]
        mean = forward(policy, params[task], arrays["obs"][task, lane][valid])
        z = (arrays["action"][task, lane][valid] - mean) / std
        log_prob = (-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(-1)
        np.testing.assert_allclose(arrays["log_prob"][task, lane][valid], log_prob, atol=1e-5)


def test_deterministic_is_the_mode_and_draws_nothing() -> None:
    distribution = probe()
    policy, params = network(distribution, 2)
    tasks: list[Task] = [{"id": 0}, {"id": 1}]
    arrays = run(distribution, policy, tasks, params, lanes=2, deterministic=True)
    sampled = run(distribution, policy, tasks, params, lanes=2)
    for task in range(2):
        np.testing.assert_allclose(
            arrays["action"][task], forward(policy, params[task], arrays["obs"][task]), atol=1e-6
        )
        assert (np.abs(sampled["action"][task] - forward(policy, params[task], sampled["obs"][task])) > 1e-6).all()
    np.testing.assert_array_equal(sampled["obs"][:, :, 0], arrays["obs"][:, :, 0])  # the resets are the same


def test_discrete_actions_are_choices_from_start_to_end() -> None:
    """Parameter 1 and noise u in [0, 1): choice (1 + ⌊3u⌋) mod 3; the reward is id + choice."""
    tasks: list[Task] = [{"id": 10}, {"id": 20}]
    policy = UniformMirrorPolicy(discrete=True)
    arrays = run(probe(action="discrete"), policy, tasks, [[1.0], [1.0]], lanes=4, episodes=2)
    assert arrays["action"].shape == (2, 4, 10)
    assert arrays["action"].dtype == np.int64
    for task, lane in np.ndindex(2, 4):
        uniform = STREAM.noise(task, lane).random(10, dtype=np.float32)
        expected = (1 + np.floor(3 * uniform)) % 3
        np.testing.assert_array_equal(arrays["action"][task, lane], expected)
        np.testing.assert_array_equal(arrays["reward"][task, lane], tasks[task]["id"] + expected)
        np.testing.assert_array_equal(arrays["shown/prev_action"][task, lane, 1:, 0], expected[:-1])


def test_recorded_log_probabilities_of_choices() -> None:
    distribution = probe(action="discrete")
    policy, params = network(distribution, 2)
    tasks: list[Task] = [{"id": 0}, {"id": 1}]
    arrays = run(distribution, policy, tasks, params, lanes=6)
    for task, lane in np.ndindex(2, 6):
        logits = forward(policy, params[task], arrays["obs"][task, lane])
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        chosen = log_p[np.arange(5), arrays["action"][task, lane]]
        np.testing.assert_allclose(arrays["log_prob"][task, lane], chosen, atol=1e-5)
    mode = run(distribution, policy, tasks, params, lanes=2, deterministic=True)
    for task in range(2):
        np.testing.assert_array_equal(mode["action"][task], forward(policy, params[task], mode["obs"][task]).argmax(-1))


@pytest.mark.parametrize("what", ["observation", "reward"])
@pytest.mark.parametrize(
    ("added", "got"),
    [(math.nan, ", got .*nan"), (math.inf, ", got .*inf"), (1e39, r" that float32 can hold, got .*1e\+39")],  # 3.4e38
)
def test_what_is_not_finite_from_the_environment_is_an_error_that_names_the_place(
    what: str, added: float, got: str
) -> None:
    tasks = [SCRIPT[0], {**SCRIPT[1], "spoilt": {what: added}}]
    with pytest.raises(NumericError, match=rf"expected finite {what}s{got}") as caught:
        run(script(), MirrorPolicy(), tasks, [[0.0], [0.0]], lanes=2, episodes=2)
    assert "lane" in str(caught.value)
    assert "'n': 2" in str(caught.value)


def test_a_nan_action_is_an_error_that_names_the_place() -> None:
    with pytest.raises(NumericError, match="expected finite actions") as caught:
        run_script(NaNPolicy(at=1))
    assert "step 1 of lane 0 of task slot 0, {'n': 1" in str(caught.value)


def test_reset_seeds_belong_to_task_slots() -> None:
    """Slots 2 and 3 of four tasks get what they get alone; a lane's row does not depend on later lanes."""
    all_seeds = draw_reset_seeds(STREAM, 0, 4, 3, 2)
    assert all_seeds.shape == (12, 2)
    assert len(set(all_seeds.ravel().tolist())) == 24
    assert all_seeds.min() >= 0
    assert all_seeds.max() < 2**31
    np.testing.assert_array_equal(draw_reset_seeds(STREAM, 2, 2, 3, 2), all_seeds[6:])
    np.testing.assert_array_equal(draw_reset_seeds(STREAM, 0, 1, 2, 2), all_seeds[:2])


def test_a_unit_describes_itself_for_error_messages() -> None:
    unit = RolloutUnit(Lanes(tuple(SCRIPT), STREAM, lanes=4, first_slot=5))
    for part in ("5", "6", "'n': 1", "4 lanes", "1 episodes", "iteration 2", "phase 3"):
        assert part in unit.describe()


class RenamedProbe(ProbeDistribution):
    """The same configuration and module as :class:`TenfoldProbe`, other tasks."""


class TenfoldProbe(ProbeDistribution):
    """Its environment multiplies the task's number by ten."""

    def make_vector(self, num_lanes: int) -> Any:
        env = super().make_vector(num_lanes)
        assign = env._assign
        env._assign = lambda tasks: assign([{"id": 10 * task["id"]} for task in tasks])  # type: ignore[method-assign]
        return env


def test_two_families_of_one_module_do_not_share_an_environment() -> None:
    """The process keeps its environment from unit to unit; the family is part of what it is kept for."""
    first = run(RenamedProbe(ProbeConfig()), MirrorPolicy(), [{"id": 3}], [[0.0]], lanes=1)
    second = run(TenfoldProbe(ProbeConfig()), MirrorPolicy(), [{"id": 3}], [[0.0]], lanes=1)
    assert first["obs"][0, 0, 0, 0] == 3
    assert second["obs"][0, 0, 0, 0] == 30


def test_an_environment_of_ones_own_gives_the_bits_of_the_recipe() -> None:
    policy, params = MirrorPolicy(scale=0.1), np.array([[0.1], [0.2]], np.float32)
    how = Lanes(tuple(SCRIPT), STREAM, lanes=2, episodes=2)
    found = record(script().make_vector(4), policy, params, how).arrays
    expected = rollout(RolloutUnit(how, params), Shared(script(), policy, None)).arrays
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


class GradientEnv(ProbeEnv):
    """Takes gradients wherever its own code runs: of a number of its own, and of one made when it was built."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._weight = torch.ones(1, requires_grad=True)

    def _slope(self) -> float:
        fresh = torch.full((1,), 3.0, requires_grad=True)
        (own,) = torch.autograd.grad((fresh.square() * self._weight).sum(), self._weight)
        fresh.square().sum().backward()
        assert fresh.grad is not None and own.item() == 9.0
        return fresh.grad.item()

    def _assign(self, tasks: Sequence[Task]) -> None:
        assert self._slope() == 6.0
        super()._assign(tasks)

    def _reset_lanes(self, lanes: Any, rngs: Any) -> None:
        assert self._slope() == 6.0
        super()._reset_lanes(lanes, rngs)

    def _advance(self, controls: Any, live: Any) -> Any:
        reward, ended = super()._advance(controls, live)
        return reward + self._slope(), ended


class GradientProbe(ProbeDistribution):
    def make_vector(self, num_lanes: int) -> ProbeEnv:
        return GradientEnv(num_lanes, self.spaces, self.config)


def test_environments_may_take_gradients_and_the_policy_does_not() -> None:
    tasks, plain = [{"id": 1}, {"id": 2}], probe()
    policy, params = network(plain, 2)
    families = (plain, GradientProbe(ProbeConfig()))
    rewards = [run(family, policy, tasks, params, lanes=2, episodes=2)["reward"] for family in families]
    np.testing.assert_allclose(rewards[1], rewards[0] + 6.0, rtol=1e-6)


def test_environments_are_closed_when_others_take_their_place_and_in_the_end() -> None:
    made = []

    class Kept(ProbeDistribution):
        def make_vector(self, num_lanes: int) -> Any:
            made.append(super().make_vector(num_lanes))
            return made[-1]

    close_environments()
    run(Kept(ProbeConfig()), MirrorPolicy(), [{"id": 0}], [[0.0]], lanes=1)
    run(Kept(ProbeConfig()), MirrorPolicy(), [{"id": 0}], [[0.0]], lanes=1)
    assert [env.closed for env in made] == [False]
    run(Kept(ProbeConfig()), MirrorPolicy(), [{"id": 0}], [[0.0]], lanes=2)
    assert [env.closed for env in made] == [True, False]
    close_environments()
    assert [env.closed for env in made] == [True, True]
