"""RL² with PPO: a recurrent policy whose memory of the trial is what adapts, trained by clipped policy gradients.

Duan, Schulman, Chen, Bartlett, Sutskever & Abbeel 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement
Learning", arXiv:1611.02779, with the objective of Schulman et al. 2017, arXiv:1707.06347, eq. 7 and 9, for TRPO's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from metarl.config.schema import Lineage, RunConfig
from metarl.errors import NumericError
from metarl.learning.reduce import Parts
from metarl.learning.trials import Trials, longest
from metarl.nn.memories.memory import State
from metarl.nn.optimizers import FlatOptimizer, require_whole_schedule, schedule_conflicts, scheduled
from metarl.parallel import task_chunks
from metarl.types import Metrics

from ._memory import MemoryAgent, MemoryAgentConfig, initial_state, log_probs

MAX_LOG_RATIO = 20.0  # beyond, exp overflows into gradients of 0·∞; far beyond any clip
SUMS = ("loss/policy", "loss/value", "policy/entropy", "loss/kl", "loss/clipped")


class RL2PPOConfig(MemoryAgentConfig):
    """Settings of RL² with PPO."""

    lineages: ClassVar[dict[str, Lineage]] = {
        "rl2_2016": Lineage(
            pins={
                "memory": "gru",
                "memory_size": 256,
                "gamma": 0.99,
                "gae_lambda": 0.3,
                "lr": 2e-4,
                "epochs": 8,
                "minibatches": 8,
                "clip": 0.1,
                "entropy_coef": 0.01,
            },
            why="Duan et al. 2016: GRU of 256, γ 0.99, λ 0.3; lucaslingle/rl2: PPO with Adam 2e-4, 8 epochs of "
            "8 minibatches, clip 0.1, entropy 0.01",
            differs="the paper trains by TRPO on 250 000 steps per iteration (agent rl2_trpo); lucaslingle/rl2 decays "
            "weights by 0.01",
        ),
        "varibad2020": Lineage(
            pins={
                "memory": "gru",
                "memory_size": 128,
                "encoder_sizes": [64],
                "gamma": 0.97,
                "gae_lambda": 0.9,
                "lr": 7e-4,
                "epochs": 2,
                "minibatches": 4,
                "clip": 0.1,
                "entropy_coef": 0.01,
                "max_grad_norm": 0.5,
            },
            why="lmzintgraf/varibad: config/mujoco/args_cheetah_dir_rl2.py",
            differs="its learner divides rewards by the deviation of their returns, here advantages and targets of the "
            "value head are standardised; its state, action and reward have encoders of their own (32, 16 and 16 wide: "
            "64 together here), and a feed-forward network of 128 follows the memory; it adds a step between episodes",
        ),
        "metaworldplus2025": Lineage(
            pins={
                "episodes_per_trial": 10,
                "encoder_sizes": [256, 256],
                "activation": "tanh",
                "memory": "gru",
                "memory_size": 256,
                "reward_input_scale": 0.1,
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "critic": "linear_per_task",
                "advantage_norm": "none",
                "lr": 5e-4,
                "adam_epsilon": 1e-5,
                "epochs": 10,
                "minibatches": 1,
                "bptt_steps": 250,
                "clip": 0.2,
                "entropy_coef": 5e-3,
                "max_grad_norm": 1.0,
            },
            why="rainx0r/metaworld-algorithms: examples/meta_learning/rl2_*.py, rl/algorithms/rl2.py",
            differs="its chunks of 250 steps overlap by 50; here each begins where the last one ended; its standard "
            "deviation is an output of the network, here a parameter",
        ),
    }

    less_memory: ClassVar[str] = "more agent.minibatches, in a new run"

    name: Literal["rl2_ppo"] = "rl2_ppo"
    lr: PositiveFloat = Field(3e-4, description="Adam's step size")
    lr_end: NonNegativeFloat | None = Field(None, description="where lr goes linearly; null = it is constant")
    lr_iterations: PositiveInt | None = Field(None, description="meta-updates after which it has got there")
    adam_epsilon: PositiveFloat = Field(1e-8, description="Adam's ε")
    epochs: PositiveInt = Field(8, description="passes over the trials of an iteration")
    minibatches: PositiveInt = Field(4, description="parts of an epoch, each of whole trials drawn at random")
    bptt_steps: PositiveInt | None = Field(
        None,
        description="truncated backpropagation: an optimiser step behind every so many steps of the trials, through "
        "which the memory's state is carried on; null = whole trials",
    )
    clip: float = Field(0.2, gt=0, lt=1, description="probability ratios beyond 1 ± clip earn nothing more")
    value_coef: PositiveFloat = Field(0.5, description="weight of the value head's loss, ½(V − target)²")
    max_grad_norm: PositiveFloat | None = Field(0.5, description="gradients are scaled down to this norm; null = never")

    @model_validator(mode="after")
    def _whole_schedule(self) -> RL2PPOConfig:
        require_whole_schedule("lr", self.lr_end, self.lr_iterations)
        return self

    def conflicts(self, run: RunConfig) -> list[str]:
        return super().conflicts(run) + schedule_conflicts("lr", self.lr_end, self.lr_iterations, run)

    def without_effect(self, run: RunConfig) -> dict[str, str]:
        found = super().without_effect(run)
        if self.critic != "value_head":
            found["agent.value_coef"] = f"agent.critic = {self.critic} trains no value head"
        return found

    def _trial_conflicts(self, steps: int, trial: str) -> list[str]:
        found = super()._trial_conflicts(steps, trial)
        if self.bptt_steps is not None and self.bptt_steps > steps:
            reason = f"a trial has no more steps ({trial})"
            whole = "agent.bptt_steps=null takes whole trials"
            found.append(f"agent.bptt_steps = {self.bptt_steps}: expected at most {steps}, because {reason}; {whole}")
        return found


@dataclass(frozen=True)
class _Share:
    """What one thread makes of its share of a minibatch's steps."""

    gradient: Tensor  # [P]
    sums: Tensor  # weighted sums of SUMS
    state: State  # behind the last of the steps


