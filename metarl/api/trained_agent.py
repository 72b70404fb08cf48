"""A trained agent from its run: adapt it to an environment."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from metarl import run_files
from metarl.agent import Agent
from metarl.api.actor import Actor
from metarl.api.adaptation import Adaptation, Plan, replay
from metarl.api.adapted_policy import AdaptedPolicy
from metarl.api.artifact import as_saved
from metarl.api.episodes import Episode, load_episodes
from metarl.api.fit import AnyEnv, Bounds, Fit, SpacesOnly, fit
from metarl.api.notices import notice
from metarl.config import loading, lookup, strict_yaml
from metarl.config.schema import EvalConfig, LearnerConfig
from metarl.errors import CheckpointError, ConfigError, EnvError
from metarl.run.checkpoint import Checkpoint
from metarl.run.interface import Interface
from metarl.run.restore import restore
from metarl.seeding import Domain, generator
from metarl.tasks import Task, TaskDistribution, held_out_tasks
from metarl.tasks.registration import AutoresetTaskEnv, TaskEnv, task_vector


class TrainedAgent:
    """An agent as a run's checkpoint holds it. It does not change: every adaptation starts from here.

    Attributes:
        run: the run's directory.
        iteration: of the checkpoint.
        interface: what its policy sees and does.
        task: the task section of the run's configuration.
        defaults: the evaluation section, whose numbers of steps and episodes count where none are given.
    """

    def __init__(self, run: Path, found: Checkpoint, allow: Sequence[str], device: str) -> None:
        self.run, self.iteration, self._allow = run, found.iteration, tuple(allow)
        config = _config(run, found)
        with as_saved(f"the configuration of a run in checkpoint {found.iteration} of {run}"):
            self.task: dict[str, Any] = dict(config["task"])
            self.defaults = EvalConfig.model_validate_json(json.dumps(config["eval"]))
            self._seed = int(config["seed"])
            agent, learner = config["agent"], config["learner"]
            name = str(agent["name"])
        self.interface = self._interface(found)
        self._described = {"name": name, "config": agent, "learner": learner, "interface": self.interface.state()}
        self._agent = make_agent(self._described, self.interface, found.tensors.values(), allow, device)
        restore(self._agent, found)

    @property
    def name(self) -> str:
        """What it is called in a configuration, such as ``maml_trpo``."""
        return str(self._described["name"])

    @property
    def remembers(self) -> bool:
        """Whether it adapts by what its policy remembers, and not by gradients."""
        return self._agent.policy().remembers

    @property
    def episodes_per_trial(self) -> int:
        """How many episodes a trial has in training; 1 without a memory."""
        return self._agent.episodes_per_trial

    def held_out_tasks(self) -> list[Task]:
        """The tasks that the run is evaluated on.

        Raises:
            ConfigError: the family is not there, or not allowed.
        """
        return held_out_tasks(self.distribution(), self.defaults.num_tasks, self._seed)

    def make_env(self, task: Task | None = None, render_mode: str | None = None) -> TaskEnv:
        """An environment of the run's task family, with the run's own keys: lineage, horizon, wrappers, action scale.

        Args:
            task: the task; without one, the first of a fixed draw.
            render_mode: ``"rgb_array"`` for pictures, by ``env.render()``.

        Raises:
            ConfigError: the family is not there, or not allowed.
            TypeError: a render mode that there is not, or the family has no pictures.
            ValueError: not a task of the family.
        """
        return TaskEnv.of(self.distribution(), task, render_mode)

    def distribution(self) -> TaskDistribution:
        """The run's task family, with the run's own keys. Raises ConfigError: it is not there, or not allowed."""
        family = lookup.task_distribution(self.task["name"], self._allow)
        with as_saved(f"the task section of {self.run}"):
            config = family.config_class.model_validate_json(json.dumps(self.task))
        lookup.require_allowed(config, self._allow)
        made: TaskDistribution = family(config)
        return made

    def wrap(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """``env`` in the wrappers that stood around the environment in training; itself where there were none.

        Raises:
            ConfigError: they do not go around it.
        """
        return self.interface.wrappers.around(env)

    def adapt(
        self,
        env: AnyEnv,
        *,
        episodes: int | None = None,
        steps: int | None = None,
        env_steps: int | None = None,
        seed: int | None = None,
        task: Task | None = None,
        bounds: Bounds | None = None,
        horizon: int | None = None,
    ) -> AdaptedPolicy:
        """Adapt to the task of an environment, by acting in it. The budget is printed before the first step.

        Agents that adapt by gradients gather ``episodes`` episodes for each of ``steps`` adaptation steps. Agents with
        a memory act in one trial of ``episodes`` episodes. Actions are sampled; every episode is truncated at the run's
        horizon, and what ends earlier ends earlier.

        Args:
            env: an environment of :meth:`make_env`, any other ``gymnasium.Env``, or a vector environment whose lanes
                are all in one task: gradient agents then gather episodes side by side, memory agents one trial a lane.
            episodes: per adaptation step (``eval.adapt_episodes`` of the run); the trial's, with a memory
                (``agent.episodes_per_trial``).
            steps: adaptation steps (``eval.adapt_steps``); an error with a memory.
            env_steps: gather whole episodes until a step has as many (``eval.adapt_env_steps``).
            seed: of all random numbers; without one it is drawn, and kept as ``policy.seed``.
            task: what the policy is told of the task, where it was trained with ``task.reveal`` and the environment is
                not the family's own.
            bounds: see :func:`metarl.api.fit.fit`.
            horizon: another horizon than the run's.

        Raises:
            ConfigError: environment and policy do not fit.
            EnvError: the environment answers something else than it declares.
            NumericError: something is not finite.
        """
        fitted = self._fit(env, bounds, task)
        plan = self._plan(episodes, steps, env_steps, horizon)
        autoreset = _autoreset(env)
        print(f"adapting: {plan.describe()}", file=sys.stderr)
        session = self._session(fitted, plan, seed, autoreset)
        drive(session, env)
        policy: AdaptedPolicy = session.policy
        return policy

    def before(
        self, env: AnyEnv | None = None, *, task: Task | None = None, bounds: Bounds | None = None
    ) -> AdaptedPolicy:
        """The policy before it has adapted; with a memory, at the beginning of a trial. It then adapts while it acts.

        Arguments and errors are those of :meth:`adapt`. Nothing is done in the environment. Without one, observations
        are vectors of the trained size, and actions lie within the trained control range (choices from 0).
        """
        fitted = self._fit_spaces(None, None, bounds, task) if env is None else self._fit(env, bounds, task)
        params, policy = self._agent.policy_parameters(self._agent.init_adapted(1)), self._agent.policy()
        actor = Actor(policy, params, fitted.action, fitted.lanes or 1)
        autoreset = None if env is None else _autoreset(env)
        return AdaptedPolicy(actor, fitted, autoreset=autoreset, described=self._described)

    def adaptation(
        self,
        *,
        episodes: int | None = None,
        steps: int | None = None,
        env_steps: int | None = None,
        seed: int | None = None,
        task: Task | None = None,
        observation_space: gymnasium.Space[Any] | None = None,
        action_space: gymnasium.Space[Any] | None = None,
        bounds: Bounds | None = None,
        horizon: int | None = None,
    ) -> Adaptation:
        """An adaptation that the caller's own loop drives, such as a robot's; see :class:`Adaptation`.

        ``observation_space`` and ``action_space`` say what the loop gives and takes; without them, vectors of the
        trained sizes, and actions within the trained control range (choices from 0). The others are those of
        :meth:`adapt`.
        """
        fitted = self._fit_spaces(observation_space, action_space, bounds, task)
        return self._session(fitted, self._plan(episodes, steps, env_steps, horizon), seed, None)

    def adapt_from(
        self,
        episodes: str | Path | Sequence[Episode],
        *,
        task: Task | None = None,
        observation_space: gymnasium.Space[Any] | None = None,
        action_space: gymnasium.Space[Any] | None = None,
        bounds: Bounds | None = None,
    ) -> AdaptedPolicy:
        """Adapt on episodes that an :class:`Adaptation` of this agent has gathered: those in ``session.episodes``, or
        the folder that ``session.save`` wrote. The other arguments are those of :meth:`adaptation`.

        A policy gradient holds for what its own policy did. So episodes that another policy has gathered are refused.

        Raises:
            CheckpointError: damaged files, or episodes that another policy has gathered.
        """
        found, seed = (
            load_episodes(Path(episodes).expanduser()) if isinstance(episodes, str | Path) else (list(episodes), 0)
        )
        fitted = self._fit_spaces(observation_space, action_space, bounds, task)
        return replay(self._agent, fitted, found, seed=seed, described=self._described)

    def _interface(self, found: Checkpoint) -> Interface:
        """What the checkpoint says; of a run of before, which has none, what its task family says."""
        if found.state.interface is not None:
            return Interface.from_state(found.state.interface, f"checkpoint {self.iteration} of {self.run}")
        notice(f"{self.run}, made by an older metarl, does not hold what its policy sees: its task family is asked")
        return Interface.of(self.distribution())

    def _fit(self, env: AnyEnv, bounds: Bounds | None, task: Task | None) -> Fit:
        base = getattr(env, "unwrapped", None)
        if base is None:
            raise ConfigError(f"expected a gymnasium.Env or a vector environment, got {env!r:.80}")
        if not isinstance(base, TaskEnv | AutoresetTaskEnv):
            return fit(self.interface, env, bounds=bounds, task_vector=self._told(task))
        config = base.distribution.config
        for line in loading.differences(config.model_dump(mode="json"), self.task):
            notice(f"the environment is not as in training: task.{line}")
        return fit(self.interface, env, bounds=bounds, own_scale=config.action_scale)

    def _told(self, task: Task | None) -> NDArray[np.float64] | None:
        """The numbers of a task that the policy is told; None where it is told none. Raises ConfigError."""
        if not self.interface.reveal:
            if task is not None:
                notice("task= is not used: this policy was told no task in training (task.reveal)")
            return None
        if task is None:
            raise ConfigError("task.reveal = True: expected task=, as the policy was told its task in training")
        return task_vector(self.distribution(), task)

    def _fit_spaces(
        self,
        observation_space: gymnasium.Space[Any] | None,
        action_space: gymnasium.Space[Any] | None,
        bounds: Bounds | None,
        task: Task | None,
    ) -> Fit:
        spaces, told = self.interface.spaces, self._told(task)
        own = spaces.observation.size - (0 if told is None else len(told))
        seen = observation_space or Box(-np.inf, np.inf, (own,), np.float32)
        done = action_space
        if done is None and spaces.action.kind == "discrete":
            done = Discrete(spaces.action.size)
        elif done is None:
            low, high = (np.array(side, np.float32) for side in (spaces.action.low, spaces.action.high))
            done = Box(low, high, dtype=np.float32)
        return fit(self.interface, SpacesOnly(seen, done), bounds=bounds, task_vector=told)

    def _plan(self, episodes: int | None, steps: int | None, env_steps: int | None, horizon: int | None) -> Plan:
        for name, value in (("episodes", episodes), ("steps", steps), ("env_steps", env_steps), ("horizon", horizon)):
            least = 0 if name == "steps" else 1
            if value is not None and (not isinstance(value, int | np.integer) or value < least):
                raise ConfigError(f"expected {name} as a whole number, {least} or more, got {value!r}")
        trained = self.interface.horizon
        if horizon is not None and horizon != trained:
            notice(f"episodes of at most {horizon} steps: the agent was trained with {trained}")
        limit = horizon or trained
        if not self.remembers:
            defaults = self.defaults
            return Plan(
                defaults.adapt_steps if steps is None else steps,
                episodes or defaults.adapt_episodes,
                env_steps or (defaults.adapt_env_steps if episodes is None else None),
                limit,
            )
        if steps is not None or env_steps is not None:
            raise ConfigError(
                "expected episodes= alone: this agent has no adaptation steps, it adapts by what its memory holds"
            )
        usual = self.episodes_per_trial
        if episodes is not None and episodes > 2 * usual:
            notice(f"a trial of {episodes} episodes: in training it has {usual}; a memory may drift beyond twice that")
        return Plan(0, episodes or usual, None, limit)

    def _session(self, fitted: Fit, plan: Plan, seed: int | None, autoreset: AutoresetMode | None) -> Adaptation:
        drawn = secrets.randbits(32) if seed is None else seed
        return Adaptation(self._agent, fitted, plan, seed=drawn, described=self._described, autoreset=autoreset)


def make_agent(
    described: Mapping[str, Any],
    interface: Interface,
    tensors: Iterable[Tensor],
    allow: Sequence[str] = (),
    device: str = "cpu",
) -> Agent:
    """The agent of a description, at initial parameters.

    Raises:
        CheckpointError: it is none, or ``tensors``, saved with it, have fewer numbers than it has parameters.
        ConfigError: it is not there, or not allowed.
    """
    with as_saved("an agent"):
        family = lookup.agent(str(described["name"]), allow)
        config = family.config_class.model_validate_json(json.dumps(described["config"]))
        learner = LearnerConfig.model_validate_json(json.dumps(described["learner"]))
        if "auto" in (learner.threads, learner.tasks_per_chunk):
            raise ValueError(f"expected numbers of threads and tasks per chunk, got {learner!r}")
        needed, found = config.num_parameters(interface.spaces), sum(tensor.numel() for tensor in tensors)
    if found < needed:
        raise CheckpointError(f"expected an agent's {needed} parameters, got {found} numbers")
    rng = generator(0, Domain.INIT)
    made: Agent = family(interface.spaces, config, learner, device=torch.device(device), rng=rng)
    return made


def drive(session: Adaptation, env: AnyEnv) -> None:
    """Act in an environment until an adaptation is done."""
    vector = isinstance(env, gymnasium.vector.VectorEnv)
    obs = _first(env.reset(seed=session.reset_seeds()))  # type: ignore[arg-type]
    while not session.done:
        obs, reward, terminated, truncated, info = _outcome(env.step(session.act(obs)))
        again = session.observe(obs, reward, terminated, truncated, final_obs=info.get("final_obs") if vector else None)
        if not np.any(again) or session.done:
            continue
        options = {"reset_mask": again} if vector and not np.all(again) else None
        obs = _first(env.reset(seed=session.reset_seeds(), options=options))  # type: ignore[arg-type]


def _first(answer: Any) -> Any:
    """The observation in what ``reset`` returned. Raises EnvError."""
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise EnvError(f"expected reset to return (observation, info), got {answer!r:.80}")
    return answer[0]


def _outcome(answer: Any) -> tuple[Any, ...]:
    """What ``step`` returned. Raises EnvError."""
    if not (isinstance(answer, tuple) and len(answer) == 5):
        raise EnvError(f"expected step to return (obs, reward, terminated, truncated, info), got {answer!r:.80}")
    return answer


def _config(run: Path, found: Checkpoint) -> Mapping[str, Any]:
    """The configuration's data, from the checkpoint; of a run of before, from its own file."""
    if found.state.config is not None:
        return found.state.config
    problems: strict_yaml.Problems = {}
    parsed = strict_yaml.load(run / run_files.CONFIG, problems)
    if parsed is None or problems:
        raise ConfigError("\n".join(problems.values()))
    return parsed


def _autoreset(env: AnyEnv) -> AutoresetMode | None:
    """How a vector environment resets its lanes; None for a single environment."""
    if not isinstance(env, gymnasium.vector.VectorEnv):
        return None
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise ConfigError(f"{env}: expected metadata['autoreset_mode'], a gymnasium.vector.AutoresetMode, got {mode!r}")
    return mode
