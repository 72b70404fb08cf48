"""RL² with TRPO, as published: a recurrent policy whose memory of the trial is what adapts.

Duan, Schulman, Chen, Bartlett, Sutskever & Abbeel 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement
Learning", arXiv:1611.02779, section 2.3; Schulman et al. 2015, arXiv:1502.05477.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from metarl.config.schema import Lineage
from metarl.errors import NumericError
from metarl.learning.reduce import Parts
from metarl.learning.trials import Trials
from metarl.learning.trust_region import TrustRegionConfig, trust_region_step
from metarl.nn.memory_policy import MemoryParameters, MemoryPolicy
from metarl.types import Metrics

from ._memory import MemoryAgent, MemoryAgentConfig, initial_state, log_probs


class RL2TRPOConfig(MemoryAgentConfig, TrustRegionConfig):
    """Settings of RL² with TRPO."""

    lineages: ClassVar[dict[str, Lineage]] = {
        "rl2_2016": Lineage(
            pins={"memory": "gru", "memory_size": 256, "gamma": 0.99, "gae_lambda": 0.3, "max_kl": 0.01},
            why="Duan et al. 2016: GRU of 256, γ 0.99, λ 0.3, policy iterations of 250 000 steps",
            differs="its baseline is a recurrent network of its own; here it is the linear feature baseline",
        ),
    }

    less_memory: ClassVar[str] = "a smaller agent.fisher_fraction, meta_batch_size or rollouts_per_task, in a new run"

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
        # all trials for the loss and the line search, some of them for Fisher products, both in shares
        count = math.ceil(self.config.fisher_fraction * len(trials.inputs))
        chosen = torch.from_numpy(np.sort(rng.permutation(len(trials.inputs))[:count])).to(self.theta.device)
        shares, fisher_shares = self.in_shares(trials), self.in_shares(trials.rows(chosen))
        surrogate = _Surrogate(self._policy, self.config.entropy_coef, float(trials.valid.sum()))
        # the step
        objective = _Objective(surrogate, self.theta, shares, fisher_shares)
        gradient = objective.gradient
        if not (math.isfinite(objective.old_loss) and bool(gradient.isfinite().all())):
            raise NumericError(f"expected a finite loss and gradient, got loss {objective.old_loss}")
        self.theta, how = trust_region_step(objective, self.theta, gradient, self.config)
        return {
            "loss/before": objective.old_loss,
            "loss/gradient_norm": float(gradient.norm()),
            "policy/entropy": objective.entropy,
        } | how


@dataclass(frozen=True)
class _OldPolicy:
    """What the policy at the old θ made of some trials."""

    outputs: Tensor  # [R, T, O]
    extra: Tensor  # [1, S]
    log_prob: Tensor  # [R, T]


@dataclass(frozen=True)
class _Surrogate:
    """What some trials add to the loss and to the constraint, which are means over ``steps`` steps."""

    policy: MemoryPolicy
    entropy_coef: float
    steps: float

    def forward(self, theta: Tensor, trials: Trials, *, twice: bool = False) -> tuple[MemoryParameters, Tensor]:
        """Parameters and the outputs [R, T, O] that they have."""
        params = self.policy.unpack(theta[None])
        state = initial_state(self.policy, trials.inputs)
        return params, self.policy.scan(params, trials.inputs, state, twice=twice)[0]

    def loss(self, trials: Trials, log_ratio: Tensor, entropies: Tensor) -> tuple[Tensor, Tensor]:
        """The share of the loss and of the mean entropy, from log π − log π_old and entropies [R, T]."""
        ratio = torch.where(trials.valid, log_ratio, 0.0).exp()
        entropy = torch.where(trials.valid, entropies, 0.0).sum() / self.steps
        return -(ratio * trials.advantage).sum() / self.steps - self.entropy_coef * entropy, entropy

    def kl(self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], valid: Tensor) -> Tensor:
        """Σ KL(old ‖ new) over valid steps, of pairs (outputs [R, T, O], extra [1, S])."""
        stacked = [(outputs.flatten(0, 1).mT.unsqueeze(0), extra) for outputs, extra in (old, new)]
        kl = self.policy.distribution.kl(*stacked).view(valid.shape)
        return torch.where(valid, kl, 0.0).sum()


class _Objective:
    """Loss and constraint around the old θ [P], summed over shares of the trials.

    ``gradient`` [P], ``old_loss`` and ``entropy`` are those at the old θ. Fisher products take ``fisher_shares``.
    """

    def __init__(
        self,
        surrogate: _Surrogate,
        theta: Tensor,
        shares: Parts[Trials],
        fisher_shares: Parts[Trials],
    ) -> None:
        self.surrogate, self.theta = surrogate, theta
        self.shares, self.fisher_shares = shares, fisher_shares
        # one pass over all trials: the old policy, and the gradient there
        passed = shares.keep(self._at_old)
        self._old = passed.keep(lambda part: part[3])
        gradients, losses, entropies = zip(*passed.gather(lambda part: part[:3]), strict=True)
        self.gradient = torch.stack(gradients).sum(0)
        self.old_loss, self.entropy = float(sum(losses)), float(sum(entropies))

    def _at_old(self, trials: Trials) -> tuple[Tensor, float, float, _OldPolicy]:
        theta = self.theta.detach().requires_grad_()
        params, outputs = self.surrogate.forward(theta, trials)
        log_prob, entropies = log_probs(self.surrogate.policy, params, outputs, trials.action)
        loss, entropy = self.surrogate.loss(trials, log_prob - log_prob.detach(), entropies)
        (gradient,) = torch.autograd.grad(loss, theta)
        old = _OldPolicy(outputs.detach(), params.extra.detach(), log_prob.detach())
        return gradient, float(loss.detach()), float(entropy.detach()), old

    def fisher_product(self, v: Tensor) -> Tensor:
        """The Hessian of the mean KL at the old θ times v [P]: the KL's gradient differentiated along v."""

        def along(pair: tuple[Tensor, Tensor]) -> Tensor:
            theta, gradient = pair
            return torch.autograd.grad(gradient.dot(v), theta, retain_graph=True)[0]

        return self._kl_gradients.sum(along)

    @cached_property
    def _kl_gradients(self) -> Parts[tuple[Tensor, Tensor]]:
        """Of every share θ and the KL's gradient by it, which is zero here; its graph serves all products."""
        steps = float(sum(self.fisher_shares.gather(lambda trials: int(trials.valid.sum()))))

        def share(trials: Trials) -> tuple[Tensor, Tensor]:
            theta = self.theta.detach().requires_grad_()
            params, outputs = self.surrogate.forward(theta, trials, twice=True)
            old = outputs.detach(), params.extra.detach()
            kl = self.surrogate.kl(old, (outputs, params.extra), trials.valid) / steps
            return theta, torch.autograd.grad(kl, theta, create_graph=True)[0]

        return self.fisher_shares.keep(share)

    def evaluate(self, psi: Tensor) -> tuple[float, float]:
        """Loss and mean KL at other parameters [P]."""

        def share(pair: tuple[Trials, _OldPolicy]) -> tuple[float, float]:
            trials, old = pair
            with torch.no_grad():
                params, outputs = self.surrogate.forward(psi, trials)
                log_prob, entropies = log_probs(self.surrogate.policy, params, outputs, trials.action)
                loss, _ = self.surrogate.loss(trials, log_prob - old.log_prob, entropies)
                kl = self.surrogate.kl((old.outputs, old.extra), (outputs, params.extra), trials.valid)
                return float(loss), float(kl) / self.surrogate.steps

        losses, kls = zip(*self.shares.beside(self._old).gather(share), strict=True)
        return sum(losses), sum(kls)
