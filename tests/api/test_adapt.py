"""A trained agent adapts to environments: the same numbers, whoever drives the loop."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from export_probes import remembering
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from memory_probes import doors, ppo
from probe_envs import AllAlike, ProbeConfig
from tiny_runs import overrides

import metarl
from metarl.api.actor import Actor
from metarl.api.episodes import trajectory
from metarl.api.fit import SpacesOnly, fit
from metarl.config import loading
from metarl.errors import CheckpointError, ConfigError, EnvError, NumericError
from metarl.run import runs
from metarl.run.interface import Interface
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, Stream, generator
from metarl.spaces import Space, SpaceSpec
from metarl.tasks.registration import TaskEnv
from metarl.tasks.wrappers import Wrappers

HORIZON = 10


def trained(root: Path, config: str, *changes: str) -> Path:
    return runs.train(loading.load(config, overrides(root, "iterations=1", *changes)))


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("point"), "maml_trpo_point")


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recurrent")
    small = [change for change in overrides(root) if not change.startswith(("agent.", "eval.adapt", "iterations"))]
    agent = ["agent.name=rl2_ppo", "agent.memory_size=6", "agent.episodes_per_trial=3", "agent.minibatches=1"]
    return runs.train(loading.load("maml_trpo_point", [*small, *agent, "iterations=1"]))


class Drift(gymnasium.Env[Any, Any]):
    """The point's spaces, no randomness: it moves by the action, and ends after ``ends`` steps, if ever."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-0.1, 0.1, (2,), np.float32)

    def __init__(self, ends: int | None = None) -> None:
        self.ends, self.seeds, self.actions = ends, [], []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.position, self.steps = np.zeros(2, np.float32), 0
        self.seeds.append(seed)
        return self.position.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.actions.append(action)
        self.position = self.position + action
        self.steps += 1
        return self.position.copy(), float(self.position.sum()), self.steps == self.ends, False, {}


