"""Episodes on film: what is kept of them, and that a film shows the agent as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import overrides

import metarl
from metarl.api import film
from metarl.api.filming import FilmedEpisode, film_episode, frame_times, scaled
from metarl.config import loading
from metarl.errors import ConfigError
from metarl.run import runs
from metarl.tasks.registration import make_distribution

pytestmark = pytest.mark.usefixtures("one_torch_thread")
GOAL = {"goal": [0.3, -0.2]}


def trained(root: Path, *changes: str, agent: tuple[str, ...] = ("agent.num_adapt_steps=1",)) -> Path:
    small = [word for word in overrides(root) if not word.startswith(("agent.", "iterations", "eval.adapt"))]
    adapt = ["eval.adapt_steps=2", "eval.adapt_episodes=3", "eval.adapt_env_steps=null"]
    return runs.train(loading.load("maml_trpo_point", [*small, *adapt, *agent, "iterations=1", *changes]))


@pytest.fixture(scope="module")
def gradient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("gradient"))


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent = ("agent.name=rl2_ppo", "agent.memory_size=6", "agent.episodes_per_trial=3", "agent.minibatches=1")
    return trained(tmp_path_factory.mktemp("memory"), agent=agent)


class Straight:
    """To the right, for ever."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def __call__(self, obs: Any) -> Any:
        return np.array([1.0, 0.0])

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        self.told.append(float(reward))


def point(**keys: Any) -> Any:
    import gymnasium

    return gymnasium.make("metarl/Point-v0", render_mode="rgb_array", **keys)


def test_a_film_by_hand() -> None:
    """0.1 a step towards a goal at (0.45, 0): the distances are 0.35, 0.25, 0.15, 0.05, 0.05, …"""
    policy = Straight()
    (episode,) = metarl.record(policy, point(goal=[0.45, 0.0], horizon=5), every=2)
    assert episode.steps == [0, 2, 4, 5] and len(episode.frames) == 4
    assert episode.returns == pytest.approx([0.0, -0.6, -0.8, -0.85])
    assert policy.told == pytest.approx([-0.35, -0.25, -0.15, -0.05, -0.05])
    assert episode.success is None and not episode.terminated
    assert not np.array_equal(episode.frames[0], episode.frames[1])


def test_an_end_of_the_task_itself_is_told() -> None:
    episode = film_episode(Straight(), point(goal=[0.2, 0.0]), 0, every=10)
    assert (episode.steps, episode.terminated) == ([0, 2], True)


def test_success_stays_once_it_was_there() -> None:
    """Within 0.2 of (0.95, 0) from the eighth step, at 0.8, to the eleventh."""
    import gymnasium

    env = gymnasium.make("metarl/PointSemicircle-v0", render_mode="rgb_array", goal=[0.95, 0.0], horizon=14)
    episode = film_episode(Straight(), env, 0, size=60)
    assert episode.success == [False] * 8 + [True] * 7
    assert {frame.shape for frame in episode.frames} == {(60, 60, 3)}


def test_pictures_are_scaled_down_and_never_up() -> None:
    wide = np.zeros((50, 100, 3), np.uint8)
    assert scaled(wide, 40).shape == (20, 40, 3)
    assert scaled(wide, 200) is wide and scaled(wide, None) is wide


@pytest.mark.parametrize(("fps", "expected"), [(20, (1, 20)), (125, (4, 31.25)), (80, (3, 80 / 3)), (None, (1, 30))])
def test_films_run_in_real_time(fps: float | None, expected: tuple[int, float]) -> None:
    class Env:
        metadata = {"render_fps": fps}  # noqa: RUF012

    assert frame_times(Env(), 30.0) == pytest.approx(expected)  # type: ignore[arg-type]


def test_an_environment_without_pictures_is_refused() -> None:
    import gymnasium

    with pytest.raises(ConfigError, match='made with render_mode="rgb_array", got None'):
        metarl.record(Straight(), gymnasium.make("metarl/Point-v0"))


