"""Learned policy gradient: the rule by which policies learn is itself learned, over many lifetimes of them.

Oh et al. 2020, "Discovering Reinforcement Learning Algorithms", arXiv:2007.08794. REINFORCE and A2C are here as rules
written by hand, for comparison: the same lifetimes, data and step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.autograd import grad

from metarl.agent import Agent, require_tensors
from metarl.config.schema import AgentConfig, LearnerConfig, RunConfig
from metarl.errors import ConfigError, NumericError, WorkerError
from metarl.learning.lifetimes import READ, Advantages, Episodes, Lifetimes, Objective, said_of, through_updates
from metarl.learning.reduce import Parts
from metarl.learning.returns import discounted_returns
from metarl.learning.update_rule import Targets, UpdateRule
from metarl.nn import parameters
from metarl.nn.mlp import Activation
from metarl.nn.optimizers import FlatOptimizer
from metarl.nn.policies import MLPPolicy, make_policy
from metarl.parallel import TaskMap
from metarl.spaces import SpaceSpec
from metarl.types import Metrics, Trajectory

LEARNED = "learned"
OF_THE_CRITIC = ("critic_size", "critic_lr", "critic_steps", "gae_lambda")
OF_WHAT_IS_LEARNED = (
    *("rule_size", "predictions", "prediction_coef", "outer_lr", "max_grad_norm", "entropy_coef"),
    *("prediction_entropy_coef", "policy_target_coef", "prediction_target_coef"),
)


class LPGConfig(AgentConfig):
    """Settings of lifetimes, and of the rule that they learn by."""

    name: Literal["lpg"] = "lpg"
    rule: Literal["learned", "reinforce", "a2c"] = Field(
        "learned", description="learned = by meta-gradients; reinforce, a2c = by hand: π̂ is the return, the advantage"
    )
    # of a lifetime
    hidden_sizes: list[PositiveInt] = Field(
        [32], description="widths of the hidden layers of policy and predictions, which share none; [] = linear"
    )
    activation: Activation = Field("tanh", description="activation between layers")
    inner_lr: PositiveFloat = Field(1.0, description="step size α of a lifetime's updates")
    num_adapt_steps: PositiveInt = Field(
        5, description="K updates per iteration, which the meta-gradient goes through, each on newly gathered episodes"
    )
    lifetime: PositiveInt = Field(
        40,
        description="iterations that a lifetime lasts, before another begins in a new task; the first ones end early",
    )
    gamma: float = Field(0.99, ge=0, le=1, description="discount factor")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="λ of advantages and of the critic's targets")
    critic_size: PositiveInt = Field(32, description="units of a lifetime's critic")
    critic_lr: PositiveFloat = Field(1e-2, description="step size of its Adam")
    critic_steps: PositiveInt = Field(5, description="its steps per phase")
    # of the rule
    rule_size: PositiveInt = Field(64, description="units of the rule's GRU")
    predictions: int = Field(
        8, ge=2, description="m: numbers of y(s), which sum to 1 and mean what the rule makes of it"
    )
    prediction_coef: NonNegativeFloat = Field(0.5, description="α_y: how far predictions move, beside the policy")
    outer_lr: NonNegativeFloat = Field(1e-4, description="step size of the rule's Adam; 0 = the rule stays as it is")
    max_grad_norm: PositiveFloat = Field(0.5, description="bound on the norm of the meta-gradient")
    entropy_coef: NonNegativeFloat = Field(0.05, description="β₀: worth of an updated policy's entropy")
    prediction_entropy_coef: NonNegativeFloat = Field(1e-3, description="β₁: worth of the entropy of y")
    policy_target_coef: NonNegativeFloat = Field(5e-3, description="β₂: price of π̂²")
    prediction_target_coef: NonNegativeFloat = Field(1e-3, description="β₃: price of |ŷ|²")

    def work(self, run: RunConfig) -> int:
        per_step = sum(fan_in * fan_out for fan_in, fan_out in pairwise(self.hidden_sizes))
        if self.rule == LEARNED:
            per_step += 3 * self.rule_size**2
        return per_step * run.meta_batch_size * run.rollouts_per_task * run.task.horizon

    def num_parameters(self, spaces: SpaceSpec) -> int:
        return parameters.length(UpdateRule(self.rule_size, self.predictions).shapes()) if self.rule == LEARNED else 0

    def memory_needs(self, run: RunConfig, spaces: SpaceSpec) -> dict[str, int]:
        size = _lifetimes(spaces, self).size
        words = f"agent.hidden_sizes = {self.hidden_sizes}: with {spaces.observation.size} observations every task has"
        return {f"{words} {size} numbers": 2 * 4 * run.meta_batch_size * size}

    def without_effect(self, run: RunConfig) -> dict[str, str]:
        found = {
            "eval.restored_episodes": "the agent has no memory that could be restored",
            "learner.shares": "the agent learns in chunks of tasks, learner.tasks_per_chunk",
        }
        if not self.hidden_sizes:
            found["agent.activation"] = "agent.hidden_sizes = [] has no layers"
        if run.eval.adapt_steps == 0:
            keys = ("adapt_episodes", "adapt_env_steps", "score_every")
            found |= {f"eval.{key}": "eval.adapt_steps = 0 adapts in no evaluation" for key in keys}
        if self.rule != LEARNED:
            found |= {f"agent.{key}": f"agent.rule = {self.rule} is written by hand" for key in OF_WHAT_IS_LEARNED}
        if self.rule == "reinforce":
            found |= {f"agent.{key}": "agent.rule = reinforce has no critic" for key in OF_THE_CRITIC}
        return found


def _lifetimes(spaces: SpaceSpec, config: LPGConfig) -> Lifetimes:
    policy = make_policy(spaces, tuple(config.hidden_sizes), config.activation, min_std=1.0)
    return Lifetimes.of(policy, config.predictions, config.critic_size, config.activation)


class _Improvement(NamedTuple):
    """What a chunk of tasks gives for the rule and for its lifetimes."""

    gradient: Tensor  # of what is to be made larger by η, summed over tasks [Q]
    objective: dict[str, Tensor]  # by name [C]
    rows: Tensor  # [C, R], with the critic fitted to the last phase
    critic: dict[str, Tensor]  # by name [C]


class LPG(Agent):
    """η is improved for what policies become under K of its updates, in the middle of their lives.

    A task is met for ``lifetime`` iterations, in which its policy goes through K updates each. Then it is gone, and a
    new policy begins in a new task. The first lifetimes end early, one after the other, so that at any time there are
    policies of every age.

    A row of :meth:`init_adapted` and :meth:`adapt` is [2R]: a lifetime as it is now, and as it was when the iteration
    began, from which the meta-update goes through its updates again (:mod:`metarl.learning.lifetimes` has its parts).
    Workers get the policy alone.
    """

    config_class = LPGConfig
    config: LPGConfig
    _rows: Tensor  # [N, R], the lifetimes at the end of the latest iteration
    _age: Tensor  # [N], iterations that each has lived; 0: it begins in the next one
    _left: Tensor  # [N], iterations that each has to live

    def __init__(
        self,
        spaces: SpaceSpec,
        config: AgentConfig,
        learner: LearnerConfig,
        *,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        assert isinstance(config, LPGConfig)
        assert learner.threads != "auto" and learner.tasks_per_chunk != "auto"
        if spaces.action.kind != "discrete":
            raise ConfigError(
                f"agent.name = lpg: expected a task whose actions are choices, because its rule is told π(a|s); got "
                f"{spaces.action.size} numbers: tabular_mdp, grid_navi and bernoulli_bandit have choices, and point "
                "has with task.actions = nine"
            )
        self.config, self._device = config, device
        self._lifetimes = _lifetimes(spaces, config)
        self._rule = UpdateRule(config.rule_size, config.predictions) if config.rule == LEARNED else None
        threads = learner.threads if device.type == "cpu" else 1  # a GPU is fed by one
        self._map = TaskMap(threads=threads, chunk=learner.tasks_per_chunk, interrupt=lambda: self.interrupt())
        self.eta = torch.zeros(0, device=device) if self._rule is None else self._rule.initial(rng).to(device)
        self._start_afresh()

    @property
    def num_adapt_steps(self) -> int:  # type: ignore[override]
        """K."""
        return self.config.num_adapt_steps

    def policy(self) -> MLPPolicy:
        return self._lifetimes.policy

    def policy_parameters(self, adapted: Tensor) -> Tensor:
        return adapted[:, : self._lifetimes.policy.num_parameters]

    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        rng = np.random.default_rng(0) if rng is None else rng
        rows = self._lifetimes.born(num_tasks, rng).to(self._device)
        if training and len(self._rows):
            self._require_as_many(num_tasks)
            rows = torch.where(self._age[:, None] == 0, rows, self._rows)
        return rows.repeat(1, 2)

    def births(self, iteration: int, num_tasks: int) -> list[int]:
        if not len(self._rows):
            return [iteration] * num_tasks
        self._require_as_many(num_tasks)
        return [iteration - age for age in self._age.tolist()]

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        data, adapted = batch.on(self._device, READ), adapted.to(self._device)

        def adapt_some(part: slice) -> Tensor:
            rows, before = adapted[part].chunk(2, dim=1)
            return torch.cat([self._updated(rows, Episodes.of(data.tasks(part))), before], dim=1)

        result = Parts.of_tasks(self._map, len(adapted)).cat(adapt_some)
        if not bool(result.isfinite().all()):
            raise NumericError(f"expected finite parameters after update {step} of a lifetime, got NaN or infinity")
        return result

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        if len(batches) != self.num_adapt_steps + 1:
            raise ValueError(f"expected {self.num_adapt_steps + 1} phases, got {len(batches)}")
        data, adapted = [batch.on(self._device, READ) for batch in batches], adapted.to(self._device)

        def improve(part: slice) -> _Improvement:
            return self._improvement(adapted[part], [Episodes.of(batch.tasks(part)) for batch in data])

        parts = [_Improvement(*found) for found in Parts.of_tasks(self._map, len(adapted)).gather(improve)]
        rows = torch.cat([part.rows for part in parts])
        if not bool(rows.isfinite().all()):
            raise NumericError("expected finite critics after the update; rule and lifetimes are unchanged")
        found = {
            name: torch.cat([values[name] for values in columns])
            for columns in ([part.objective for part in parts], [part.critic for part in parts])
            for name in columns[0]
        }
        metrics = {name: float(values.nanmean()) for name, values in found.items()}
        if self._rule is not None:
            metrics |= self._improve(-torch.stack([part.gradient for part in parts]).sum(0) / len(adapted))
        metrics["lifetimes/age"] = float(self._age.double().mean()) if len(self._age) else 0.0
        self._live_on(rows)
        returns = [batch.mean_return() for batch in batches]
        return metrics | {f"adapt/gain/{k}": returns[k] - returns[k - 1] for k in range(1, len(returns))}

    def _updated(self, rows: Tensor, episodes: Episodes) -> Tensor:
        """Rows [C, R] after one update on what their policies gathered, critics included."""
        config, row = self.config, self._lifetimes.row(rows)
        with torch.no_grad():
            if self._rule is None and config.rule == "reinforce":
                returns = discounted_returns(episodes.reward, episodes.end, gamma=config.gamma)
                theta = self._lifetimes.moved(row.theta, episodes, Targets(returns, None), config.inner_lr, 0.0)
                return torch.cat([theta, rows[:, self._lifetimes.num_moved :]], dim=1)
            advantages = self._advantages(row.critic, episodes)
            if self._rule is None:
                targets = Targets(advantages.advantage, None)
            else:
                look = self._lifetimes.look(row.theta, episodes)
                targets = said_of(self._rule, self.eta, episodes, look, config.gamma)
        theta = self._lifetimes.moved(row.theta, episodes, targets, config.inner_lr, config.prediction_coef)
        fitted, _ = self._fitted(rows, episodes, advantages)
        return torch.cat([theta, fitted[:, self._lifetimes.num_moved :]], dim=1)

    def _improvement(self, adapted: Tensor, phases: Sequence[Episodes]) -> _Improvement:
        """What a chunk of tasks, rows [C, 2R] behind K updates, gives for the rule and for its lifetimes."""
        config = self.config
        rows, began = adapted.chunk(2, dim=1)
        advantages = self._advantages(self._lifetimes.row(rows).critic, phases[-1])
        fitted, critic = rows, dict[str, Tensor]()
        if config.rule != "reinforce":
            fitted, loss = self._fitted(rows, phases[-1], advantages)
            critic = {"critic/loss": loss, "critic/explained_variance": advantages.explained_variance}
        if self._rule is None:
            with torch.no_grad():
                look = self._lifetimes.look(self._lifetimes.row(rows).theta, phases[-1])
            return _Improvement(self.eta, {"policy/entropy": phases[-1].mean(look.entropy)}, fitted, critic)
        eta = self.eta.detach().requires_grad_()
        with torch.enable_grad():
            objective, _ = through_updates(
                self._lifetimes,
                self._rule,
                eta,
                self._lifetimes.row(began).theta,
                phases,
                advantages.advantage,
                gamma=config.gamma,
                rate=config.inner_lr,
                prediction_coef=config.prediction_coef,
            )
            worth = self._worth(objective)
            (gradient,) = grad(worth.sum(), eta)
        logged = {
            "loss/meta": -worth,
            "policy/entropy": objective.entropy,
            "rule/prediction_entropy": objective.prediction_entropy,
            "rule/policy_target": objective.policy_target.sqrt(),
            "rule/divergence": objective.divergence,
        }
        return _Improvement(gradient, {name: values.detach() for name, values in logged.items()}, fitted, critic)

    def _worth(self, objective: Objective) -> Tensor:
        """What is to be made larger, of each task [C].

        Source: Oh et al. 2020, arXiv:2007.08794, eq. 6.
        """
        config = self.config
        return (
            objective.surrogate
            + config.entropy_coef * objective.entropy
            + config.prediction_entropy_coef * objective.prediction_entropy
            - config.policy_target_coef * objective.policy_target
            - config.prediction_target_coef * objective.prediction_target
        )

    def _improve(self, gradient: Tensor) -> Metrics:
        """One step of η down a gradient [Q], bounded in its norm; where it cannot be taken all is as before."""
        norm, before = float(gradient.norm()), self._optimizer.state()
        eta = self._optimizer.step(
            self.eta, gradient * min(1.0, self.config.max_grad_norm / max(norm, 1e-12)), self.config.outer_lr
        )
        if not (np.isfinite(norm) and bool(eta.isfinite().all())):
            self._optimizer.load_state(before)
            raise NumericError(f"expected a finite meta-gradient, got norm {norm}; rule and lifetimes are unchanged")
        self.eta = eta
        return {"loss/meta_gradient_norm": norm}

    def _advantages(self, critic: Tensor, episodes: Episodes) -> Advantages:
        with torch.no_grad():
            value = self._lifetimes.values(critic, episodes)
            return Advantages.of(value, episodes, self.config.gamma, self.config.gae_lambda)

    def _fitted(self, rows: Tensor, episodes: Episodes, advantages: Advantages) -> tuple[Tensor, Tensor]:
        """Rows with their critics fitted to a phase, and the critics' loss before [C]."""
        config = self.config
        return self._lifetimes.fitted(rows, episodes, advantages.target, config.critic_lr, config.critic_steps)

    def _live_on(self, rows: Tensor) -> None:
        """Keep lifetimes as they are at the end of an iteration; those whose time is up begin anew in the next one."""
        number, lifetime = len(rows), self.config.lifetime
        age, left = self._age, self._left
        if not len(age):
            slot = torch.arange(number, device=self._device)
            age, left = torch.zeros_like(slot), (lifetime * (slot + 1) + number - 1) // number  # ⌈L(i + 1)/N⌉
        ended = left == 1
        self._rows = rows
        self._age, self._left = torch.where(ended, 0, age + 1), torch.where(ended, lifetime, left - 1)

    def _require_as_many(self, num_tasks: int) -> None:
        if num_tasks != len(self._rows):
            raise WorkerError(f"expected a meta-batch of the {len(self._rows)} lifetimes there are, got {num_tasks}")

    def _start_afresh(self) -> None:
        """An optimiser at its start, and no lifetimes: they begin with the first iteration, one per task."""
        self._optimizer = FlatOptimizer("adam", self.eta)
        none = torch.zeros(0, dtype=torch.int64, device=self._device)
        self._rows, self._age, self._left = torch.zeros(0, self._lifetimes.size, device=self._device), none, none

    def state(self) -> dict[str, Tensor]:
        lifetimes = {"lifetimes.rows": self._rows, "lifetimes.age": self._age, "lifetimes.left": self._left}
        return self._rule_state() | self._optimizer.state() | lifetimes

    def load_state(self, state: dict[str, Tensor]) -> None:
        number = len(state.get("lifetimes.rows", self._rows))
        expected = {name: tuple(tensor.shape) for name, tensor in self.state().items()}
        expected |= {name: (number, *expected[name][1:]) for name in expected if name.startswith("lifetimes.")}
        require_tensors(expected, state)
        self._take_rule(state)
        self._optimizer.load_state(state)
        self._rows, self._age, self._left = (
            state[f"lifetimes.{name}"].to(self._device) for name in ("rows", "age", "left")
        )

    def load_parameters(self, state: dict[str, Tensor]) -> None:
        """Take over the rule alone, which fits every task with choices."""
        found = {name: tensor for name, tensor in state.items() if name.startswith("rule.")}
        require_tensors({name: tuple(tensor.shape) for name, tensor in self._rule_state().items()}, found)
        self._take_rule(found)
        self._start_afresh()

    def _rule_state(self) -> dict[str, Tensor]:
        if self._rule is None:
            return {}
        return {f"rule.{name}": part for name, part in parameters.views(self._rule.shapes(), self.eta.detach()).items()}

    def _take_rule(self, state: dict[str, Tensor]) -> None:
        if self._rule is not None:
            self.eta = torch.cat([state[f"rule.{name}"].flatten() for name in self._rule.shapes()]).to(self._device)
