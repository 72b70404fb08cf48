"""What all gradient-based agents share: the policy, the samples of a phase, adaptation, state and diagnostics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from metarl.agent import Agent, load_named_parameters, named_parameters, require_tensors
from metarl.config.schema import AgentConfig, LearnerConfig, RunConfig
from metarl.errors import NumericError
from metarl.learning.adaptation.analytic import policy_gradient_step
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.baselines import memory_of_fits
from metarl.learning.inner_losses import Samples
from metarl.learning.meta_objective import mean_cosine
from metarl.learning.reduce import Parts
from metarl.learning.samples import LEARNED_FROM, AdvantageNorm, Baseline, Estimates, policy_gradient_samples
from metarl.nn.derivatives import Scratch
from metarl.nn.mlp import Activation
from metarl.nn.normalization import RunningMoments
from metarl.nn.policies import MLPPolicy, init_parameters, make_policy, normalized, require_spread, without_spread
from metarl.parallel import TaskMap
from metarl.spaces import SpaceSpec
from metarl.types import Metrics, Trajectory


class GradientAgentConfig(AgentConfig):
    """Settings of the policy, of advantages and of adaptation by policy gradient."""

    hidden_sizes: list[PositiveInt] = Field([64, 64], description="widths of the hidden layers")
    activation: Activation = Field("tanh", description="activation between layers")
    init_std: PositiveFloat = Field(1.0, description="initial standard deviation of a Gaussian policy, in action units")
    min_std: PositiveFloat = Field(1e-6, description="floor of that standard deviation")
    normalize_obs: bool = Field(
        False, description="normalise observations by their running moments, which change at meta-updates only"
    )
    inner_lr: PositiveFloat = Field(0.1, description="step size α of adaptation")
    later_step_lr_scale: PositiveFloat = Field(
        1.0, description="factor on inner_lr for every adaptation step after the first (Finn 2017: 0.5)"
    )
    gamma: float = Field(0.99, ge=0, le=1, description="discount factor")
    gae_lambda: float = Field(1.0, ge=0, le=1, description="λ of generalised advantage estimation; 1 = Monte Carlo")
    baseline: Baseline = Field("linear", description="linear = linear feature baseline, fitted per task and phase")
    advantage_norm: AdvantageNorm = Field(
        "std",
        description="per task: std = (A − μ)/σ; var = (A − μ)/σ², garage's and Meta-World+'s; none = as estimated",
    )

    @model_validator(mode="after")
    def _a_spread_that_can_change(self) -> GradientAgentConfig:
        require_spread(self.init_std, self.min_std)
        return self

    @model_validator(mode="after")
    def _the_lineages_denominator(self) -> GradientAgentConfig:
        lineage = self.lineages.get(self.lineage or "")
        pinned = lineage.pins.get("advantage_norm") if lineage else None
        if pinned and {pinned, self.advantage_norm} == {"std", "var"}:
            raise ValueError(
                f"advantage_norm = {self.advantage_norm} is not lineage {self.lineage}, which divides by the {pinned}: "
                "results would carry its name and not be comparable; leave out agent.lineage, or advantage_norm"
            )
        return self

    def work(self, run: RunConfig) -> int:
        per_step = sum(fan_in * fan_out for fan_in, fan_out in pairwise(self.hidden_sizes))
        return per_step * run.meta_batch_size * run.rollouts_per_task * run.task.horizon

    def conflicts(self, run: RunConfig) -> list[str]:
        if self.baseline != "linear" or run.rollouts_per_task >= 2:
            return []
        reason = "agent.baseline = linear is fitted to the episodes of one task"
        return [f"rollouts_per_task = {run.rollouts_per_task}: expected at least 2, because {reason}"]

    def num_parameters(self, spaces: SpaceSpec) -> int:
        sizes = tuple(self.hidden_sizes)
        return make_policy(spaces, sizes, self.activation, self.min_std, self.normalize_obs).num_parameters

    def memory_needs(self, run: RunConfig, spaces: SpaceSpec) -> dict[str, int]:
        observations, parameters = spaces.observation.size, self.num_parameters(spaces)
        words = f"agent.hidden_sizes = {self.hidden_sizes}: with {observations} observations every task has"
        needs = {f"{words} {parameters} parameters": 4 * run.meta_batch_size * parameters}
        if self.baseline == "linear":
            chunk = run.learner.tasks_per_chunk
            assert chunk != "auto"
            needs |= memory_of_fits(observations, min(run.meta_batch_size, chunk), "agent.baseline = linear", "none")
        return needs

    def without_effect(self, run: RunConfig) -> dict[str, str]:
        found = {
            "eval.restored_episodes": "the agent has no memory that could be restored",
            "learner.shares": "the agent learns in chunks of tasks, learner.tasks_per_chunk",
        }
        if not self.hidden_sizes:
            found["agent.activation"] = "agent.hidden_sizes = [] has no layers"
        if run.task.actions_are_choices:
            found |= without_spread()
        if run.eval.adapt_steps == 0:
            keys = ("adapt_episodes", "adapt_env_steps", "score_every")
            found |= {f"eval.{key}": "eval.adapt_steps = 0 adapts in no evaluation" for key in keys}
        steps = max(self.inner_steps_in_training(), run.eval.adapt_steps)
        if steps < 2:
            found["agent.later_step_lr_scale"] = "no trial has a second inner step, in training or in evaluation"
        if steps < 1:
            found["agent.inner_lr"] = "no inner step is taken, in training or in evaluation"
        return found

    def inner_steps_in_training(self) -> int:
        """Inner steps, one after the other, of a training trial."""
        return 0


class GradientAgent(Agent):
    """A policy with explicit parameters that adapts by gradient steps.

    What is learned is ψ, one flat vector: θ, and the inner step sizes where they are learned.
    """

    config: GradientAgentConfig

    def __init__(
        self,
        spaces: SpaceSpec,
        config: AgentConfig,
        learner: LearnerConfig,
        *,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        assert isinstance(config, self.config_class) and isinstance(config, GradientAgentConfig)
        assert learner.threads != "auto" and learner.tasks_per_chunk != "auto"
        self.config = config
        self._policy = make_policy(
            spaces, tuple(config.hidden_sizes), config.activation, config.min_std, config.normalize_obs
        )
        self._moments = RunningMoments(spaces.observation.size) if config.normalize_obs else None
        self._loop = self._inner_loop(device)
        threads = learner.threads if device.type == "cpu" else 1  # a GPU is fed by one
        self._map = TaskMap(threads=threads, chunk=learner.tasks_per_chunk, interrupt=lambda: self.interrupt())
        self._scratch = Scratch()
        self.psi = self._loop.initial(init_parameters(self._policy, config.init_std, rng), rng).to(device)
        self._rest_at_start = self.psi[self._policy.num_parameters :].clone()  # step sizes, or an update rule
        self._start_afresh()

    @property
    def theta(self) -> Tensor:
        """The policy's parameters [P] before adaptation."""
        return self.psi[: self._policy.num_parameters]

    def policy(self) -> MLPPolicy:
        return self._policy

    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        return self._loop.start(self.psi[None]).repeat(num_tasks, 1)

    def policy_parameters(self, adapted: Tensor) -> Tensor:
        return self._loop.parameters(adapted)

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        batch, adapted = batch.on(self.psi.device, LEARNED_FROM), adapted.to(self.psi.device)

        def adapt_some(part: slice) -> Tensor:
            samples, _ = self._samples(batch.tasks(part))
            return self._step(adapted[part], samples, step)

        result = Parts.of_tasks(self._map, len(adapted)).cat(adapt_some)
        if not bool(result.isfinite().all()):
            raise NumericError(f"expected finite parameters after adaptation step {step}, got NaN or infinity")
        return result

    def _inner_loop(self, device: torch.device) -> InnerLoop:
        """Adaptation by plain policy-gradient steps; agents with a meta-gradient say more."""
        return InnerLoop(self._policy, self.config.inner_lr, self.config.later_step_lr_scale)

    def _step(self, rows: Tensor, samples: Samples, step: int) -> Tensor:
        """Rows [C, A] after one policy-gradient step on what their policies gathered."""
        return policy_gradient_step(self._loop, self.psi, rows, samples, step, self._scratch)

    def state(self) -> dict[str, Tensor]:
        return named_parameters(self._shapes(), self.psi) | (self._moments.state() if self._moments else {})

    def load_state(self, state: dict[str, Tensor]) -> None:
        require_tensors({name: tuple(tensor.shape) for name, tensor in self.state().items()}, state)
        learned = load_named_parameters(self._shapes(), state)
        self.psi = learned.to(self.psi.device)
        if self._moments:
            self._moments.load_state(state)

    def load_parameters(self, state: dict[str, Tensor]) -> None:
        afresh = ("policy.inner_lr", "policy.rule.")
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(afresh)}
        theta = load_named_parameters(self._policy.shapes(), kept).to(self.psi.device)
        self.psi = torch.cat([theta, self._rest_at_start])
        if self._moments and "observations.count" in state:
            self._moments.load_state(state)
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Set up what an agent keeps besides ψ, such as an optimiser, for new parameters."""

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what ψ holds, in its order."""
        return self._policy.shapes() | self._loop.learned_shapes()

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        metrics = self._improve(batches, rng)
        if self._moments is not None:
            self._moments.update(torch.cat([batch.obs[batch.valid] for batch in batches]))
            self.psi = self.psi.clone()
            moments = self._policy.moments(self.psi[None, : self._policy.num_parameters])
            for view, value in zip(moments, self._moments.mean_and_std(), strict=True):
                view.copy_(value)
        return metrics

    @abstractmethod
    def _improve(self, batches: Sequence[Trajectory], rng: np.random.Generator) -> Metrics:
        """Update ψ. On a NumericError it is as before, and so is the optimiser."""

    def _learning_metrics(
        self,
        gradients: Tensor,
        diagnostics: dict[str, float],
        batches: Sequence[Trajectory],
        estimates: Sequence[Estimates],
    ) -> Metrics:
        """What all agents that learn log: of their tasks' gradients [N, Q], the inner steps, and every phase."""
        adaptation = {f"adapt/{name}": value for name, value in diagnostics.items() if name != "entropy"}
        returns = [batch.mean_return() for batch in batches]
        explained = (float(e.explained_variance.nanmean()) for e in estimates)  # undefined where all returns are equal
        return {
            "loss/meta_gradient_norm": float(gradients.mean(0).norm()),
            "loss/meta_gradient_cosine": mean_cosine(gradients),
            "policy/entropy": diagnostics["entropy"],
            **adaptation,
            **{f"adapt/gain/{k}": returns[k] - returns[k - 1] for k in range(1, len(returns))},
            **{f"baseline/explained_variance/{k}": value for k, value in enumerate(explained)},
        }

    def _samples(self, batch: Trajectory) -> tuple[Samples, Estimates]:
        config = self.config
        samples, estimates = policy_gradient_samples(
            batch,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            baseline=config.baseline,
            advantage_norm=config.advantage_norm,
        )
        if config.normalize_obs:
            mean, std = self._policy.moments(self.theta[None])
            samples = replace(samples, obs=normalized(samples.obs, mean.unsqueeze(2), std.unsqueeze(2)))
        return samples, estimates