# A run's agent


def plan(**changes: Any) -> film.FilmPlan:
    return film.FilmPlan(**{"tasks": [GOAL], "episodes": 1, "steps": None, "seed": 4, "size": 48, **changes})


def scenes(run: Path, **changes: Any) -> list[film.Scene]:
    agent, chosen = metarl.load(run), plan(**changes)
    return list(film.film(agent, film.environment(agent, chosen.tasks), chosen))


def test_before_and_after_are_the_agents_own_policies(gradient: Path) -> None:
    """The same returns as a loop by hand: adapted with the same seed, from the same start, by the policies' modes."""
    ((before, after),) = scenes(gradient)[0]
    assert (before.title, after.title) == ("before adaptation", "after 2 steps, 6 episodes")
    agent = metarl.load(gradient)
    env = agent.make_env(GOAL)
    for panel, policy in ((before, agent.before(env)), (after, agent.adapt(env, seed=4))):
        (obs, _), total, over = env.reset(seed=0), 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            total, over = total + reward, terminated or truncated
        assert panel.episode.returns[-1] == pytest.approx(total, abs=1e-12)
    assert before.episode.returns[-1] != after.episode.returns[-1]


def test_the_same_seed_gives_the_same_film(gradient: Path) -> None:
    films = [[p.episode for scene in scenes(gradient, episodes=2) for row in scene for p in row] for _ in range(2)]
    assert len(films[0]) == 4
    for one, other in zip(*films, strict=True):
        assert one.returns == other.returns and np.array_equal(one.frames, other.frames)


def test_a_trial_is_filmed_episode_by_episode(memory: Path) -> None:
    """A memory goes on from episode to episode, and each starts from the same place."""
    ((first, second, third),) = scenes(memory, episodes=3)[0]
    assert [panel.title for panel in (first, second, third)] == ["episode 1", "episode 2", "episode 3"]
    assert first.episode.returns[-1] != second.episode.returns[-1]
    assert np.array_equal(first.episode.frames[0], third.episode.frames[0])
    assert film.panels_per_task(metarl.load(memory), None) == 3


def test_the_default_task_is_the_first_that_the_run_is_evaluated_on(gradient: Path) -> None:
    result = runs.evaluate(gradient)
    assert metarl.load(gradient).held_out_tasks() == result["tasks"]


def test_not_a_task_and_too_much_are_refused(gradient: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = metarl.load(gradient)
    for task in ({"direction": 1}, {"goal": None}, {"goal": [1, 2, 3]}):
        with pytest.raises(ConfigError, match="tasks: expected "):
            film.environment(agent, [GOAL, task])
    monkeypatch.setattr(film, "MOST_BYTES", 10_000)
    with pytest.raises(ConfigError, match="24 pictures at once would not fit into memory"):
        scenes(gradient)


def test_bandits_cannot_be_filmed(tmp_path: Path) -> None:
    agent = metarl.load(trained_bandit(tmp_path))
    with pytest.raises(ConfigError, match=r"bernoulli_bandit cannot be filmed: .* has no pictures"):
        film.environment(agent, agent.held_out_tasks()[:1])


def trained_bandit(root: Path) -> Path:
    changes = ["iterations=1", "agent.episodes_per_trial=2", "eval.every=null"]
    kept = [word for word in overrides(root, *changes) if "hidden" not in word and "num_adapt" not in word]
    kept = [word for word in kept if not word.startswith("task.horizon")]
    return runs.train(loading.load("rl2_ppo_bernoulli_bandit", [*kept, "agent.minibatches=1"]))


def test_a_revealed_task_is_told(tmp_path: Path) -> None:
    """The policy before adaptation sees the task where it was trained with it."""
    ((before, _),) = scenes(trained(tmp_path, "task.reveal=true"))[0]
    assert isinstance(before.episode, FilmedEpisode)
    assert make_distribution("point", {"reveal": True}).spaces.observation.size == 4
