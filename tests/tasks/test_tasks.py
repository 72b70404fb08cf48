"""The rules that every task family inherits, seen through the probe family."""

import json
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode
from probe_envs import ProbeConfig, ProbeDistribution, ProbeEnv, episode_length

from metarl.errors import NumericError
from metarl.tasks import balanced_sample

SEED_DRAW = {seed: np_random(seed)[0].random() for seed in range(10)}


def probe(lanes=3, **config) -> ProbeEnv:
    env = ProbeDistribution(ProbeConfig(**config)).make_vector(lanes)
    env.set_tasks([{"id": 10 * (lane + 1)} for lane in range(lanes)])
    return env


def actions(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_observation_and_reward_belong_to_the_lane():
    env = probe()
    obs, info = env.reset(seed=[1, 2, 3])
    assert obs.tolist() == [[10, SEED_DRAW[1], 0, 0], [20, SEED_DRAW[2], 0, 0], [30, SEED_DRAW[3], 0, 0]]
    assert info == {}
    obs, reward, terminated, truncated, _ = env.step(actions(0.5, -0.5, 0.25))
    assert obs.tolist() == [[10, SEED_DRAW[1], 1, 0.5], [20, SEED_DRAW[2], 1, -0.5], [30, SEED_DRAW[3], 1, 0.25]]
    assert reward.tolist() == [10.5, 19.5, 30.25]
    assert not terminated.any() and not truncated.any()


def test_truncation_comes_at_the_horizon_and_then_the_lane_stands_still():
    env = probe(horizon=2)
    env.reset(seed=[1, 2, 3])
    assert not env.step(actions(1, 1, 1))[3].any()
    last = env.step(actions(1, 0.5, 1))
    assert last[3].tolist() == [True, True, True] and last[2].tolist() == [False, False, False]
    obs, reward, terminated, truncated, _ = env.step(actions(0.1, 0.1, 0.1))
    assert np.array_equal(obs, last[0])
    assert reward.tolist() == [0, 0, 0]
    assert truncated.all() and not terminated.any()


def test_reset_mask_restarts_only_its_lanes():
    env = probe(horizon=3)
    env.reset(seed=[1, 2, 3])
    env.step(actions(0.5, 0.5, 0.5))
    obs, _ = env.reset(seed=[7, None, 9], options={"reset_mask": np.array([True, False, False])})
    assert obs.tolist() == [[10, SEED_DRAW[7], 0, 0], [20, SEED_DRAW[2], 1, 0.5], [30, SEED_DRAW[3], 1, 0.5]]
    env.step(actions(0, 0, 0))
    truncated = env.step(actions(0, 0, 0))[3]
    assert truncated.tolist() == [False, True, True]  # the restarted lane counts its own steps
    assert env.step(actions(1, 1, 1))[1].tolist() == [11, 0, 0]


def test_termination_and_truncation_are_told_apart():
    env = probe(lanes=10, horizon=4, ends="random")
    env.reset(seed=list(range(10)))
    length = episode_length(np.array([SEED_DRAW[seed] for seed in range(10)]), 4)
    assert length.min() < 4  # the seeds must include an early end
    for step in range(1, 6):
        _, reward, terminated, truncated, _ = env.step(np.zeros((10, 1)))
        assert terminated.tolist() == (length <= step).tolist()
        assert truncated.tolist() == ((length == 4) & (step >= 4)).tolist()  # both may hold at the horizon
        assert (reward != 0).tolist() == (length >= step).tolist()


def test_a_lane_goes_on_with_its_generator_when_no_seed_is_given():
    env = probe(lanes=2)
    env.reset(seed=[4, 5])
    obs, _ = env.reset(seed=[None, 5])
    expected = np_random(4)[0].random(2)[1]
    assert obs[:, 1].tolist() == [expected, SEED_DRAW[5]]


def test_actions_span_plus_minus_action_scale_and_are_clipped():
    env = probe(action_scale=10.0)
    env.reset(seed=[1, 2, 3])
    obs = env.step(actions(5.0, -1.0, 11.0))[0]
    assert obs[:, 3].tolist() == [0.5, -0.1, 1.0]
    assert env.single_action_space.low.tolist() == [-10] and env.single_action_space.high.tolist() == [10]


def test_a_non_finite_action_is_refused_before_anything_moves():
    env = probe()
    env.reset(seed=[1, 2, 3])
    with pytest.raises(NumericError, match="got 2 non-finite"):
        env.step(actions(np.nan, 0.0, np.inf))
    assert env.step(actions(0, 0, 0))[0][:, 2].tolist() == [1, 1, 1]


@pytest.mark.parametrize("choice", [-1, 3])
def test_a_choice_that_is_none_is_refused(choice):
    """Numpy would take -1 for the last one."""
    env = probe(action="discrete")
    env.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match=rf"expected actions 0 to 2, got \[0, {choice}, 2\]"):
        env.step(np.array([0, choice, 2]))


