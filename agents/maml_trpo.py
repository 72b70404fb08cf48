"""MAML-TRPO: a policy-gradient step adapts to each task, a trust-region step improves what adaptation starts from.

Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", arXiv:1703.03400,
algorithm 3, with the TRPO meta-optimiser of its section 5.3 (Schulman et al. 2015, arXiv:1502.05477).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from metarl.advantages import AdvantageNorm, Baseline, policy_gradient_samples
from metarl.agent import Agent, load_named_parameters, named_parameters
from metarl.errors import NumericError
from metarl.inner_loop import Adaptation, Fisher, Samples, policy_gradient
from metarl.mlp import Activation, Scratch
from metarl.parallel import TaskMap
from metarl.policies import MLPPolicy, init_parameters, make_policy
from metarl.schema import AgentConfig, LearnerConfig, Lineage
from metarl.spaces import SpaceSpec
from metarl.trust_region import conjugate_gradient, line_search, natural_step
from metarl.types import Metrics, Trajectory


class MAMLTRPOConfig(AgentConfig):
    """Settings of MAML-TRPO."""

    lineages: ClassVar[dict[str, Lineage]] = {
        "finn2017": Lineage(
            pins={"hidden_sizes": [100, 100], "activation": "relu", "later_step_lr_scale": 0.5},
            why="cbfinn/maml_rl: two ReLU layers of 100; at test time the step size is halved after the first step",
            differs="there one baseline serves all tasks, one phase stale; its Hessian products are finite differences",
        ),
        "promp2018": Lineage(
            pins={"hidden_sizes": [64, 64], "activation": "tanh", "inner_lr": 0.1, "cg_damping": 0.0},
            why="jonasrothfuss/ProMP run_scripts/maml_run_mujoco.py: two tanh layers of 64, no damping",
            differs="its Hessian products are finite differences in float32, ours are exact",
        ),
    }

    name: Literal["maml_trpo"] = "maml_trpo"
    hidden_sizes: list[PositiveInt] = Field([64, 64], description="widths of the hidden layers")
    activation: Activation = Field("tanh", description="activation between layers")
    init_std: PositiveFloat = Field(1.0, description="initial standard deviation of a Gaussian policy, in action units")
    min_std: PositiveFloat = Field(1e-6, description="floor of that standard deviation")
    inner_lr: PositiveFloat = Field(0.1, description="step size α of adaptation")
    num_adapt_steps: PositiveInt = Field(1, description="K adaptation steps in training, each on newly gathered data")
    later_step_lr_scale: PositiveFloat = Field(
        1.0, description="factor on inner_lr for every adaptation step after the first (Finn 2017: 0.5)"
    )
    outer_phases: Literal["last", "all"] = Field(
        "last",
        description="what the meta-update improves: the phase after all K steps, or the mean over those after 1 … K",
    )
    first_order: bool = Field(False, description="ignore second derivatives of adaptation (FOMAML)")
    gamma: float = Field(0.99, ge=0, le=1, description="discount factor")
    gae_lambda: float = Field(1.0, ge=0, le=1, description="λ of generalised advantage estimation; 1 = Monte Carlo")
    baseline: Baseline = Field("linear", description="linear = linear feature baseline, fitted per task and phase")
    advantage_norm: AdvantageNorm = Field("std", description="std = per task (A − μ)/σ; none = as estimated")
    max_kl: PositiveFloat = Field(0.01, description="trust region δ: mean KL(old ‖ new) of the adapted policies")
    cg_iterations: PositiveInt = Field(10, description="conjugate-gradient iterations")
    cg_damping: NonNegativeFloat = Field(1e-5, description="multiple of the identity added to the Fisher matrix")
    backtrack_ratio: float = Field(0.8, gt=0, lt=1, description="factor between line-search candidates")
    max_backtracks: PositiveInt = Field(15, description="line-search candidates before the step is given up")

    def step_size(self, step: int) -> float:
        """α of adaptation step ``step`` = 0, 1, …, in training as in evaluation."""
        return self.inner_lr * (1.0 if step == 0 else self.later_step_lr_scale)


class MAMLTRPO(Agent):
    """θ is one flat vector; adaptation is one policy-gradient step per phase; the meta-update is one TRPO step on

    L(θ) = meanᵢ −Σₘ wₘ Aₘ π_{θ'ᵢ(θ)}(aₘ|sₘ)/π_old(aₘ|sₘ), subject to meanᵢ KL(π_old ‖ π_{θ'ᵢ(θ)}) ≤ δ, over the last
    phase's samples of the tasks i, where π_old is the policy θ'ᵢ(θ_old) recomputed by the same code: the ratio is
    exactly 1 there, the KL exactly 0. With ``outer_phases: all`` both are means over the phases after 1 … K steps, the
    multi-step loss of Antoniou et al. 2019, arXiv:1810.09502, section 4, with equal weights.
    """

    config_class = MAMLTRPOConfig

    def __init__(
        self,
        spaces: SpaceSpec,
        config: AgentConfig,
        learner: LearnerConfig,
        *,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        assert isinstance(config, MAMLTRPOConfig)
        self.config = config
        self.num_adapt_steps = config.num_adapt_steps
        self._policy = make_policy(spaces, tuple(config.hidden_sizes), config.activation, config.min_std)
        self.theta = init_parameters(self._policy, config.init_std, rng).to(device)
        assert learner.threads != "auto" and learner.tasks_per_chunk != "auto"
        self._map = TaskMap(threads=learner.threads, chunk=learner.tasks_per_chunk)
        self._scratch = Scratch()

    def policy(self) -> MLPPolicy:
        return self._policy

    def init_adapted(self, num_tasks: int) -> Tensor:
        return self.theta.repeat(num_tasks, 1)

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        lr = self.config.step_size(step)
        batch, adapted = batch.to(self.theta.device), adapted.to(self.theta.device)

        def adapt_some(part: slice) -> Tensor:
            samples, _ = self._samples(batch.tasks(part))
            return adapted[part] - lr * policy_gradient(self._policy, adapted[part], samples, self._scratch)

        result = torch.cat(self._map(adapt_some, len(adapted)))
        if not bool(result.isfinite().all()):
            raise NumericError(f"expected finite parameters after adaptation step {step}, got NaN or infinity")
        return result

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        config = self.config
        if len(batches) != self.num_adapt_steps + 1:
            raise ValueError(f"expected {self.num_adapt_steps + 1} phases, got {len(batches)}")
        batches = [batch.to(self.theta.device) for batch in batches]

        def prepare(part: slice) -> tuple[TaskObjective, Tensor]:
            phases, variances = zip(*(self._samples(batch.tasks(part)) for batch in batches), strict=True)
            return TaskObjective(self._policy, self.theta, phases, config, self._scratch), torch.stack(variances)

        parts, variances = zip(*self._map(prepare, len(adapted)), strict=True)
        objective = MetaObjective(parts, self._map)
        gradient = objective.gradient()
        if not (math.isfinite(objective.old_loss) and bool(gradient.isfinite().all())):
            raise NumericError(
                f"expected a finite loss and meta-gradient, got loss {objective.old_loss}; parameters are unchanged"
            )

        def product(v: Tensor) -> Tensor:
            return objective.fisher_product(v) + config.cg_damping * v

        direction, image = conjugate_gradient(product, gradient, iterations=config.cg_iterations)
        search = line_search(
            objective.evaluate,
            self.theta,
            -natural_step(direction, image, max_kl=config.max_kl),
            old_loss=objective.old_loss,
            max_kl=config.max_kl,
            ratio=config.backtrack_ratio,
            max_backtracks=config.max_backtracks,
        )
        self.theta = search.parameters
        explained = torch.cat(variances, dim=1).nanmean(1).tolist()  # undefined where all returns are equal
        return {
            "loss/before": objective.old_loss,
            "loss/after": search.loss,
            "loss/kl": search.kl,
            "loss/meta_gradient_norm": float(gradient.norm()),
            "linesearch/accepted": float(search.accepted),
            "linesearch/backtracks": float(search.backtracks),
            "policy/entropy": objective.entropy,
            "adapt/step_norm": objective.step_norm,
        } | {f"baseline/explained_variance/{k}": value for k, value in enumerate(explained)}

    def state(self) -> dict[str, Tensor]:
        return named_parameters(self._policy.shapes(), self.theta)

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.theta = load_named_parameters(self._policy.shapes(), state).to(self.theta.device)

    def load_parameters(self, state: dict[str, Tensor]) -> None:
        self.load_state({name: tensor for name, tensor in state.items() if name in self.state()})

    def describe(self) -> dict[str, Any]:
        return {"parameters": self._policy.num_parameters}

    def _samples(self, batch: Trajectory) -> tuple[Samples, Tensor]:
        config = self.config
        return policy_gradient_samples(
            batch,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            baseline=config.baseline,
            advantage_norm=config.advantage_norm,
        )


class Surrogate:
    """One phase's surrogate loss and KL around the parameters [C, P] that gathered it, summed over its C tasks."""

    def __init__(self, policy: MLPPolicy, params: Tensor, samples: Samples, scratch: Scratch) -> None:
        self._policy, self._params, self._samples, self._scratch = policy, params, samples, scratch
        self._fisher = Fisher(policy, params, samples, scratch)
        self._old = (self._fisher.net.output, policy.extra(params))
        self._old_log_prob = policy.distribution.log_prob(*self._old, samples.action)
        self.old_loss = float(samples.loss_coef.sum(dtype=torch.float64))
        self.entropy = float((policy.distribution.entropy(*self._old) * samples.weight).sum())

    def gradient(self) -> Tensor:
        """By the parameters, [C, P]. At ratio 1 the surrogate's gradient is that of the policy-gradient loss."""
        return policy_gradient(self._policy, self._params, self._samples, self._scratch)

    def fisher_product(self, v: Tensor) -> Tensor:
        """F·v [C, P] for directions v [C, P]."""
        return self._fisher.product(v)

    def evaluate(self, params: Tensor) -> tuple[float, float]:
        """(surrogate loss, mean KL(old ‖ new)) at other parameters [C, P]."""
        samples, distribution = self._samples, self._policy.distribution
        new = self._policy.outputs(params, samples.obs)
        ratio = torch.exp(distribution.log_prob(*new, samples.action) - self._old_log_prob)
        loss = (samples.loss_coef * ratio).sum(dtype=torch.float64)
        kl = (distribution.kl(self._old, new) * samples.weight).sum(dtype=torch.float64)
        return float(loss), float(kl)


