"""What agents with a memory share: the policy, trials as samples, critics, normalisers and state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from metarl.agent import Agent, load_named_parameters, named_parameters, require_tensors
from metarl.config.schema import AgentConfig, LearnerConfig, RunConfig, TaskConfig
from metarl.errors import NumericError
from metarl.learning.baselines import memory_of_fits
from metarl.learning.critics import Critic, LinearCritic, TrialSteps, ValueHead
from metarl.learning.reduce import Parts
from metarl.learning.returns import discounted_returns, explained_variance, finite_horizon_gae, normalize
from metarl.learning.trials import LEARNED_FROM, Credit, Trials, ends, seen, time_features
from metarl.nn.memories.make import Kind, make_memory
from metarl.nn.memories.memory import Memory, State
from metarl.nn.memories.retrieval import Metric
from metarl.nn.memory_policy import FLAGS, MemoryParameters, MemoryPolicy, init_memory_parameters
from metarl.nn.mlp import MLP, Activation
from metarl.nn.normalization import RunningMoments
from metarl.nn.policies import action_distribution, require_spread, without_spread
from metarl.parallel import TaskMap, task_chunks
from metarl.spaces import SpaceSpec
from metarl.types import Metrics, Trajectory

LOOKS_UP: tuple[Kind, ...] = ("transformer", "retrieval", "memory_network")  # they keep single steps
USES: Mapping[str, tuple[Sequence[Kind], str]] = {  # key → the memories that it is for; what is said of the others
    "memory_context": ((*LOOKS_UP, "ntm"), "looks up no earlier steps"),
    "memory_heads": (("transformer", "retrieval", "ntm"), "has no heads"),
    "memory_width": (("ntm",), "has no slots"),
    "memory_hops": (("memory_network",), "makes no hops"),
    "retrieval_metric": (("retrieval",), "compares no situations"),
}


class MemoryAgentConfig(AgentConfig):
    """Settings of the policy, its memory, and of advantages over trials."""

    usual_rollouts: ClassVar[int] = 2
    less_memory: ClassVar[str] = "a smaller meta_batch_size or rollouts_per_task, in a new run"
    threads_matter: ClassVar[bool] = True  # each takes a part of the trials, and operations see other sizes
    episodes_per_trial: PositiveInt = Field(
        2, description="episodes of a trial in training, 2 or more; the memory lives as long"
    )
    memory: Kind = Field(
        "gru", description="gru, lstm, transformer, retrieval, ntm, or memory_network: what remembers the trial"
    )
    memory_size: PositiveInt = Field(128, description="width of the memory; of an ntm, of its controller")
    memory_context: PositiveInt = Field(
        128,
        description="transformer, retrieval, memory_network: the steps that can be looked up, the latest ones; at "
        "least a trial's; ntm: slots, any number, as it writes over them",
    )
    memory_heads: PositiveInt | None = Field(
        None,
        description="transformer, retrieval: heads that look, by default 4; ntm: heads that read, and as many that "
        "write, by default 1",
    )
    memory_width: PositiveInt = Field(20, description="ntm: numbers in a slot")
    memory_hops: PositiveInt = Field(3, description="memory_network: looks at what is remembered, one after another")
    retrieval_metric: Metric = Field(
        "cosine",
        description="retrieval: how like each other situations are, by their embeddings: dot = their product; cosine = "
        "that of unit vectors (matching network); weighted_l1 = minus a learned distance (Siamese network)",
    )
    encoder_sizes: list[PositiveInt] = Field([], description="widths of layers between the input and the memory")
    activation: Activation = Field("tanh", description="activation of these layers")
    init_std: PositiveFloat = Field(1.0, description="initial standard deviation of a Gaussian policy, in action units")
    min_std: PositiveFloat = Field(1e-6, description="floor of that standard deviation")
    normalize_obs: bool = Field(
        False, description="normalise observations by their running moments, which change at meta-updates only"
    )
    normalize_reward: bool = Field(
        False,
        description="divide rewards as the policy's input by their running standard deviation, which changes at "
        "meta-updates only",
    )
    reward_input_scale: PositiveFloat = Field(1.0, description="factor on rewards as the policy's input")
    gamma: float = Field(0.99, ge=0, le=1, description="discount factor")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="λ of generalised advantage estimation; 1 = Monte Carlo")
    credit: Credit = Field(
        "trial", description="trial = an action is credited with later episodes too; episode = with its own alone"
    )
    critic: Literal["value_head", "linear", "linear_per_task"] = Field(
        "value_head",
        description="value_head = learned on the memory's features and the time; linear = linear feature baseline, "
        "fitted to all trials together; linear_per_task = to each task's by themselves, which needs many more steps "
        "per task than inputs",
    )
    advantage_norm: Literal["std", "none"] = Field(
        "std", description="over all trials of an iteration: std = (A − μ)/σ; none = as estimated"
    )
    entropy_coef: NonNegativeFloat = Field(0.0, description="weight of the policy's entropy beside that of advantages")

    @model_validator(mode="after")
    def _a_spread_that_can_change(self) -> MemoryAgentConfig:
        require_spread(self.init_std, self.min_std)
        return self

    @model_validator(mode="after")
    def _a_memory_of_that_size(self) -> MemoryAgentConfig:
        try:
            self.make_memory(1)
        except ValueError as error:
            raise ValueError(f"memory = {self.memory} of memory_size = {self.memory_size}: {error}") from error
        return self

    def make_memory(self, input_size: int) -> Memory:
        """The memory for that many inputs. Raises ValueError: there is none of such sizes."""
        return make_memory(
            self.memory,
            input_size,
            self.memory_size,
            heads=self.memory_heads,
            context=self.memory_context,
            width=self.memory_width,
            hops=self.memory_hops,
            metric=self.retrieval_metric,
        )

    def work(self, run: RunConfig) -> int:
        per_step = self.make_memory(1).num_parameters
        episodes = run.meta_batch_size * run.rollouts_per_task * self.episodes_per_trial
        return per_step * episodes * run.task.horizon

    def conflicts(self, run: RunConfig) -> list[str]:
        found = []
        if self.episodes_per_trial < 2:
            reason = "what is learned is to use in one episode what the ones before have shown"
            found.append(f"agent.episodes_per_trial = {self.episodes_per_trial}: expected at least 2, because {reason}")
        if isinstance(run.task, TaskConfig):
            trial = f"agent.episodes_per_trial = {self.episodes_per_trial}, task.horizon = {run.task.horizon}"
            found += self._trial_conflicts(self.episodes_per_trial * run.task.horizon, trial)
        return found

    def num_parameters(self, spaces: SpaceSpec) -> int:
        return make_memory_policy(spaces, self).num_parameters

    def memory_needs(self, run: RunConfig, spaces: SpaceSpec) -> dict[str, int]:
        observations, parameters = spaces.observation.size, self.num_parameters(spaces)
        words = f"agent.memory_size = {self.memory_size}: with {observations} observations there are"
        needs = {f"{words} {parameters} parameters": 4 * parameters}
        if self.critic != "value_head":
            fits = run.meta_batch_size if self.critic == "linear_per_task" else 1
            inputs = observations + spaces.action.size + FLAGS
            needs |= memory_of_fits(inputs, fits, f"agent.critic = {self.critic}", "value_head")
        return needs

    def without_effect(self, run: RunConfig) -> dict[str, str]:
        found = {"learner.tasks_per_chunk": "agents with a memory learn from whole trials, cut into learner.shares"}
        keys = ("adapt_steps", "adapt_episodes", "adapt_env_steps", "score_every")
        found |= {f"eval.{key}": "the agent adapts by what it remembers, not by steps" for key in keys}
        for key, (kinds, reason) in USES.items():
            if self.memory not in kinds:
                found[f"agent.{key}"] = f"agent.memory = {self.memory} {reason}"
        if not self.encoder_sizes:
            found["agent.activation"] = "agent.encoder_sizes = [] has no layers"
        if run.task.actions_are_choices:
            found |= without_spread()
        return found

    def parts(self, run: RunConfig) -> tuple[str, int]:
        shares = run.learner.shares
        assert shares != "auto"
        return f"learner.shares = {shares}", shares

    @property
    def looks_up(self) -> bool:
        """Whether the memory keeps single steps, ``memory_context`` of them."""
        return self.memory in LOOKS_UP

    def _trial_conflicts(self, steps: int, trial: str) -> list[str]:
        """What does not go with trials of that many steps; ``trial`` says where these come from."""
        if not self.looks_up or self.memory_context >= steps:
            return []
        reason = f"memory = {self.memory} would forget the start of a trial ({trial}) before its end"
        return [f"agent.memory_context = {self.memory_context}: expected at least {steps}, because {reason}"]


class MemoryAgent(Agent):
    """A policy that adapts by what it remembers of its trial; θ changes in training only."""

    config: MemoryAgentConfig
    num_adapt_steps = 0

    def __init__(
        self,
        spaces: SpaceSpec,
        config: AgentConfig,
        learner: LearnerConfig,
        *,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        assert isinstance(config, self.config_class) and isinstance(config, MemoryAgentConfig)
        assert learner.threads != "auto"
        self.config = config
        self._shares = learner.threads if learner.shares == "auto" else learner.shares
        self.episodes_per_trial = config.episodes_per_trial
        threads = learner.threads if device.type == "cpu" else 1
        self._map = TaskMap(threads=threads, chunk=1, interrupt=lambda: self.interrupt())
        self._policy = make_memory_policy(spaces, config)
        self._moments = RunningMoments(spaces.observation.size) if config.normalize_obs else None
        self._rewards = RunningMoments(1, name="rewards") if config.normalize_reward else None
        self._critic = make_critic(config)
        self.theta = init_memory_parameters(self._policy, config.init_std, rng).to(device)
        self._start_afresh()

    def policy(self) -> MemoryPolicy:
        return self._policy

    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        """θ once, for all tasks: [1, P]."""
        return self.theta[None]

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        """Nothing to do: what adapts is the state that the policy carries."""
        return adapted

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        if len(batches) != 1:
            raise ValueError(f"expected 1 phase, got {len(batches)}")
        batch = batches[0].on(self.theta.device, LEARNED_FROM)
        before = self.theta, [moments.state() for moments in self._critic.moments]
        # the batch as trials with values and advantages
        trials, metrics = self._trials(batch)
        # the critic's units, and the update itself; all or nothing
        try:
            metrics |= self._improve(self._in_critics_units(trials), rng)
        except NumericError:
            self.theta = before[0]
            for moments, state in zip(self._critic.moments, before[1], strict=True):
                moments.load_state(state)
            raise
        # what the next batch is normalised by
        self._update_normalisers(batches[0])
        return metrics | _first_and_last_episode(batches[0])

    @abstractmethod
    def _improve(self, trials: Trials, rng: np.random.Generator) -> Metrics:
        """Update θ. On a NumericError the optimiser is as before."""

    def _start_afresh(self) -> None:
        """Set up what an agent keeps besides θ, such as an optimiser, for new parameters."""

    def state(self) -> dict[str, Tensor]:
        state = named_parameters(self._policy.shapes(), self.theta)
        for moments in self._normalisers():
            state |= moments.state()
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        require_tensors({name: tuple(tensor.shape) for name, tensor in self.state().items()}, state)
        self._load_policy(state)
        for moments in self._normalisers():
            moments.load_state(state)

    def load_parameters(self, state: dict[str, Tensor]) -> None:
        self._load_policy(state)
        for moments in self._normalisers():
            if moments.state().keys() <= state.keys():
                moments.load_state(state)
        self._start_afresh()

    def _normalisers(self) -> list[RunningMoments]:
        return [moments for moments in (self._moments, self._rewards, *self._critic.moments) if moments]

    def _load_policy(self, state: dict[str, Tensor]) -> None:
        self.theta = load_named_parameters(self._policy.shapes(), state).to(self.theta.device)

    def _trials(self, batch: Trajectory) -> tuple[Trials, Metrics]:
        """A batch as samples, and what is to be logged of them.

        Raises:
            NumericError: rewards, observations or values are not finite; nothing has changed.
        """
        config, policy = self.config, self._policy
        with torch.no_grad():
            # what the policy saw, and where its credit ends
            params = policy.unpack(self.theta[None])
            inputs = policy.inputs(params, seen(batch))
            valid, end = batch.valid.flatten(0, 1), ends(batch, config.credit)
            reward, first = batch.reward.flatten(0, 1), batch.first.flatten(0, 1)
            action, log_prob = batch.action.flatten(0, 1), batch.log_prob.flatten(0, 1)
            time = time_features(first, valid).to(inputs.dtype)
            # values
            steps = TrialSteps(inputs, first, reward, end, valid, len(batch.obs))
            value, metrics = self._critic.values(steps, log_prob, lambda: self._head(params, inputs, time, action))
            # advantages
            advantage = finite_horizon_gae(reward, value, end, gamma=config.gamma, lam=config.gae_lambda)
            target = advantage + value
            if not all(bool(tensor.isfinite().all()) for tensor in (target, inputs, batch.obs)):  # inputs are clipped
                raise NumericError("expected finite values and observations, got NaN or infinity")
            weight = (valid / valid.sum()).reshape(1, -1).to(reward.dtype)
            returns = discounted_returns(reward, end, gamma=config.gamma)
            explained = explained_variance(value.reshape(1, -1), returns.reshape(1, -1), weight)
            metrics["baseline/explained_variance/0"] = float(explained)
            advantage = normalize(advantage.reshape(1, -1), weight, config.advantage_norm)[0].view_as(reward)
        return Trials(inputs, action, log_prob, advantage, target, time, valid), metrics

    def _in_critics_units(self, trials: Trials) -> Trials:
        """The trials with targets in the critic's units, which they change; its head goes along."""
        target, changed = self._critic.targets(trials.target, trials.valid, self._policy.named(self.theta))
        self._write(changed)
        return replace(trials, target=target)

    def _head(self, params: MemoryParameters, inputs: Tensor, time: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The value head [R, T], and log π of the actions [R, T], at the present θ."""

        def evaluate(part: slice) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                rows = inputs[part]
                state = initial_state(self._policy, rows)
                outputs, value, _ = self._policy.scan(params, rows, state, time=time[part])
                return value, log_probs(self._policy, params, outputs, action[part])[0]

        values, log_prob = zip(*self.shares(len(inputs)).gather(evaluate), strict=True)
        return torch.cat(values), torch.cat(log_prob)

    def shares(self, rows: int) -> Parts[slice]:
        """Rows as the equal parts that are computed with at once, the last one smaller where there is no other way."""
        return Parts.of(self._map, list(task_chunks(rows, -(-rows // self._shares))))

    def in_shares(self, trials: Trials) -> Parts[Trials]:
        """The trials in shares."""
        return self.shares(len(trials.inputs)).keep(trials.rows)

    def _update_normalisers(self, batch: Trajectory) -> None:
        """The moments of what this batch has shown go into θ, for the next one."""
        changed: dict[str, Tensor] = {}
        if self._moments:
            self._moments.update(batch.obs[batch.valid])
            changed["obs_mean"], changed["obs_std"] = self._moments.mean_and_std()
        if self._rewards:
            self._rewards.update(batch.reward[batch.valid].unsqueeze(1))
            changed["reward_unit"] = self._rewards.mean_and_std()[1]
        self._write(changed)

    def _write(self, changed: Mapping[str, Tensor]) -> None:
        """Set some of the parameters."""
        if changed:
            self.theta = self.theta.clone()
            named = self._policy.named(self.theta)
            for name, value in changed.items():
                named[name].copy_(value)


def make_critic(config: MemoryAgentConfig) -> Critic:
    """The critic that a configuration asks for."""
    if config.critic == "value_head":
        return ValueHead()
    return LinearCritic(gamma=config.gamma, credit=config.credit, per_task=config.critic == "linear_per_task")


def make_memory_policy(spaces: SpaceSpec, config: MemoryAgentConfig) -> MemoryPolicy:
    """A Gaussian policy for Box actions, a categorical one for Discrete actions."""
    action, obs = spaces.action, spaces.observation.size
    inputs = obs + action.size + FLAGS
    encoder = MLP((inputs, *config.encoder_sizes), config.activation) if config.encoder_sizes else None
    width = config.encoder_sizes[-1] if config.encoder_sizes else inputs
    return MemoryPolicy(
        obs,
        replace(action, low=(), high=()),
        encoder,
        config.make_memory(width),
        action_distribution(action, config.min_std),
        config.reward_input_scale,
        config.normalize_obs,
        config.normalize_reward,
    )


def log_probs(policy: MemoryPolicy, params: MemoryParameters, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """log π(a) and the entropy in nats, [R, T] each, of outputs [R, T, O] and actions [R, T, …]."""
    stacked, taken = outputs.flatten(0, 1).mT.unsqueeze(0), action.flatten(0, 1)
    taken = taken.mT.unsqueeze(0) if action.ndim == 3 else taken.unsqueeze(0)
    shape = outputs.shape[:2]
    log_prob = policy.distribution.log_prob(stacked, params.extra, taken).view(shape)
    return log_prob, policy.distribution.entropy(stacked, params.extra).reshape(shape)


def initial_state(policy: MemoryPolicy, inputs: Tensor) -> State:
    """The state before the first of the steps [R, T, inputs]."""
    return policy.memory.initial_state(len(inputs), inputs)


def _first_and_last_episode(batch: Trajectory) -> Metrics:
    """Mean returns at both ends of the trials: what remembering brings."""
    diverged = bool(batch.diverged.any())
    means = batch.sound_returns().nanmean((0, 1)) if diverged else batch.episode_returns().mean((0, 1))
    return {"train/first_episode_return": float(means[0]), "train/last_episode_return": float(means[-1])}
