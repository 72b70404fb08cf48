"""RL² with TRPO, as published: a recurrent policy whose memory of the trial is what adapts.

Duan, Schulman, Chen, Bartlett, Sutskever & Abbeel 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement
Learning", arXiv:1611.02779, section 2.3; Schulman et al. 2015, arXiv:1502.05477.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from metarl.config.schema import Lineage
from metarl.errors import NumericError
from metarl.learning.trust_region import TrustRegionConfig, trust_region_step
from metarl.nn.memory_policy import MemoryParameters
from metarl.types import Metrics

from ._memory import MemoryAgent, MemoryAgentConfig, Trials, initial_state, log_probs

R = TypeVar("R")


class RL2TRPOConfig(MemoryAgentConfig, TrustRegionConfig):
    """Settings of RL² with TRPO."""

    lineages: ClassVar[dict[str, Lineage]] = {
        "rl2_2016": Lineage(
            pins={"memory": "gru", "memory_size": 256, "gamma": 0.99, "gae_lambda": 0.3, "max_kl": 0.01},
            why="Duan et al. 2016: GRU of 256, γ 0.99, λ 0.3, policy iterations of 250 000 steps",
            differs="its baseline is a recurrent network of its own; here it is the linear feature baseline",
        ),
    }

    name: Literal["rl2_trpo"] = "rl2_trpo"
    critic: Literal["linear", "linear_per_task"] = Field(
        "linear", description="linear feature baseline, fitted to all trials together or to each task's by themselves"
    )
    fisher_fraction: float = Field(
        0.1, gt=0, le=1, description="share of the trials that Fisher products use; their graph is kept in memory"
    )


class RL2TRPO(MemoryAgent):
    """One trust-region step per iteration, on the whole of its trials:

    min L(θ) = −Σₘ wₘ[Aₘ π_θ(aₘ|trial)/π_old(aₘ|trial) + entropy_coef·H], subject to Σₘ wₘ KL(π_old ‖ π_θ) ≤ δ, where
    π_old is the policy recomputed by the same code. Fisher products differentiate the KL twice through the memory's
    unfused path.
    """

    config_class = RL2TRPOConfig
    config: RL2TRPOConfig

    def _improve(self, trials: Trials, rng: np.random.Generator) -> Metrics:
        count = math.ceil(self.config.fisher_fraction * len(trials.inputs))
        chosen = torch.from_numpy(np.sort(rng.permutation(len(trials.inputs))[:count]))
        objective = _Objective(self, trials, trials.rows(chosen))
        gradient = objective.gradient()
        if not (math.isfinite(objective.old_loss) and bool(gradient.isfinite().all())):
            raise NumericError(f"expected a finite loss and gradient, got loss {objective.old_loss}")
        self.theta, how = trust_region_step(objective, self.theta, gradient, self.config)
        return {
            "loss/before": objective.old_loss,
            "loss/gradient_norm": float(gradient.norm()),
            "policy/entropy": objective.entropy,
        } | how

    def _forward(self, theta: Tensor, trials: Trials, *, twice: bool = False) -> tuple[MemoryParameters, Tensor]:
        """Parameters and the outputs [R, T, O] that they have."""
        params = self._policy.unpack(theta[None])
        state = initial_state(self._policy, trials.inputs)
        return params, self._policy.scan(params, trials.inputs, state, twice=twice)[0]

    def _kl(self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], valid: Tensor) -> Tensor:
        """Σ KL(old ‖ new) over valid steps, of pairs (outputs [R, T, O], extra [1, S])."""
        stacked = [(outputs.flatten(0, 1).mT.unsqueeze(0), extra) for outputs, extra in (old, new)]
        kl = self._policy.distribution.kl(*stacked).view(valid.shape)
        return torch.where(valid, kl, 0.0).sum()


class _Objective:
    """Loss and constraint around the agent's present θ, over shares of the trials, one per thread."""

    def __init__(self, agent: RL2TRPO, trials: Trials, thinned: Trials) -> None:
        self.agent, self.theta = agent, agent.theta
        self.trials, self.thinned = trials, thinned
        self.steps, self.thinned_steps = float(trials.valid.sum()), float(thinned.valid.sum())
        self.old: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # outputs, extra, log π by the share's first row
        self.entropy = self.old_loss = math.nan
        self._kl_gradients: list[tuple[Tensor, Tensor]] = []

    def gradient(self) -> Tensor:
        """∇L(θ) at the old θ [P]; sets what the policy was there."""

        def share(part: slice) -> tuple[Tensor, float, float]:
            trials = self.trials.rows(part)
            theta = self.theta.detach().requires_grad_()
            params, outputs = self.agent._forward(theta, trials)
            log_prob, entropies = log_probs(self.agent._policy, params, outputs, trials.action)
            loss, entropy = self._loss(trials, log_prob - log_prob.detach(), entropies)
            (gradient,) = torch.autograd.grad(loss, theta)
            self.old[part.start] = outputs.detach(), params.extra.detach(), log_prob.detach()
            return gradient, float(loss.detach()), float(entropy.detach())

        gradients, losses, entropies = zip(*self._shares(share, self.trials), strict=True)
        self.old_loss, self.entropy = sum(losses), sum(entropies)
        return torch.stack(gradients).sum(0)

    def fisher_product(self, v: Tensor) -> Tensor:
        """The Hessian of the mean KL at the old θ times v [P]: the KL's gradient differentiated along v."""
        if not self._kl_gradients:
            self._kl_gradients = self._shares(self._kl_gradient, self.thinned)

        def along(pair: tuple[Tensor, Tensor]) -> Tensor:
            theta, gradient = pair
            return torch.autograd.grad(gradient.dot(v), theta, retain_graph=True)[0]

        return torch.stack(self.agent._map.over(along, self._kl_gradients)).sum(0)

    def _kl_gradient(self, part: slice) -> tuple[Tensor, Tensor]:
        """θ and the gradient by it of a share's KL, zero here, whose graph serves all products."""
        trials = self.thinned.rows(part)
        theta = self.theta.detach().requires_grad_()
        params, outputs = self.agent._forward(theta, trials, twice=True)
        old = outputs.detach(), params.extra.detach()
        kl = self.agent._kl(old, (outputs, params.extra), trials.valid) / self.thinned_steps
        return theta, torch.autograd.grad(kl, theta, create_graph=True)[0]

    def evaluate(self, psi: Tensor) -> tuple[float, float]:
        """Loss and mean KL at other parameters [P]."""

        def share(part: slice) -> tuple[float, float]:
            trials = self.trials.rows(part)
            with torch.no_grad():
                params, outputs = self.agent._forward(psi, trials)
                log_prob, entropies = log_probs(self.agent._policy, params, outputs, trials.action)
                old_outputs, old_extra, old_log_prob = self.old[part.start]
                loss, _ = self._loss(trials, log_prob - old_log_prob, entropies)
                kl = self.agent._kl((old_outputs, old_extra), (outputs, params.extra), trials.valid)
                return float(loss), float(kl) / self.steps

        losses, kls = zip(*self._shares(share, self.trials), strict=True)
        return sum(losses), sum(kls)

    def _loss(self, trials: Trials, log_ratio: Tensor, entropies: Tensor) -> tuple[Tensor, Tensor]:
        """A share's part of the loss and of the mean entropy, from log π − log π_old and entropies [R, T]."""
        ratio = torch.where(trials.valid, log_ratio, 0.0).exp()
        entropy = torch.where(trials.valid, entropies, 0.0).sum() / self.steps
        return -(ratio * trials.advantage).sum() / self.steps - self.agent.config.entropy_coef * entropy, entropy

    def _shares(self, function: Callable[[slice], R], trials: Trials) -> list[R]:
        return self.agent._in_parts(function, len(trials.inputs))