class RL2PPO(MemoryAgent):
    """Every iteration makes ``epochs`` passes over its trials in minibatches of whole trials.

    min Σₘ wₘ [−min(ρA, clamp(ρ, 1 ± clip)A) + value_coef·½(V − V_target)² − entropy_coef·H], ρ = π_θ(a|trial)/π_old.
    The policy's features at a step depend on all of the trial before it. With ``bptt_steps`` the trials of a minibatch
    are cut into chunks of that length; behind each chunk there is an optimiser step, and the next one starts from the
    state that the chunk ended with. That state was computed with parameters of before the step: how far it is from
    the one that the latest parameters have is logged, ``memory/state_mismatch``.
    """

    config_class = RL2PPOConfig
    config: RL2PPOConfig

    def _improve(self, trials: Trials, rng: np.random.Generator) -> Metrics:
        config = self.config
        moments, norms = self._optimizer.state(), []
        lr = scheduled(config.lr, config.lr_end, config.lr_iterations, self._updates)
        try:
            for epoch in range(config.epochs):
                order = torch.from_numpy(rng.permutation(len(trials.inputs))).to(self.theta.device)
                parts = order.tensor_split(min(config.minibatches, len(order)))
                for number, index in enumerate(parts):
                    last = epoch == config.epochs - 1 and number == len(parts) - 1
                    sums, norm, mismatch = self._descend(trials.rows(index), lr, measure=last)
                    norms.append(norm)
        except NumericError:
            self._optimizer.load_state(moments)
            raise
        self._updates += 1
        means = dict(zip(SUMS, sums.cpu().tolist(), strict=True))
        if config.critic != "value_head":
            del means["loss/value"]  # of a head that does not learn
        return {
            **means,
            "loss/gradient_norm": float(np.mean(norms)),
            "memory/state_mismatch": mismatch,
            "loss/lr": lr,
        }

    def _descend(self, trials: Trials, lr: float, *, measure: bool) -> tuple[Tensor, float, float]:
        """One pass over a minibatch: weighted means of SUMS, the mean gradient norm, and the state's mismatch, which
        costs another forward pass, where it is to be measured."""
        # shares of the trials, each from the start of its trials
        rows = self.in_shares(trials)
        states = rows.keep(lambda share: initial_state(self._policy, share.inputs))
        steps = longest(trials.valid)
        chunks = list(task_chunks(steps, self.config.bptt_steps or steps))
        scale = len(chunks) / float(trials.valid.sum())
        sums, norms, mismatch = self.theta.new_zeros(len(SUMS)), [], 0.0
        # an optimiser step behind each chunk of steps; the next one starts from the state that it has left
        for chunk in chunks:
            given = rows.beside(states)
            if measure and len(chunks) > 1 and chunk is chunks[-1]:
                mismatch = self._mismatch(given, chunk.start)
            shares = self._learned(given, chunk, scale)
            gradients, found = zip(*shares.gather(lambda share: (share.gradient, share.sums)), strict=True)
            gradient = torch.stack(gradients).sum(0)
            norm = float(gradient.norm())
            if not math.isfinite(norm):
                raise NumericError(f"expected a finite gradient, got norm {norm}; parameters are unchanged")
            if self.config.max_grad_norm is not None and norm > self.config.max_grad_norm:
                gradient *= self.config.max_grad_norm / norm
            self.theta = self._optimizer.step(self.theta, gradient, lr)
            states = shares.keep(lambda share: share.state)
            sums += torch.stack(found).sum(0) / len(chunks)
            norms.append(norm)
        return sums, float(np.mean(norms)), mismatch

    def _learned(self, given: Parts[tuple[Trials, State]], steps: slice, scale: float) -> Parts[_Share]:
        """:meth:`_share` of some of the steps of trials, which begin with these states."""
        return given.keep(lambda pair: self._share(pair[0].steps(steps), pair[1], scale))

    def _share(self, trials: Trials, state: State, scale: float) -> _Share:
        """Loss and gradient of some steps of some trials, each valid step weighing ``scale``."""
        config = self.config
        theta = self.theta.detach().requires_grad_()
        params = self._policy.unpack(theta[None])
        outputs, value, state = self._policy.scan(params, trials.inputs, state, time=trials.time)
        log_prob, entropy = log_probs(self._policy, params, outputs, trials.action)
        weight = trials.valid * scale
        log_ratio = torch.where(trials.valid, log_prob - trials.log_prob, 0.0).clamp(max=MAX_LOG_RATIO)
        ratio = log_ratio.exp()
        gain = torch.minimum(ratio * trials.advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * trials.advantage)
        policy_loss, entropy = -(weight * gain).sum(), (weight * entropy).sum()
        loss = policy_loss - config.entropy_coef * entropy
        value_loss = 0.5 * (weight * (value - trials.target).square()).sum()
        if config.critic == "value_head":
            loss = loss + config.value_coef * value_loss
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            kl = (weight * (ratio - 1 - log_ratio)).sum()  # Schulman's estimate of KL(old ‖ new), never negative
            clipped = (weight * ((ratio - 1).abs() > config.clip)).sum()
            sums = torch.stack([policy_loss, value_loss, entropy, kl, clipped]).detach()
        return _Share(gradient, sums, tuple(part.detach() for part in state))

    def _mismatch(self, given: Parts[tuple[Trials, State]], start: int) -> float:
        """‖carried − recomputed‖/‖recomputed‖ of the states before step ``start``, counts of steps left out."""

        def squares(pair: tuple[Trials, State]) -> list[tuple[float, float]]:
            with torch.no_grad():
                params, inputs = self._policy.unpack(self.theta[None]), pair[0].inputs[:, :start]
                anew = self._policy.scan(params, inputs, initial_state(self._policy, inputs))[2]
                return [
                    (float((carried - recomputed).square().sum()), float(recomputed.square().sum()))
                    for carried, recomputed in zip(pair[1], anew, strict=True)
                    if carried.ndim > 1
                ]

        found = [of_state for share in given.gather(squares) for of_state in share]
        distance, length = (sum(values) for values in zip(*found, strict=True)) if found else (0.0, 0.0)
        return math.sqrt(distance / length) if length else 0.0

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"updates": torch.tensor(self._updates)} | self._optimizer.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self._optimizer.load_state(state)
        self._updates = int(state["updates"])

    def _start_afresh(self) -> None:
        self._optimizer = FlatOptimizer("adam", self.theta, epsilon=self.config.adam_epsilon)
        self._updates = 0