class TaskObjective:
    """The surrogate loss and the KL constraint of C tasks around θ_old: summed over tasks, mean over outer phases.

    ``phases`` holds the K+1 phases. What depends only on θ_old and the data is kept for the products of the conjugate
    gradient; memory is linear in K.
    """

    def __init__(
        self, policy: MLPPolicy, theta: Tensor, phases: Sequence[Samples], config: MAMLTRPOConfig, scratch: Scratch
    ) -> None:
        self._policy, self._config, self._scratch = policy, config, scratch
        self._inner = phases[:-1]
        self.num_tasks, last = len(phases[-1].obs), len(phases) - 1
        self._adaptation = self._adapt(theta, first_order=config.first_order)
        trail = self._adaptation.trail
        self._surrogates = {
            k: Surrogate(policy, trail[k], phases[k], scratch)
            for k in range(1 if config.outer_phases == "all" else last, last + 1)
        }
        self.old_loss = self._mean([surrogate.old_loss for surrogate in self._surrogates.values()])
        self.entropy = self._surrogates[last].entropy
        self.step_norm = float((trail[-1] - theta).norm(dim=1).sum())

    def gradient(self) -> Tensor:
        """Σᵢ (∂θ'ᵢ/∂θ)ᵀ∇Lᵢ(θ'ᵢ) [P]."""
        return self._pull_back({k: surrogate.gradient() for k, surrogate in self._surrogates.items()})

    def fisher_product(self, v: Tensor) -> Tensor:
        """Σᵢ (∂θ'ᵢ/∂θ)ᵀ Fᵢ (∂θ'ᵢ/∂θ) v [P]."""
        pushed = self._adaptation.push_forward(v.expand(self.num_tasks, -1))
        return self._pull_back({k: surrogate.fisher_product(pushed[k]) for k, surrogate in self._surrogates.items()})

    def evaluate(self, theta: Tensor) -> tuple[float, float]:
        """(Σᵢ surrogate loss, Σᵢ mean KL(old ‖ new)) at θ, adapted anew."""
        trail = self._adapt(theta, first_order=True).trail
        losses, kls = zip(*(s.evaluate(trail[k]) for k, s in self._surrogates.items()), strict=True)
        return self._mean(losses), self._mean(kls)

    def _pull_back(self, cotangents: dict[int, Tensor]) -> Tensor:
        trail = [cotangents.get(k) for k in range(len(self._inner) + 1)]
        return self._adaptation.pull_back(trail).sum(0) / len(self._surrogates)

    def _mean(self, values: Sequence[float]) -> float:
        return sum(values) / len(self._surrogates)

    def _adapt(self, theta: Tensor, *, first_order: bool) -> Adaptation:
        """The inner steps from θ; ``first_order`` also where only the adapted parameters are wanted."""
        params = theta.repeat(self.num_tasks, 1)
        rates = [self._config.step_size(k) for k in range(len(self._inner))]
        return Adaptation(self._policy, params, self._inner, rates, first_order=first_order, scratch=self._scratch)


