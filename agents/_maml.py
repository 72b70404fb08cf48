"""What agents share whose meta-gradient goes through adaptation (Finn et al. 2017, arXiv:1703.03400)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from metarl.config.schema import Lineage, RunConfig
from metarl.errors import NumericError
from metarl.learning.adaptation import analytic, autograd
from metarl.learning.adaptation.inner_loop import InnerLoop, LearnedRates
from metarl.learning.adaptation.interface import Adapt
from metarl.learning.adaptation.meta_lstm import ForgetGate, GateBias, MetaLSTM
from metarl.learning.inner_losses import INNER_LOSSES, InnerLossName, Samples
from metarl.learning.meta_objective import MetaObjective, TaskObjective
from metarl.learning.reduce import Parts
from metarl.learning.samples import LEARNED_FROM, Estimates, thinning_keys
from metarl.nn.optimizers import FlatOptimizer, OptimizerName
from metarl.types import Metrics, Trajectory

from ._gradient import GradientAgent, GradientAgentConfig

LINEAGES = {
    "finn2017": Lineage(
        pins={"hidden_sizes": [100, 100], "activation": "relu", "later_step_lr_scale": 0.5, "advantage_norm": "std"},
        why="cbfinn/maml_rl: two ReLU layers of 100; at test time the step size is halved after the first step",
        differs="there one baseline serves all tasks, one phase stale, Hessian products are finite differences, and "
        "Ant is rllab's model of it: its returns on Ant cannot be reproduced",
    ),
    "promp2018": Lineage(
        pins={"hidden_sizes": [64, 64], "activation": "tanh", "inner_lr": 0.1, "advantage_norm": "std"},
        why="jonasrothfuss/ProMP run_scripts/maml_run_mujoco.py: two tanh layers of 64",
        differs="its Hessian products are finite differences in float32, ours are exact",
    ),
    "garage2020": Lineage(
        pins={"hidden_sizes": [64, 64], "activation": "tanh", "inner_lr": 0.1, "advantage_norm": "var"},
        why="rlworkgroup/garage examples/torch/maml_*: two tanh layers of 64; advantages are divided by the variance",
        differs="its baseline is a network of 2 × 32 that takes a single Adam step per phase; ours is the linear one",
    ),
    "metaworldplus2025": Lineage(
        pins={"hidden_sizes": [512, 512], "activation": "tanh", "inner_lr": 0.1, "advantage_norm": "var"},
        why="rainx0r/metaworld-algorithms examples/meta_learning/maml_trpo_*: two tanh layers of 512; advantages are "
        "divided by the variance",
        differs="its success counter favours successes; it stands beside the one that counts all goals alike",
    ),
}


class MAMLConfig(GradientAgentConfig):
    """Settings of agents whose meta-gradient goes through adaptation."""

    num_adapt_steps: PositiveInt = Field(1, description="K adaptation steps in training, each on newly gathered data")
    inner_loss: InnerLossName = Field(
        "log_prob", description="log_prob = Finn 2017; ratio = low-variance curvature (ProMP); dice = unbiased, noisier"
    )
    first_order: bool = Field(False, description="ignore second derivatives of adaptation (FOMAML)")
    adapt_layers: Literal["all", "head"] = Field(
        "all", description="head = adapt the last layer and the standard deviations only (ANIL)"
    )
    learn_inner_lr: LearnedRates = Field(
        "none", description="learn the step size too: one per tensor, or one per parameter (Meta-SGD)"
    )
    outer_phases: Literal["last", "all"] = Field(
        "last",
        description="what the meta-update improves: the phase after all K steps, or the mean over those after 1 … K",
    )
    update_rule: Literal["sgd", "meta_lstm"] = Field(
        "sgd", description="how an inner step moves the policy: sgd = by −α∇L; meta_lstm = as a learned LSTM says"
    )
    rule_size: PositiveInt = Field(20, description="meta_lstm: units of the LSTM, which all parameters share")
    rule_forget: ForgetGate = Field("learned", description="meta_lstm: pinned = parameters are never scaled down")
    rule_bias: GateBias = Field("shared", description="meta_lstm: the input gate's bias, one for all or per_parameter")
    exploration: Literal["none", "sum", "mean"] = Field(
        "none", description="E-MAML: credit the data gathered before adaptation with the return after it"
    )

    def inner_steps_in_training(self) -> int:
        return self.num_adapt_steps

    def without_effect(self, run: RunConfig) -> dict[str, str]:
        found = super().without_effect(run)
        if self.num_adapt_steps == 1:
            found["agent.outer_phases"] = "the last phase is the only one after adaptation: agent.num_adapt_steps = 1"
        if self.update_rule == "sgd":
            rules = [name for name in type(self).model_fields if name.startswith("rule_")]
            found |= {f"agent.{name}": "agent.update_rule = sgd has no rule that is learned" for name in rules}
        else:
            found["agent.first_order"] = "agent.update_rule = meta_lstm takes no second derivatives in any case"
            found["agent.later_step_lr_scale"] = "agent.update_rule = meta_lstm decides on its own how far a step goes"
        return found

    @model_validator(mode="after")
    def _a_rule_that_decides_alone(self) -> MAMLConfig:
        if self.update_rule == "sgd":
            return self
        others = {"adapt_layers": "all", "learn_inner_lr": "none", "exploration": "none"}
        for name, neutral in others.items():
            if (found := getattr(self, name)) != neutral:
                raise ValueError(
                    f"update_rule = meta_lstm with {name} = {found}: the rule decides alone how far every parameter "
                    f"moves; use {name} = {neutral}, or update_rule = sgd"
                )
        if self.inner_lr >= 1:
            raise ValueError(
                f"update_rule = meta_lstm starts with an input gate of inner_lr = {self.inner_lr}: expected less than 1"
            )
        return self

    @model_validator(mode="after")
    def _combinations(self) -> MAMLConfig:
        if self.adapt_layers == "head" and self.learn_inner_lr != "none":
            raise ValueError(
                f"learn_inner_lr = {self.learn_inner_lr} with adapt_layers = head would learn step sizes of tensors "
                "that never take a step: use adapt_layers = all, or learn_inner_lr = none"
            )
        if self.exploration != "none" and self.inner_loss != "log_prob":
            raise ValueError(
                f"exploration = {self.exploration} with inner_loss = {self.inner_loss} would count twice how data "
                "depends on the policy: use inner_loss = log_prob, or exploration = none"
            )
        return self


@dataclass(frozen=True)
class _Phases:
    """The K+1 phases of some tasks as samples, and what went into their advantages."""

    samples: tuple[Samples, ...]
    estimates: tuple[Estimates, ...]

    def thinned(self, fraction: float, keys: Sequence[Tensor]) -> list[Samples]:
        """A sub-sample of every phase; see :meth:`metarl.learning.inner_losses.Samples.thinned`."""
        return [samples.thinned(fraction, key) for samples, key in zip(self.samples, keys, strict=True)]


class MAMLAgent(GradientAgent):
    """θ is improved for what it becomes: the outer loss is that of policies after adaptation, and its gradient by ψ
    goes through the inner steps. The agents differ in how ψ then moves.

    ``adapt_by`` is how adaptation is computed: with derivatives written out, or, several times as slow and the same up
    to rounding, :func:`metarl.learning.adaptation.autograd.adapt`.
    """

    config: MAMLConfig
    adapt_by: ClassVar[Adapt] = staticmethod(analytic.adapt)

    @property
    def num_adapt_steps(self) -> int:  # type: ignore[override]
        """K."""
        return self.config.num_adapt_steps

    def _inner_loop(self, device: torch.device) -> InnerLoop:
        config, policy, mask = self.config, self._policy, None
        if config.adapt_layers == "head":
            fan_in, fan_out = policy.mlp.sizes[-2:]
            mask = torch.zeros(policy.num_parameters, device=device)
            head = policy.mlp.num_parameters - (fan_in + 1) * fan_out
            mask[head : policy.mlp.num_parameters + policy.distribution.num_extra] = 1.0
        loss = INNER_LOSSES[config.inner_loss]
        if config.update_rule == "meta_lstm":
            return MetaLSTM(
                policy,
                config.inner_lr,
                loss=loss,
                first_order=True,
                size=config.rule_size,
                forget=config.rule_forget,
                bias=config.rule_bias,
            )
        return InnerLoop(
            policy,
            config.inner_lr,
            config.later_step_lr_scale,
            loss,
            first_order=config.first_order,
            learned=config.learn_inner_lr,
            mask=mask,
        )

    def _objective(
        self, batches: Sequence[Trajectory], *, fisher_fraction: float = 1.0, rng: np.random.Generator | None = None
    ) -> tuple[MetaObjective, Tensor, Metrics]:
        """The objective around ψ, the meta-gradients of its tasks [N, Q], and what is to be logged of both.

        Raises:
            NumericError: the loss or a gradient is not finite; nothing has changed.
        """
        if len(batches) != self.num_adapt_steps + 1:
            raise ValueError(f"expected {self.num_adapt_steps + 1} phases, got {len(batches)}")
        data = [batch.on(self.psi.device, LEARNED_FROM) for batch in batches]
        chunks = Parts.of_tasks(self._map, len(data[0].obs))
        # phases as samples with advantages, chunk by chunk
        prepared = chunks.keep(lambda chunk: self._phases(data, chunk))
        estimates = Estimates.of_phases(prepared.gather(lambda part: [e.state() for e in part.estimates]))
        # which steps the outer loss is about, and what each counts; E-MAML's credit takes all tasks to work out
        credits = self._credits(estimates)
        pairs = prepared.beside(chunks)
        parts = pairs.keep(lambda pair: self._part(*pair, credits))
        # Fisher products from all steps, or from a part of them
        products = None
        if fisher_fraction < 1:
            assert rng is not None
            keys = [thinning_keys(batch, rng).to(self.psi.device) for batch in batches]
            thinned = pairs.keep(lambda pair: pair[0].thinned(fisher_fraction, [key[pair[1]] for key in keys]))
            products = parts.beside(thinned).keep(lambda pair: pair[0].fisher_product(pair[1]))
        objective = MetaObjective(parts, products)
        gradients = objective.gradients()
        metrics = self._learning_metrics(gradients, objective.diagnostics(), batches, estimates)
        return objective, gradients, metrics | {"loss/before": objective.old_loss}

    def _phases(self, batches: Sequence[Trajectory], chunk: slice) -> _Phases:
        """All phases of a chunk of tasks."""
        samples, estimates = zip(*(self._samples(batch.tasks(chunk)) for batch in batches), strict=True)
        return _Phases(samples, estimates)

    def _part(self, phases: _Phases, chunk: slice, credits: Sequence[Tensor]) -> TaskObjective:
        """The objective of a chunk of tasks."""
        coefs = self._coefs(phases.samples, [credit[chunk] for credit in credits])
        return TaskObjective(
            self._loop,
            self.psi,
            phases.samples,
            coefs,
            self._scratch,
            constrained=self._improved,
            adapt=autograd.adapt if self.config.update_rule == "meta_lstm" else self.adapt_by,
        )

    @property
    def _improved(self) -> list[int]:
        """The phases that the meta-update improves."""
        return list(range(1 if self.config.outer_phases == "all" else self.num_adapt_steps, self.num_adapt_steps + 1))

    def _credits(self, estimates: Sequence[Estimates]) -> list[Tensor]:
        """E-MAML's credit [N] of the steps of phases 0 … K−1: that of all improved phases behind each."""
        if self.config.exploration == "none":
            return []
        earned = {k: exploration_credit(estimates[k]) / len(self._improved) for k in self._improved}
        credits = [sum((earned[j] for j in earned if j > k), torch.zeros(())) for k in range(self.num_adapt_steps)]
        if self.config.exploration == "mean":
            credits = [credit / estimates[k].episodes for k, credit in enumerate(credits)]
        return credits

    def _coefs(self, phases: Sequence[Samples], credits: Sequence[Tensor]) -> dict[int, Tensor]:
        coefs = {k: phases[k].loss_coef / len(self._improved) for k in self._improved}
        for k, credit in enumerate(credits):
            explore = -credit.unsqueeze(1) * (phases[k].weight > 0)
            coefs[k] = coefs[k] + explore if k in coefs else explore
        return coefs


