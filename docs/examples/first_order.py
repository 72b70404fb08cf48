"""An agent of one's own: first-order MAML with REINFORCE, in plain torch. docs/own_agent.md explains it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from metarl.agent import Agent, load_named_parameters, named_parameters, require_tensors
from metarl.config.schema import AgentConfig, LearnerConfig
from metarl.errors import NumericError
from metarl.learning.returns import discounted_returns, normalize
from metarl.nn.optimizers import FlatOptimizer
from metarl.nn.policies import MLPPolicy, init_parameters, make_policy
from metarl.spaces import SpaceSpec
from metarl.types import Metrics, Trajectory


class FirstOrderConfig(AgentConfig):
    """The keys under ``agent:``, each with what it means."""

    hidden_sizes: list[PositiveInt] = Field([32], description="widths of the hidden layers")
    inner_lr: PositiveFloat = Field(0.1, description="step size of adaptation")
    outer_lr: PositiveFloat = Field(0.01, description="step size of the meta-update, a step of Adam")
    gamma: float = Field(0.99, ge=0, le=1, description="discount factor")


class FirstOrder(Agent):
    """θ moves along the gradient of what it becomes: the policy gradient of the adapted policies, at their own data."""

    config_class = FirstOrderConfig
    num_adapt_steps = 1  # phases per iteration: one to adapt on, one to learn from

    def __init__(
        self,
        spaces: SpaceSpec,
        config: AgentConfig,
        learner: LearnerConfig,
        *,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        assert isinstance(config, FirstOrderConfig)
        self.config = config
        self._policy = make_policy(spaces, tuple(config.hidden_sizes), "tanh", min_std=0.01)
        self.theta = init_parameters(self._policy, 1.0, rng).to(device)
        self._adam = FlatOptimizer("adam", self.theta)

    def policy(self) -> MLPPolicy:
        return self._policy

    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        return self.theta.repeat(num_tasks, 1)

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        return adapted - self.config.inner_lr * self._gradient(adapted, batch)

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        gradient = self._gradient(adapted, batches[-1]).mean(0)
        if not bool(gradient.isfinite().all()):
            raise NumericError("expected a finite meta-gradient, got NaN or infinity; parameters are unchanged")
        self.theta = self._adam.step(self.theta, gradient, self.config.outer_lr)
        return {"loss/gradient_norm": float(gradient.norm())}

    def state(self) -> dict[str, Tensor]:
        return named_parameters(self._policy.shapes(), self.theta) | self._adam.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        require_tensors({name: tuple(tensor.shape) for name, tensor in self.state().items()}, state)
        self.load_parameters(state)
        self._adam.load_state(state)

    def load_parameters(self, state: dict[str, Tensor]) -> None:
        self.theta = load_named_parameters(self._policy.shapes(), state).to(self.theta.device)
        self._adam = FlatOptimizer("adam", self.theta)

    def _gradient(self, params: Tensor, batch: Trajectory) -> Tensor:
        """∇ of −mean(A log π) [N, P] at every task's parameters; A is the return to come, less the mean of the task's
        episodes at that time, in standard deviations."""
        batch, params = batch.to(params.device), params.detach().requires_grad_()
        valid, end = batch.valid, batch.terminated | batch.truncated
        returns = discounted_returns(batch.reward, end, gamma=self.config.gamma)  # [N, E, T], 0 on padding
        baseline = returns.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
        weight = (valid / valid.sum((1, 2), keepdim=True)).flatten(1, 2)  # sums to 1 per task, 0 on padding
        advantage, _ = normalize((returns - baseline).flatten(1, 2), weight, "std")
        # networks and distributions take features first: [N, features, samples]
        obs, action = batch.obs.flatten(1, 2).mT, batch.action.flatten(1, 2)
        outputs = self._policy.outputs(params, obs)
        log_prob = self._policy.distribution.log_prob(*outputs, action.mT if action.ndim == 3 else action)
        loss = -(weight * advantage * log_prob).sum()  # each task's parameters only touch its own samples
        return torch.autograd.grad(loss, params)[0]
