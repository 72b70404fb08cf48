"""First-order optimisers of one flat vector, with their state as named tensors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from metarl.config.schema import RunConfig

OptimizerName = Literal["sgd", "adam"]


def require_whole_schedule(name: str, end: float | None, iterations: int | None) -> None:
    """Check the keys ``<name>_end`` and ``<name>_iterations`` of a config. Raises ValueError if there is only one."""
    if (end is None) != (iterations is None):
        raise ValueError(
            f"{name}_end and {name}_iterations describe one schedule: give both or neither, got {end} and {iterations}"
        )


def schedule_conflicts(name: str, end: float | None, iterations: int | None, run: RunConfig) -> list[str]:
    """One line where the schedule of ``agent.<name>`` comes to 0 before the run is over, else none."""
    if end != 0 or iterations is None or iterations >= run.iterations or run.env_steps is not None:
        return []
    reason = f"nothing is learned any more once {name} has come to agent.{name}_end = 0"
    return [
        f"iterations = {run.iterations}: expected at most agent.{name}_iterations = {iterations}, because {reason}; "
        f"a new run may have a larger agent.{name}_iterations"
    ]


def scheduled(start: float, end: float | None, iterations: int | None, done: int) -> float:
    """A step size that goes linearly from ``start`` to ``end`` in ``iterations`` updates, of which some are done."""
    if end is None or iterations is None:
        return start
    share = min(done / iterations, 1.0)
    return (1 - share) * start + share * end


class FlatOptimizer:
    """torch's SGD (without momentum) or Adam (β = 0.9, 0.999), as a function of vector and gradient."""

    def __init__(self, name: OptimizerName, like: Tensor, *, epsilon: float = 1e-8) -> None:
        self._parameter = torch.nn.Parameter(torch.zeros_like(like))
        self._optimizer: torch.optim.Optimizer
        if name == "adam":
            self._optimizer = torch.optim.Adam([self._parameter], eps=epsilon)
        else:
            self._optimizer = torch.optim.SGD([self._parameter])
        self._adam = name == "adam"

    def step(self, vector: Tensor, gradient: Tensor, lr: float) -> Tensor:
        """The vector after one step of size ``lr`` down the gradient; a new tensor."""
        self._optimizer.param_groups[0]["lr"] = lr
        self._parameter.data.copy_(vector)
        self._parameter.grad = gradient
        self._optimizer.step()
        return self._parameter.detach().clone()

    def state(self) -> dict[str, Tensor]:
        """Moments and step count; the same names and shapes before the first step, nothing for SGD."""
        if not self._adam:
            return {}
        zeros = torch.zeros_like(self._parameter.detach())
        found = self._optimizer.state.get(self._parameter) or {
            "step": torch.zeros(()),
            "exp_avg": zeros,
            "exp_avg_sq": zeros,
        }
        return {f"optimizer.{name}": value.clone() for name, value in found.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over :meth:`state` of another optimiser of the same kind; other names are passed over."""
        if self._adam:
            names = ("step", "exp_avg", "exp_avg_sq")
            device = self._parameter.device
            self._optimizer.state[self._parameter] = {
                name: state[f"optimizer.{name}"].clone().to("cpu" if name == "step" else device) for name in names
            }