def exploration_credit(after: Estimates) -> Tensor:
    """What E-MAML credits a task's data before adaptation with, per step: [N].

    R is the return that a policy gradient through sampling multiplies log π(τ) with, for all trajectories τ that
    adaptation saw: ∇J = E[R(τ')(∇log π_θ'(τ') + Σ_τ ∇log π_θ(τ))]. It is put into the units of the surrogate loss, a
    mean over steps of advantages divided by their scale: (Rᵢ − b)/(T·σᵢ), b the mean return of the other tasks, which
    does not depend on task i's data and so leaves the gradient unbiased.

    Source: Stadie et al. 2018, arXiv:1803.01118, eq. 4–5 (E-MAML); Al-Shedivat et al. 2018, arXiv:1710.03641, eq. 6–7.
    The sum over trajectories is the exact term; E-MAML's experiments use the mean of them, which has less variance
    and is smaller by the number of episodes.
    """
    returns, num_tasks = after.episode_return, len(after.episode_return)
    others = (returns.sum() - returns) / (num_tasks - 1) if num_tasks > 1 else torch.zeros_like(returns)
    steps = after.steps.to(returns.dtype) / after.episodes  # of an episode
    return (returns - others) / (steps * after.scale)


class DescentConfig(MAMLConfig):
    """Settings of the outer optimiser."""

    outer_optimizer: OptimizerName = Field("adam", description="adam, or sgd without momentum")
    outer_lr: PositiveFloat = Field(1e-3, description="its step size")
    rule_lr: NonNegativeFloat = Field(1e-3, description="meta_lstm: its step size for the rule; 0 = it stays as it is")
    rule_clip: PositiveFloat = Field(0.25, description="meta_lstm: bound on the norm of the rule's gradient")