def test_adapting_to_the_familys_own_environment_is_what_the_sampler_and_the_agent_make_of_it(point: Path) -> None:
    """One adaptation step by hand: the recorded episodes as a trajectory, and Agent.adapt."""
    agent = metarl.load(point)
    session = agent.adaptation(steps=1, episodes=3, seed=5)
    env = Drift(ends=4)
    while not session.done:
        obs, over = env.reset()[0], False
        while not over:
            obs, *outcome, _ = env.step(session.policy(obs))
            over = session.observe(obs, *outcome)
    assert [episode.env_steps for episode in session.episodes] == [4, 4, 4]
    assert session.policy.history[0].returns == tuple(episode.total for episode in session.episodes)
    # the core's own loop on the same data
    core = agent._agent
    start = core.init_adapted(1)
    batch = trajectory(session.episodes, Actor(core.policy(), start, agent.interface.spaces.action, 1).log_prob)
    batch_rng = generator(5, Domain.ADAPT_LEARNER, phase=0)
    expected = core.adapt(start, batch, step=0, rng=batch_rng)
    assert torch.equal(session.policy.parameters, expected) and not torch.equal(expected, start)
    # and what was recorded fits the distribution: mean + σ·noise has the log-probability that the policy gives it
    unpacked = core.policy().unpack(start)
    mean = core.policy().mlp.forward(unpacked.layers, batch.obs.view(1, -1, 2)).view(batch.obs.shape)
    z = (batch.action - mean) / unpacked.spread
    by_hand = -0.5 * z.square().sum(-1) - unpacked.spread.log().sum() - np.log(2 * np.pi)
    torch.testing.assert_close(batch.log_prob[batch.valid], by_hand[batch.valid], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ends", [None, 4])
def test_the_robots_loop_and_adapt_give_equal_bits(point: Path, recurrent: Path, ends: int | None) -> None:
    for run, how in ((point, {"steps": 2, "episodes": 3}), (recurrent, {"episodes": 3})):
        agent = metarl.load(run)
        adapted = agent.adapt(Drift(ends), seed=5, **how)
        session, env = agent.adaptation(seed=5, **how), Drift(ends)
        obs, _ = env.reset(seed=session.reset_seeds())
        while not session.done:
            obs, *outcome, _ = env.step(session.policy(obs))
            if session.observe(obs, *outcome):
                obs, _ = env.reset(seed=session.reset_seeds())
        assert torch.equal(adapted.parameters, session.policy.parameters)
        assert adapted.history == session.policy.history
        assert np.array_equal(adapted(np.ones(2, np.float32)), session.policy(np.ones(2, np.float32)))


def test_an_environment_without_an_end_is_cut_off_at_the_runs_horizon(point: Path) -> None:
    env = Drift()
    policy = metarl.load(point).adapt(env, steps=1, episodes=2, seed=1)
    assert [step.env_steps for step in policy.history] == [2 * HORIZON]
    with pytest.warns(metarl.Notice, match="at most 3 steps: the agent was trained with 10"):
        policy = metarl.load(point).adapt(Drift(), steps=1, episodes=2, seed=1, horizon=3)
    assert [step.env_steps for step in policy.history] == [6]


def test_env_steps_gather_whole_episodes_until_a_step_has_as_many(point: Path) -> None:
    policy = metarl.load(point).adapt(Drift(ends=4), steps=2, episodes=2, env_steps=13, seed=1)
    assert [step.env_steps for step in policy.history] == [16, 16]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("ends", [None, 4])
def test_every_autoreset_mode_gives_the_trajectory_of_the_single_environment(
    point: Path, recurrent: Path, mode: AutoresetMode, ends: int | None
) -> None:
    """Gradient agents gather the same episodes side by side; each lane of a memory agent has its own trial."""
    agent = metarl.load(point)
    single = agent.adapt(Drift(ends), steps=2, episodes=5, seed=3)
    lanes = SyncVectorEnv([lambda: Drift(ends)] * 2, autoreset_mode=mode)
    several = agent.adapt(lanes, steps=2, episodes=5, seed=3)
    assert torch.equal(single.parameters, several.parameters)
    assert single.history == several.history
    # a memory: lane 0 is the single environment's trial
    agent = metarl.load(recurrent)
    single = agent.adapt(Drift(ends), episodes=3, seed=3)
    several = agent.adapt(SyncVectorEnv([lambda: Drift(ends)] * 2, autoreset_mode=mode), episodes=3, seed=3)
    returns = [step.returns for step in several.history]
    np.testing.assert_allclose([one for one, _ in returns], [one for (one,) in (s.returns for s in single.history)])
    assert all(one != other for one, other in returns)
    for ours, theirs in zip(single.left.policy_state, several.left.policy_state, strict=True):
        torch.testing.assert_close(ours[0], theirs[0])


def test_after_adaptation_a_vector_environment_is_acted_in_as_a_single_one(recurrent: Path) -> None:
    agent, obs = metarl.load(recurrent), None
    for mode in AutoresetMode:
        single = agent.adapt(Drift(ends=3), episodes=2, seed=3)
        several = agent.adapt(SyncVectorEnv([lambda: Drift(3)] * 2, autoreset_mode=mode), episodes=2, seed=3)
        env, lanes = Drift(ends=3), SyncVectorEnv([lambda: Drift(3)] * 2, autoreset_mode=mode)
        obs, many = env.reset()[0], lanes.reset()[0]
        taken, all_taken = [], []
        for _ in range(8):
            action = single(obs)
            obs, reward, terminated, truncated, _ = env.step(action)
            single.observe(obs, reward, terminated, truncated)
            taken.append(action)
            if terminated:
                obs, _ = env.reset()
        for _ in range(8 if mode is not AutoresetMode.NEXT_STEP else 10):
            action = several(many)
            many, reward, terminated, truncated, _ = lanes.step(action)
            several.observe(many, reward, terminated, truncated)
            all_taken.append(action[0])
            if mode is AutoresetMode.DISABLED and terminated.any():
                many, _ = lanes.reset(options={"reset_mask": terminated})
        if mode is AutoresetMode.NEXT_STEP:  # actions 3 and 7 are ignored: the lanes reset themselves
            all_taken = [action for number, action in enumerate(all_taken) if number not in (3, 7)]
        np.testing.assert_allclose(taken, all_taken, rtol=1e-5, atol=1e-6)


def test_a_memory_has_to_be_told_and_goes_back_to_where_adaptation_left_it(recurrent: Path) -> None:
    policy = metarl.load(recurrent).adapt(Drift(), episodes=2, seed=1)
    obs = np.ones(2, np.float32)
    with pytest.raises(RuntimeError, match="expected an action"):
        policy.observe(obs, 0.0, False, False)
    first = policy(obs)
    with pytest.raises(RuntimeError, match=r"expected policy\.observe"):
        policy(obs)
    policy.observe(obs, 100.0, False, False)
    second = policy(obs)
    policy.observe(obs, 0.0, False, False, executed=np.array([0.1, 0.1], np.float32))
    policy.reset()
    assert np.array_equal(policy(obs), first) and not np.array_equal(first, second)
    policy.forget()
    anew = policy(obs)
    assert not np.array_equal(anew, first)


def test_what_was_executed_counts_and_not_what_was_asked_for(recurrent: Path) -> None:
    policy, obs = metarl.load(recurrent).adapt(Drift(), episodes=1, seed=1), np.ones(2, np.float32)
    after = []
    for executed in (None, "same", np.array([0.1, -0.1], np.float32)):
        policy.reset()
        action = policy(obs)
        given = action if isinstance(executed, str) else executed
        policy.observe(obs, 0.0, False, False, executed=given)
        after.append(policy(obs))
    np.testing.assert_allclose(after[0], after[1], rtol=1e-6)
    assert not np.allclose(after[0], after[2], rtol=1e-4)


@pytest.mark.parametrize("memory", ["gru", "transformer", "ntm", "memory_network"])
def test_a_memory_sees_in_ones_own_loop_what_it_sees_in_the_sampler(memory: str) -> None:
    """Three episodes in a row; the second and third depend on rewards, flags and clipped actions of the ones before."""
    distribution = AllAlike(ProbeConfig(horizon=3, num_tasks=2))
    agent = ppo(distribution, memory=memory, memory_context=9, episodes_per_trial=3)
    agent.theta = agent.theta * 3.0
    batch = Sampler(distribution, InProcess()).collect(
        agent.policy(), agent.init_adapted(1), [{"id": 1}], Stream(0, 0, 0), lanes=1, episodes=3, deterministic=True
    )
    assert act(agent, TaskEnv.of(distribution, {"id": 1}), 3) == pytest.approx(
        batch.episode_returns().flatten().tolist(), rel=1e-6
    )


def test_a_memory_that_chooses_is_told_its_choices() -> None:
    distribution = doors()
    agent = ppo(distribution, episodes_per_trial=2)
    batch = Sampler(distribution, InProcess()).collect(
        agent.policy(), agent.init_adapted(1), [{"door": 2}], Stream(0, 0, 0), lanes=1, episodes=2, deterministic=True
    )
    returns = act(agent, TaskEnv.of(distribution, {"door": 2}), 2)
    assert returns == pytest.approx(batch.episode_returns().flatten().tolist())


def act(agent: Any, env: TaskEnv, episodes: int) -> list[float]:
    """Returns of consecutive episodes of a trial, by the policy's mode."""
    interface = Interface.of(env.distribution)
    fitted = fit(interface, env, own_scale=interface.action_scale)
    actor = Actor(agent.policy(), agent.init_adapted(1), fitted.action, 1)
    policy, returns = metarl.AdaptedPolicy(actor, fitted, described={}), []
    for seed in range(episodes):
        obs, over = env.reset(seed=seed)[0], False
        returns.append(0.0)
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            policy.observe(obs, reward, terminated, truncated)
            returns[-1] += reward
            over = terminated or truncated
    return returns


def test_agents_without_a_memory_take_the_same_loop(point: Path) -> None:
    policy, obs = metarl.load(point).adapt(Drift(), steps=1, episodes=2, seed=1), np.ones(2, np.float32)
    first = policy(obs)
    policy.observe(obs, 1.0, False, False)
    assert np.array_equal(policy(obs), first) and np.array_equal(policy(obs), first)
    assert not np.array_equal(policy(obs, sample=True), policy(obs, sample=True))
    many = policy.batch(3)
    assert np.array_equal(many(np.ones((3, 2), np.float32)), np.tile(first, (3, 1)))


class Shifted(Drift):
    """Takes actions in [0, 4] as a column of integers' neighbours."""

    action_space = Box(0.0, 4.0, (2, 1), np.float64)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.position = self.position + action.ravel()
        return self.position.astype(np.float32), 0.0, False, False, {}


def test_action_bounds_that_differ_are_refused_until_something_is_said(point: Path) -> None:
    agent = metarl.load(point)
    with pytest.raises(ConfigError, match=r'expected action bounds \[-0.1, 0.1\].*got \[0, 4\].*bounds="rescale"'):
        agent.adapt(Shifted(), steps=1, episodes=2)
    seen = {}
    for bounds in ("rescale", "clip"):
        env = Shifted()
        policy = agent.adapt(env, steps=1, episodes=2, seed=2, bounds=bounds)
        seen[bounds] = policy(np.array([3.0, -3.0], np.float32)).ravel()
    plain = agent.adapt(Drift(), steps=0)(np.array([3.0, -3.0], np.float32))
    unadapted = {b: agent.adapt(Shifted(), steps=0, bounds=b)(np.array([3.0, -3.0], np.float32)) for b in seen}
    np.testing.assert_allclose(unadapted["rescale"].ravel(), 2 + 20 * plain, rtol=1e-6)
    np.testing.assert_allclose(unadapted["clip"].ravel(), plain.clip(0, 4), rtol=1e-6)


def test_actions_beyond_the_scale_are_clipped_and_choices_start_where_the_space_does() -> None:
    seen = Space("box", 1, (-1.0,), (1.0,))
    scaled = Interface(SpaceSpec(seen, Space("box", 2, (-1.0, 0.0), (1.0, 8.0))), 5, 10.0, False, Wrappers())
    box = Box(np.array([[-1.0], [0.0]], np.float32), np.array([[1.0], [8.0]], np.float32), dtype=np.float32)
    fitted = fit(scaled, SpacesOnly(Box(-9, 9, (1,)), box))
    action, executed = fitted.act(np.array([[5.0, -99.0]], np.float32))
    assert action.dtype == np.float32 and action.tolist() == [[0.5], [0.0]] and executed.tolist() == [[0.5, -1.0]]
    with pytest.raises(NumericError, match="none was passed on"):
        fitted.act(np.array([[np.nan, 0.0]], np.float32))
    choices = Interface(SpaceSpec(seen, Space("discrete", 3)), 5, 1.0, False, Wrappers())
    fitted = fit(choices, SpacesOnly(Discrete(1), Discrete(3, start=4)))
    assert fitted.act(np.array([2]))[0] == 6 and fitted.executed(6).tolist() == [2]
    with pytest.raises(ConfigError, match="expected actions as in training, discrete of size 3"):
        fit(choices, SpacesOnly(Discrete(1), Discrete(4)))
    with pytest.raises(ConfigError, match="expected 1 observations, as in training, got 2"):
        fit(choices, SpacesOnly(Discrete(2), Discrete(3)))


@pytest.mark.parametrize(
    "given, error",
    [
        (np.array([np.nan, 0.0], np.float32), NumericError),
        (np.array([1e39, 0.0]), NumericError),
        (np.zeros(3, np.float32), EnvError),
        ("up", EnvError),
    ],
)
def test_observations_that_no_policy_can_use_reach_none(point: Path, given: Any, error: type[Exception]) -> None:
    policy = metarl.load(point).adapt(Drift(), steps=0)
    with pytest.raises(error, match="expected"):
        policy(given)


def test_episodes_are_saved_and_only_the_policys_own_are_learned_from(
    point: Path, recurrent: Path, tmp_path: Path
) -> None:
    for name, run, how in (("g", point, {"steps": 2, "episodes": 3}), ("m", recurrent, {"episodes": 3})):
        agent = metarl.load(run)
        session, env = agent.adaptation(seed=5, **how), Drift(4)
        obs, _ = env.reset()
        while not session.done:
            obs, *outcome, _ = env.step(session.policy(obs))
            if session.observe(obs, *outcome):
                obs, _ = env.reset()
        again = agent.adapt_from(session.save(tmp_path / name))
        assert torch.equal(again.parameters, session.policy.parameters) and again.history == session.policy.history
        seen = np.ones(2, np.float32)
        assert np.array_equal(again(seen), session.policy(seen))
        foreign = [episode for episode in session.episodes if episode.step == how.get("steps", 2) - 1]
        if name == "g":
            with pytest.raises(CheckpointError, match="gradients hold for what the policy itself did"):
                agent.adapt_from(foreign)


def test_a_broken_off_episode_is_dropped_and_said(point: Path, recurrent: Path) -> None:
    for run, how in ((point, {"steps": 1, "episodes": 2}), (recurrent, {"episodes": 2})):
        agent = metarl.load(run)
        whole = agent.adapt(Drift(4), seed=5, **how)
        session, env = agent.adaptation(seed=5, **how), Drift(4)
        obs, steps = env.reset()[0], 0
        while not session.done:
            obs, *outcome, _ = env.step(session.policy(obs))
            over, steps = session.observe(obs, *outcome), steps + 1
            if steps == 6:  # in the middle of the second episode
                with pytest.warns(metarl.Notice, match="an unfinished episode of 2 steps was dropped"):
                    session.drop_episode()
                over = True
            if over:
                obs, _ = env.reset()
        assert session.policy.history == whole.history and torch.equal(session.policy.parameters, whole.parameters)


def test_an_adapted_policy_is_saved_and_loaded_without_its_run(point: Path, recurrent: Path, tmp_path: Path) -> None:
    for name, run in (("g", point), ("m", recurrent)):
        copy = tmp_path / f"run_{name}"
        shutil.copytree(run, copy)
        policy = metarl.load(copy).adapt(Drift(4), episodes=2, seed=5)
        folder = policy.save(tmp_path / name)
        shutil.rmtree(copy)
        loaded = metarl.load_policy(folder)
        assert loaded.history == policy.history and loaded.seed == 5
        for _ in range(3):
            obs = np.array([0.3, -0.2], np.float32)
            assert np.array_equal(loaded(obs), policy(obs))
            for each in (loaded, policy):
                each.observe(obs, 1.0, False, False)
    content = bytearray((folder / "tensors.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "tensors.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        metarl.load_policy(folder)


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mujoco", "metaworld", "wandb") or name == "metarl.envs.point":
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[3])
import metarl, numpy as np
from test_adapt import Drift
policy = metarl.load(sys.argv[1]).adapt(Drift(4), steps=1, episodes=2, seed=5)
policy.save(sys.argv[2])
print(metarl.load_policy(sys.argv[2])(np.ones(2, np.float32)).tolist())
"""


def test_neither_the_task_family_nor_simulators_nor_wandb_are_needed(point: Path, tmp_path: Path) -> None:
    arguments = [str(point), str(tmp_path / "policy"), str(Path(__file__).parent)]
    helpers = str(Path(__file__).parents[1] / "helpers")
    program = f"import sys; sys.path.insert(0, {helpers!r})\n{BLOCKED}"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = metarl.load(point).adapt(Drift(4), steps=1, episodes=2, seed=5)(np.ones(2, np.float32))
    assert done.stdout.strip() == str(expected.tolist())
    assert "adapting: 1 × 2 episodes of at most 10 steps: at most 20 environment steps" in done.stderr


@pytest.mark.parametrize("name", ["RecordVideo", "HumanRendering", "vector", "__loader__"])
def test_wrappers_that_no_configuration_may_name_come_from_no_checkpoint_either(name: str) -> None:
    """A run from elsewhere could write files with them."""
    with pytest.raises(ConfigError, match=f"the wrapper {name}: (cannot be used here|no such wrapper)"):
        Wrappers(((name, {}),)).around(Drift())


# Policies that are told their task


class Told(Drift):
    """With the task's numbers behind its own, as the point's family has them where it reveals."""

    observation_space = Box(-np.inf, np.inf, (4,), np.float32)

    def __init__(self, goal: list[float]) -> None:
        super().__init__()
        self.goal = np.array(goal, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        own, info = super().reset(seed=seed)
        return np.concatenate([own, self.goal]), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        own, *outcome = super().step(action)
        return (np.concatenate([own, self.goal]), *outcome)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> metarl.TrainedAgent:
    root = tmp_path_factory.mktemp("oracle")
    return metarl.load(trained(root, "maml_trpo_point", "task.reveal=true"))


def test_a_policy_that_was_told_its_task_is_told_it_again(oracle: metarl.TrainedAgent) -> None:
    goal = {"goal": [0.25, -0.5]}
    by_us = oracle.adapt(Drift(), task=goal, steps=1, episodes=2, seed=3)
    by_env = untold(oracle).adapt(Told(goal["goal"]), steps=1, episodes=2, seed=3)
    other = oracle.adapt(Drift(), task={"goal": [0.5, 0.5]}, steps=1, episodes=2, seed=3)
    assert torch.equal(by_us.parameters, by_env.parameters) and not torch.equal(by_us.parameters, other.parameters)
    assert np.array_equal(by_us(np.zeros(2, np.float32)), by_env(np.array([0, 0, 0.25, -0.5], np.float32)))


def untold(agent: metarl.TrainedAgent) -> metarl.TrainedAgent:
    """The same agent, as if its observations had no task in them but what the environment gives."""
    twin = metarl.load(agent.run)
    twin.interface = replace(twin.interface, reveal=False)
    return twin


def test_in_the_own_family_the_environment_tells_the_task(oracle: metarl.TrainedAgent) -> None:
    env = oracle.make_env({"goal": [0.25, -0.5]})
    assert env.observation_space.shape == (4,)
    assert oracle.adapt(env, steps=1, episodes=2, seed=3).parameters.shape[0] == 1


def test_a_robots_loop_is_told_the_task_once(oracle: metarl.TrainedAgent) -> None:
    """The loop gives what its sensors say; the session appends the task, and equals the driver."""
    env, task = Drift(), {"goal": [0.25, -0.5]}
    session = oracle.adaptation(task=task, steps=1, episodes=2, seed=3)
    obs, _ = env.reset()
    while not session.done:
        obs, *outcome, _ = env.step(session.policy(obs))
        if session.observe(obs, *outcome):
            obs, _ = env.reset()
    expected = oracle.adapt(Drift(), task=task, steps=1, episodes=2, seed=3)
    assert torch.equal(session.policy.parameters, expected.parameters)


@pytest.mark.parametrize("way", ["adapt", "adaptation", "adapt_from"])
def test_a_task_that_is_not_told_is_an_error(way: str, oracle: metarl.TrainedAgent) -> None:
    given: dict[str, list[Any]] = {"adapt": [Drift()], "adaptation": [], "adapt_from": [[]]}
    with pytest.raises(ConfigError, match=r"task\.reveal = True: expected task=, as the policy was told its task"):
        getattr(oracle, way)(*given[way])


class Answers(gymnasium.Env[Any, Any]):
    """Answers what it is told to."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-0.1, 0.1, (2,), np.float32)

    def __init__(self, reset: Any, step: Any) -> None:
        self.answers = reset, step

    def reset(self, **_: Any) -> Any:
        return self.answers[0]

    def step(self, action: Any) -> Any:
        return self.answers[1]


@pytest.mark.parametrize(
    ("reset", "step", "told"),
    [
        (None, None, "expected reset to return (observation, info), got None"),
        ((np.zeros(2), {}), (np.zeros(2), 0.0, False, {}), "expected step to return (obs, reward, terminated,"),
    ],
)
def test_an_environment_that_answers_something_else_is_told(point: Path, reset: Any, step: Any, told: str) -> None:
    with pytest.raises(EnvError, match=re.escape(told)):
        metarl.load(point).adapt(Answers(reset, step), bounds="clip", episodes=1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": 1.5}, "expected steps as a whole number, 0 or more, got 1.5"),
        ({"episodes": "2"}, "expected episodes as a whole number, 1 or more, got '2'"),
        ({"env_steps": 0}, "expected env_steps as a whole number, 1 or more, got 0"),
        ({"bounds": "foo"}, "bounds = 'foo': expected 'rescale' or 'clip', or None"),
    ],
)
def test_arguments_of_another_kind_are_told_before_anything_moves(
    point: Path, given: dict[str, Any], told: str
) -> None:
    agent = metarl.load(point)
    with pytest.raises(ConfigError, match=re.escape(told)):
        agent.adapt(agent.make_env(), **given)
    with pytest.raises(ConfigError, match=r"expected a gymnasium\.Env or a vector environment, got None"):
        agent.adapt(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"gaol": [0.1, 0.2]}, "it lacks 'goal'"),
        ({"goal": None}, 'expected tasks like {"goal": [0.3, -0.2]}, got '),
    ],
)
def test_what_is_no_task_of_the_family_is_told(point: Path, task: Any, told: str) -> None:
    agent = metarl.load(point)
    env = agent.make_env()
    for give in (agent.make_env, lambda task: env.reset(options={"task": task})):
        with pytest.raises(ValueError, match=re.escape(told)):
            give(task)
    with pytest.raises(ConfigError, match=re.escape(told)):
        metarl.Run(point).evaluate(tasks=[task])
    with pytest.raises(ValueError, match=re.escape("a task of point that maps names to values, got [0.1, 0.2]")):
        agent.make_env([0.1, 0.2])  # type: ignore[arg-type]


def test_a_policy_of_no_lanes_is_refused(point: Path) -> None:
    agent = metarl.load(point)
    with pytest.raises(ValueError, match="expected at least one lane, got 0"):
        agent.adapt(agent.make_env(), episodes=1, steps=0).batch(0)


@pytest.mark.parametrize("memory", ["gru", "transformer", "retrieval", "memory_network"])
def test_reset_goes_back_also_where_a_memory_has_written_over_what_it_held(memory: str, tmp_path: Path) -> None:
    """Some memories write into their own tensors. Adaptation, of 30 steps, has filled all of their 16 places."""
    policy = remembering(memory)
    saved = metarl.load_policy(policy.save(tmp_path / "policy"))
    rounds = []
    for _ in range(2):
        actions = []
        for number in range(8):
            actions.append(policy(np.full(5, 0.1 * number)))
            policy.observe(None, 1.0, False, False)
        rounds.append(np.stack(actions))
        policy.reset()
    assert np.array_equal(rounds[0], rounds[1]) and np.ptp(rounds[0]) > 0.01
    again = metarl.load_policy(policy.save(tmp_path / "again"))
    for ours, theirs in zip(again.left.policy_state, saved.left.policy_state, strict=True):
        assert torch.equal(ours, theirs)