def test_discrete_actions_arrive_as_they_are():
    env = probe(action="discrete")
    env.reset(seed=[1, 2, 3])
    assert env.step(np.array([0, 2, 1]))[1].tolist() == [10, 22, 31]
    assert env.single_action_space.n == 3


def test_reveal_appends_the_task():
    env = probe(reveal=True)
    obs, _ = env.reset(seed=[1, 2, 3])
    assert obs[:, -1].tolist() == [10, 20, 30]
    assert obs.shape == (3, 5) and env.single_observation_space.shape == (5,)


def test_new_tasks_stop_the_lanes_until_they_are_reset():
    env = probe()
    env.reset(seed=[1, 2, 3])
    env.set_tasks([{"id": 1}, {"id": 2}, {"id": 3}])
    assert env.step(actions(1, 1, 1))[1].tolist() == [0, 0, 0]
    env.reset(seed=[1, 2, 3])
    assert env.step(actions(1, 1, 1))[1].tolist() == [2, 3, 4]


def test_misuse_is_named():
    env = ProbeDistribution(ProbeConfig()).make_vector(2)
    with pytest.raises(RuntimeError, match="set_tasks"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match=r"one task per lane \(2\), got 1"):
        env.set_tasks([{"id": 1}])
    env.set_tasks([{"id": 1}, {"id": 2}])
    with pytest.raises(ValueError, match=r"one seed per lane \(2\), got 3"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="at least one lane"):
        ProbeDistribution(ProbeConfig()).make_vector(0)


def test_lanes_never_reset_themselves():
    assert ProbeEnv.metadata["autoreset_mode"] == AutoresetMode.DISABLED


@pytest.mark.parametrize(("num_tasks", "counts"), [(2, {1: 2}), (6, {1: 6}), (8, {1: 4, 2: 2}), (12, {2: 6})])
def test_finite_splits_are_drawn_in_shuffled_rounds(num_tasks, counts):
    drawn = balanced_sample([{"id": i} for i in range(6)], num_tasks, np.random.default_rng(0))
    assert len(drawn) == num_tasks
    assert Counter(Counter(task["id"] for task in drawn).values()) == counts


def test_the_order_of_tasks_depends_on_the_generator_alone():
    def order(seed: int) -> list[int]:
        choices = [{"id": i} for i in range(6)]
        return [task["id"] for task in balanced_sample(choices, 6, np.random.default_rng(seed))]

    assert order(0) == order(0) != order(1)


def test_train_and_test_splits_differ():
    distribution = ProbeDistribution(ProbeConfig())
    train, test = (
        {task["id"] for task in distribution.sample(6, split=split, rng=np.random.default_rng(0))}
        for split in ("train", "test")
    )
    assert train == {0, 1, 2, 3, 4, 5} and test == {6, 7, 8, 9, 10, 11}


def run_episode(config_json: str, tasks_json: str) -> list[list[float]]:
    """A worker's job: everything it needs comes as JSON."""
    env = ProbeDistribution(ProbeConfig.model_validate_json(config_json)).make_vector(2)
    env.set_tasks(json.loads(tasks_json))
    env.reset(seed=[1, 2])
    return env.step(actions(0.5, 0.5))[0].tolist()


def test_another_process_builds_the_same_environment_from_json():
    distribution = ProbeDistribution(ProbeConfig(horizon=3))
    tasks = distribution.sample(2, split="train", rng=np.random.default_rng(0))
    jobs = (distribution.config.model_dump_json(), json.dumps(tasks))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        assert pool.submit(run_episode, *jobs).result(timeout=60) == run_episode(*jobs)
