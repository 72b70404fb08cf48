"""A run's agent in Meta-World's own evaluation, which is called unchanged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from metarl.api.adaptation import Adaptation
from metarl.api.adapted_policy import AdaptedPolicy
from metarl.api.loading import load
from metarl.api.notices import Notice
from metarl.api.trained_agent import TrainedAgent
from metarl.config import loading, lookup
from metarl.errors import ConfigError, EnvError
from metarl.run import run_dir, runs
from metarl.seeding import Domain, generator
from metarl.surroundings import import_without_graphics
from metarl.tasks import TaskDistribution

SIZE = 39  # numbers of a Meta-World observation; behind them, with `recurrent_info_in_obs`, what happened last
SPACE = Box(-np.inf, np.inf, (SIZE,), np.float64)
WITH_RECURRENT_INFO = SIZE + 4 + 2  # the action, its reward, and whether it ended the episode
# Meta-World+'s numbers; a memory's trial is as long as in training
OF_GRADIENTS = {
    "adapt_steps": "1",
    "adapt_episodes": "10",
    "adapt_env_steps": "null",
    "score_episodes": "3",
    "deterministic": "true",
}
OF_MEMORY = {"restored_episodes": "3", "deterministic": "true"}

Notify = Callable[[Sequence[str]], None]


class MetaWorldAgent:
    """A trained agent as ``metaworld.evaluation.metalearning_evaluation`` takes one, its ``MetaLearningAgent``::

        agent = metarl.MetaWorldAgent("runs/…")
        envs = agent.make_envs()
        success, mean_return, by_class = metalearning_evaluation(agent, envs, num_evals=agent.rounds)

    Every environment of the round is adapted to by itself, with sampled actions within ±1; what is scored is the
    policy's mode. Agents with a memory need ``recurrent_info_in_obs=True`` and
    ``normalize_reward_in_recurrent_info=False`` of the environments, as :meth:`make_envs` has them: an evaluation's
    rewards are told in no other way.

    Meta-World does not tell an episode's last observation. The one before stands for it, where a baseline's value
    behind the horizon is asked for.

    Args:
        run: a run's directory, or its agent.
        adaptation_steps: as many as ``metalearning_evaluation`` is given. With a memory there is one.
        adaptation_episodes: likewise.
        seed: of the noise that adaptation acts with.
    """

    def __init__(
        self, run: str | Path | TrainedAgent, *, adaptation_steps: int = 1, adaptation_episodes: int = 10, seed: int = 0
    ) -> None:
        self.agent = run if isinstance(run, TrainedAgent) else load(run)
        self._steps, self._episodes = adaptation_steps, adaptation_episodes
        if self.agent.remembers and adaptation_steps != 1:
            raise ConfigError(
                f"adaptation_steps = {adaptation_steps}: expected 1, a trial; this agent adapts by what it remembers"
            )
        self._seeds = generator(seed, Domain.ADAPT_NOISE, iteration=2)  # 0 and 1 are of adaptation and acting
        self._sessions: list[Adaptation] = []
        self._policies: list[AdaptedPolicy] = []
        self._paid: NDArray[np.float64] | None = None  # by the last step, as observations are to tell it

    @property
    def rounds(self) -> int:
        """The ``num_evals`` with which :meth:`make_envs` comes through all held-out goals once."""
        return _rounds(self.agent.distribution())

    def make_envs(self) -> Any:
        """Meta-World's vector environment of the held-out classes, with the goals that the run was evaluated on.

        Raises:
            ConfigError: Meta-World has no such evaluation of the run's family.
        """
        return make_envs(self.agent.distribution(), recurrent=self.agent.remembers)

    # What Meta-World calls

    def init(self) -> None:
        """Forget all tasks: others come."""
        self._sessions, self._policies, self._paid = [], [], None

    def adapt_action(self, observations: NDArray[np.float64]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Actions [environments, 4] that adaptation samples.

        Raises:
            EnvError: the environments do not tell a memory what it was paid, or not in the unit of training.
        """
        if not self._sessions:
            self._sessions = [self._session() for _ in observations]
        if self.agent.remembers:
            self._require_rewards(observations)
        actions = [session.act(obs[:SIZE]) for session, obs in zip(self._sessions, observations, strict=True)]
        return np.stack(actions), {}

    def step(self, timestep: Any) -> None:
        """What the last actions came to, a ``metaworld.evaluation.Timestep``."""
        outcomes = zip(timestep.observation, timestep.reward, timestep.terminated, timestep.truncated, strict=True)
        for session, (obs, reward, terminated, truncated) in zip(self._sessions, outcomes, strict=True):
            with warnings.catch_warnings(action="ignore", category=Notice):  # one of every environment
                session.observe(obs[:SIZE], reward, terminated, truncated)
        ended = np.logical_or(timestep.terminated, timestep.truncated)
        self._paid = np.where(ended, 0.0, timestep.reward)  # as the next observations tell: they are resets', then

    def adapt(self) -> None:
        """Adaptation to every environment has come to the end of a step.

        Raises:
            RuntimeError: Meta-World has gathered other numbers of steps or episodes than this agent was made for.
        """
        gathered = {(len(session.history), session.done) for session in self._sessions}
        rows = self._episodes if self.agent.remembers else 1  # of the history, for a step
        done = [length // rows for length, _ in gathered if length % rows == 0]
        if len(gathered) != 1 or not done or not 1 <= done[0] <= self._steps:
            raise RuntimeError(
                f"expected metalearning_evaluation(…, adaptation_steps={self._steps}, "
                f"adaptation_episodes={self._episodes}), as this agent was made for"
            )
        if done[0] == self._steps:
            self._policies = [session.policy for session in self._sessions]

    def reset(self, env_mask: NDArray[np.bool_]) -> None:
        """Episodes begin: a memory goes back to where adaptation has left it."""
        for place in np.flatnonzero(env_mask).tolist():
            self._policies[place].reset()
        self._acted = np.zeros(len(env_mask), np.bool_) if np.all(env_mask) else self._acted & ~env_mask

    def eval_action(self, observations: NDArray[np.float64]) -> NDArray[Any]:
        """Actions [environments, 4], the policies' modes."""
        actions = []
        for policy, obs, acted in zip(self._policies, observations, self._acted.tolist(), strict=True):
            if policy.remembers and acted:
                policy.observe(obs[:SIZE], obs[-2], False, False)
            actions.append(policy(obs[:SIZE]))
        self._acted[:] = True
        return np.stack(actions)

    _acted: NDArray[np.bool_]

    def _require_rewards(self, observations: NDArray[np.float64]) -> None:
        """Raises EnvError unless observations tell what the last step paid."""
        width = observations.shape[1]
        if width != WITH_RECURRENT_INFO:
            found = f"observations of {width} numbers"
        elif self._paid is not None and not np.allclose(observations[:, -2], self._paid):
            found = f"observations that tell rewards of {observations[:3, -2]} … for {self._paid[:3]} …"
        else:
            return
        raise EnvError(
            "expected environments with recurrent_info_in_obs=True and normalize_reward_in_recurrent_info=False, as "
            f"make_envs() has them: this agent adapts by what it is told of its rewards; got {found}"
        )

    def _session(self) -> Adaptation:
        steps = None if self.agent.remembers else self._steps
        seed = int(self._seeds.integers(2**31))
        return self.agent.adaptation(steps=steps, episodes=self._episodes, seed=seed, observation_space=SPACE)


def make_envs(distribution: TaskDistribution, *, recurrent: bool) -> Any:
    """Meta-World's vector environment of a family's held-out goals, as its baselines make it for an evaluation.

    Raises:
        ConfigError: Meta-World has none of this family, or its goals do not come out even.
    """
    config = distribution.config
    _rounds(distribution)
    metaworld = import_without_graphics("metaworld")
    return metaworld.make_ml_envs_test(
        getattr(config, "env", config.name.upper()),
        seed=getattr(config, "goals_seed", 0),
        meta_batch_size=_goals(distribution) * len(distribution.classes("test")),  # type: ignore[attr-defined]
        total_tasks_per_cls=getattr(config, "num_test_goals", None),
        reward_function_version=getattr(config, "reward_version", "v2"),
        max_episode_steps=config.horizon,
        recurrent_info_in_obs=recurrent,
        normalize_reward_in_recurrent_info=False,
    )


def evaluate(
    run: Path,
    overrides: Sequence[str] = (),
    allow: Sequence[str] = (),
    notify: Notify = lambda notices: None,
    *,
    iteration: int | None = None,
) -> dict[str, Any]:
    """Success by Meta-World's own evaluation, and beside it with every held-out goal counting alike.

    Both with Meta-World+'s numbers, one adaptation step of 10 episodes (with a memory, a trial as long as in training)
    and 3 scored by the policy's mode, unless ``overrides`` say otherwise. The other arguments are those of
    :func:`metarl.run.runs.evaluate`.

    Returns:
        ``per_goal``, as :func:`metarl.run.runs.evaluate` gives it; and ``official``: mean ``success`` and ``return``,
        ``by_class`` (its success), the ``rounds`` and how many ``goals`` of a class are in each.

    Raises:
        ConfigError: Meta-World has no evaluation of the run's family.
    """
    opened = run_dir.open_run(run, allow, iteration)
    agent = TrainedAgent(run, opened.checkpoint, allow, "cpu")
    numbers = OF_MEMORY if agent.remembers else OF_GRADIENTS
    given = {word.partition("=")[0] for word in overrides}
    words = [*(f"eval.{key}={value}" for key, value in numbers.items() if f"eval.{key}" not in given), *overrides]
    config = loading.evaluation_config(opened.config, words)
    distribution = lookup.task_distribution(config.task.name, allow)(config.task)
    rounds = _rounds(distribution)
    per_goal = runs.evaluate_opened(run, opened, words, notify, every_task=True)
    # the run's own numbers
    steps, episodes, scored = config.eval.adapt_steps, config.eval.adapt_episodes, config.eval.score_episodes
    if agent.remembers:
        steps, episodes, scored = 1, agent.episodes_per_trial, config.eval.restored_episodes
    lanes = MetaWorldAgent(agent, adaptation_steps=steps, adaptation_episodes=episodes, seed=config.seed)
    envs = make_envs(distribution, recurrent=agent.remembers)
    try:
        evaluation = import_without_graphics("metaworld.evaluation")
        success, mean_return, by_class = evaluation.metalearning_evaluation(
            lanes, envs, rounds, steps, episodes, scored
        )
    finally:
        envs.close()
    official = {"success": success, "return": mean_return, "by_class": {k: float(v) for k, v in by_class.items()}}
    return {"per_goal": per_goal, "official": {**official, "rounds": rounds, "goals": _goals(distribution)}}


def _goals(distribution: TaskDistribution) -> int:
    """How many goals of a class there are in a round."""
    goals = getattr(distribution, "official_goals", None)
    if goals is None and getattr(distribution.config, "drop_shared_class", False):
        raise ConfigError(
            "task.drop_shared_class = true: Meta-World's own evaluation has all five test classes; add "
            "task.drop_shared_class=false, and read the classes one by one"
        )
    if goals is None:
        raise ConfigError(
            f"task.name = {distribution.config.name}: Meta-World's own evaluation is one of ml1, ml10, ml25 and ml45"
        )
    return int(goals)


def _rounds(distribution: TaskDistribution) -> int:
    """How many rounds it takes until every goal has had its turn."""
    goals, number = _goals(distribution), distribution.config.num_test_goals  # type: ignore[attr-defined]
    if number % goals:
        raise ConfigError(
            f"task.num_test_goals = {number}: expected a multiple of {goals}, the goals of a class in a round of "
            "Meta-World's own evaluation"
        )
    return int(number) // goals