class MetaObjective:
    """The objective of a whole meta-batch: means over its tasks, computed chunk by chunk and summed in task order."""

    def __init__(self, parts: Sequence[TaskObjective], task_map: TaskMap) -> None:
        self._parts = parts
        self._map = task_map
        self._num_tasks = sum(part.num_tasks for part in parts)
        self.old_loss = sum(part.old_loss for part in parts) / self._num_tasks
        self.entropy = sum(part.entropy for part in parts) / self._num_tasks
        self.step_norm = sum(part.step_norm for part in parts) / self._num_tasks

    def gradient(self) -> Tensor:
        """∇L(θ_old) [P]."""
        return self._mean(TaskObjective.gradient)

    def fisher_product(self, v: Tensor) -> Tensor:
        """The Hessian by θ of mean KL at θ_old, times v [P].

        Exact: the terms with second derivatives of θ'ᵢ(θ) are multiplied by the gradient of the KL, which is 0.
        """
        return self._mean(lambda part: part.fisher_product(v))

    def evaluate(self, theta: Tensor) -> tuple[float, float]:
        """(surrogate loss, mean KL(old ‖ new)) at θ."""
        losses, kls = zip(*self._map.over(lambda part: part.evaluate(theta), self._parts), strict=True)
        return sum(losses) / self._num_tasks, sum(kls) / self._num_tasks

    def _mean(self, function: Callable[[TaskObjective], Tensor]) -> Tensor:
        return torch.stack(self._map.over(function, self._parts)).sum(0) / self._num_tasks