class ClippedConfig(DescentConfig):
    """Settings of several epochs on one meta-batch, by a clipped surrogate loss."""

    epochs: PositiveInt = Field(5, description="optimiser steps per meta-batch, each on all samples")
    clip: float = Field(0.3, gt=0, lt=1, description="probability ratios beyond 1 ± clip earn nothing more")

    def without_effect(self, run: RunConfig) -> dict[str, str]:
        found = super().without_effect(run)
        if self.epochs == 1:
            found["agent.clip"] = "no ratio differs from 1 in a first step: agent.epochs = 1"
        return found


class DescentMAMLAgent(MAMLAgent):
    """Agents differ in the number of epochs, in clipping and in the penalty."""

    config: DescentConfig

    def _start_afresh(self) -> None:
        self._optimizer = FlatOptimizer(self.config.outer_optimizer, self.psi)

    def state(self) -> dict[str, Tensor]:
        return super().state() | self._optimizer.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self._optimizer.load_state(state)

    def _descended(self, psi: Tensor, gradient: Tensor) -> Tensor:
        """ψ [Q] after the optimiser's step; a learned rule in it has a step size of its own and a bounded gradient."""
        config, rule = self.config, slice(self._policy.num_parameters, None)
        if config.update_rule == "sgd":
            return self._optimizer.step(psi, gradient, config.outer_lr)
        gradient[rule] *= min(1.0, config.rule_clip / max(float(gradient[rule].norm()), 1e-12))
        moved = self._optimizer.step(psi, gradient, config.outer_lr)
        moved[rule] = psi[rule] + config.rule_lr / config.outer_lr * (
            moved[rule] - psi[rule]
        )  # steps go with their size
        return moved

    def _descend(
        self, batches: Sequence[Trajectory], *, epochs: int, clip: float | None, inner_kl_penalty: float
    ) -> Metrics:
        """``epochs`` steps, each on all samples, with the inner steps repeated from the current ψ.

        Raises:
            NumericError: a loss or a gradient is not finite; ψ and the optimiser are as before.
        """
        objective, _, metrics = self._objective(batches)
        psi, moments = self.psi, self._optimizer.state()
        for _ in range(epochs):
            gradient, loss = objective.clipped_gradient(psi, clip=clip, inner_kl_penalty=inner_kl_penalty)
            if not (math.isfinite(loss) and bool(gradient.isfinite().all())):
                self._optimizer.load_state(moments)
                raise NumericError(f"expected a finite loss and gradient, got loss {loss}; parameters are unchanged")
            psi = self._descended(psi, gradient)
        loss, kl = objective.evaluate(psi)
        if not (math.isfinite(loss) and bool(psi.isfinite().all())):
            self._optimizer.load_state(moments)
            raise NumericError(f"expected a finite loss after the update, got {loss}; parameters are unchanged")
        self.psi = psi
        return metrics | {"loss/after": loss, "loss/kl": kl}
