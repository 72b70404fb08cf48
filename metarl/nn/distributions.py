"""Action distributions as pure functions of network outputs, with the derivatives that policy gradients need.

A distribution has ``outputs`` o [C, O, M] that depend on the state, and ``extra`` parameters s [C, S] that do not
(the Gaussian's log standard deviations; S = 0 for the categorical). C parameter vectors, M samples each; actions are
[C, A, M], discrete ones [C, M]. Acting alone is rows first: :meth:`Distribution.sample`.
``coef`` [C, M] weights samples: derivatives are of Σₘ coefₘ·log π(aₘ), so a loss passes −weight·advantage.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (Δo, Δs) → linear image of them; may overwrite Δo, so that no large tensor has to be made
OutputMap = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Distribution(ABC):
    """What a policy head must know; implementations are frozen and stateless."""

    noise_size: int  # random numbers per action
    noise_kind: str  # "normal" or "uniform"
    num_outputs: int
    num_extra: int

    @abstractmethod
    def spread(self, extra: Tensor) -> Tensor:
        """What :meth:`sample` needs of the extra parameters [C, S], computed once per rollout."""

    @abstractmethod
    def sample(self, outputs: Tensor, spread: Tensor, noise: Tensor | None) -> Tensor:
        """Actions [C, M, …] for outputs [C, M, O] and noise [C, M, noise_size]; the mode where it is None."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, extra: Tensor, action: Tensor) -> Tensor:
        """log π(a|s) [C, M], summed over action dimensions."""

    @abstractmethod
    def kl(self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> Tensor:
        """KL(old ‖ new) [C, M] of two (outputs, extra), summed over action dimensions."""

    @abstractmethod
    def entropy(self, outputs: Tensor, extra: Tensor) -> Tensor:
        """Differential or Shannon entropy [C, M] in nats."""

    @abstractmethod
    def gradient(self, outputs: Tensor, extra: Tensor, action: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of Σ coef·log π by outputs [C, O, M] and by extra [C, S]."""

    @abstractmethod
    def log_prob_change(
        self, outputs: Tensor, extra: Tensor, action: Tensor, d_outputs: Tensor, d_extra: Tensor
    ) -> Tensor:
        """The change of log π [C, M] along a change of (outputs, extra)."""

    @abstractmethod
    def kl_gradient(
        self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient of Σ weight·KL(old ‖ new) by new's outputs [C, O, M] and extra [C, S]."""

    @abstractmethod
    def hessian(self, outputs: Tensor, extra: Tensor, action: Tensor, coef: Tensor) -> OutputMap:
        """Multiplication by the Hessian of Σ coef·log π by (outputs, extra)."""

    @abstractmethod
    def fisher(self, outputs: Tensor, extra: Tensor, weight: Tensor) -> OutputMap:
        """Multiplication by the Hessian of Σ weight·KL(old ‖ new) by new's (outputs, extra) at new = old."""


@dataclass(frozen=True)
class DiagonalGaussian(Distribution):
    """N(o, diag σ²) with state-independent log σ = max(s, ``min_log_std``); below the floor no gradient reaches s."""

    size: int
    min_log_std: float = math.log(1e-6)
    noise_kind = "normal"

    @property
    def noise_size(self) -> int:  # type: ignore[override]
        """One normal number per action dimension."""
        return self.size

    @property
    def num_outputs(self) -> int:  # type: ignore[override]
        """The mean."""
        return self.size

    @property
    def num_extra(self) -> int:  # type: ignore[override]
        """The log standard deviations."""
        return self.size

    def spread(self, extra: Tensor) -> Tensor:
        return self._log_std(extra).mT.exp()

    def sample(self, outputs: Tensor, spread: Tensor, noise: Tensor | None) -> Tensor:
        return outputs if noise is None else torch.addcmul(outputs, noise, spread)

    def log_prob(self, outputs: Tensor, extra: Tensor, action: Tensor) -> Tensor:
        log_std = self._log_std(extra)
        z = (action - outputs) * torch.exp(-log_std)
        return z.square().sum(1) * -0.5 - (log_std.sum(1) + 0.5 * self.size * math.log(2 * math.pi))

    def kl(self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> Tensor:
        old_log_std, new_log_std = self._log_std(old[1]), self._log_std(new[1])
        shift = (old[0] - new[0]).square()
        ratio = torch.exp(2 * (old_log_std - new_log_std))
        spread = (ratio - 1).sum(1) * 0.5 + (new_log_std - old_log_std).sum(1)
        return (shift * torch.exp(-2 * new_log_std)).sum(1) * 0.5 + spread

    def entropy(self, outputs: Tensor, extra: Tensor) -> Tensor:
        per_task = self._log_std(extra).sum(1) + 0.5 * self.size * math.log(2 * math.pi * math.e)
        return per_task.expand(-1, outputs.shape[2])

    def gradient(self, outputs: Tensor, extra: Tensor, action: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
        inverse_std = torch.exp(-self._log_std(extra))
        z = (action - outputs) * inverse_std
        by_extra = torch.bmm(z.square() - 1, coef.unsqueeze(2)).squeeze(2)
        return z * coef.unsqueeze(1) * inverse_std, by_extra * self._free(extra)

    def log_prob_change(
        self, outputs: Tensor, extra: Tensor, action: Tensor, d_outputs: Tensor, d_extra: Tensor
    ) -> Tensor:
        inverse_std = torch.exp(-self._log_std(extra))
        z = (action - outputs) * inverse_std
        spread = (d_extra * self._free(extra)).unsqueeze(2)
        return (z * inverse_std * d_outputs + (z.square() - 1) * spread).sum(1)

    def kl_gradient(
        self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        precision = torch.exp(-2 * self._log_std(new[1]))
        shift = new[0] - old[0]
        second_moment = shift.square() + torch.exp(2 * self._log_std(old[1]))
        by_extra = torch.bmm(1 - second_moment * precision, weight.unsqueeze(2)).squeeze(2)
        return shift * precision * weight.unsqueeze(1), by_extra * self._free(new[1])

    def hessian(self, outputs: Tensor, extra: Tensor, action: Tensor, coef: Tensor) -> OutputMap:
        inverse_std, free = torch.exp(-self._log_std(extra)), self._free(extra)
        z = (action - outputs) * inverse_std
        weight = coef.unsqueeze(1)
        mean_mean = -weight * inverse_std.square()
        mean_std = -2 * weight * z * inverse_std * free.unsqueeze(2)
        std_std = -2 * torch.bmm(z.square(), coef.unsqueeze(2)).squeeze(2) * free

        def product(d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
            by_extra = (mean_std * d_outputs).sum(2) + std_std * d_extra
            return d_outputs.mul_(mean_mean).addcmul_(mean_std, d_extra.unsqueeze(2)), by_extra

        return product

    def fisher(self, outputs: Tensor, extra: Tensor, weight: Tensor) -> OutputMap:
        mean_mean = weight.unsqueeze(1) * torch.exp(-2 * self._log_std(extra))
        std_std = 2 * weight.sum(-1, keepdim=True) * self._free(extra)

        def product(d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
            return d_outputs.mul_(mean_mean), std_std * d_extra

        return product

    def _log_std(self, extra: Tensor) -> Tensor:
        """[C, A, 1]."""
        return extra.clamp(min=self.min_log_std).unsqueeze(2)

    def _free(self, extra: Tensor) -> Tensor:
        return (extra >= self.min_log_std).to(extra.dtype)


@dataclass(frozen=True)
class Categorical(Distribution):
    """A choice among ``size`` with probabilities softmax(o); sampled from one uniform number by the inverse CDF."""

    size: int
    noise_size = 1
    noise_kind = "uniform"
    num_extra = 0

    @property
    def num_outputs(self) -> int:  # type: ignore[override]
        """The logits."""
        return self.size

    def spread(self, extra: Tensor) -> Tensor:
        return extra

    def sample(self, outputs: Tensor, spread: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None:
            return outputs.argmax(-1)
        cdf = outputs.softmax(-1).cumsum(-1)
        return (cdf / cdf[..., -1:] <= noise).sum(-1)  # the quotient ends in exactly 1, and noise is below 1

    def log_prob(self, outputs: Tensor, extra: Tensor, action: Tensor) -> Tensor:
        return outputs.log_softmax(1).gather(1, action.unsqueeze(1)).squeeze(1)

    def kl(self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> Tensor:
        old_log, new_log = old[0].log_softmax(1), new[0].log_softmax(1)
        return (old_log.exp() * (old_log - new_log)).sum(1)

    def entropy(self, outputs: Tensor, extra: Tensor) -> Tensor:
        log = outputs.log_softmax(1)
        return -(log.exp() * log).sum(1)

    def gradient(self, outputs: Tensor, extra: Tensor, action: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
        by_outputs = outputs.softmax(1).mul_(-coef.unsqueeze(1))
        return by_outputs.scatter_add_(1, action.unsqueeze(1), coef.unsqueeze(1)), torch.zeros_like(extra)

    def log_prob_change(
        self, outputs: Tensor, extra: Tensor, action: Tensor, d_outputs: Tensor, d_extra: Tensor
    ) -> Tensor:
        return d_outputs.gather(1, action.unsqueeze(1)).squeeze(1) - (outputs.softmax(1) * d_outputs).sum(1)

    def kl_gradient(
        self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        return (new[0].softmax(1) - old[0].softmax(1)).mul_(weight.unsqueeze(1)), torch.zeros_like(new[1])

    def hessian(self, outputs: Tensor, extra: Tensor, action: Tensor, coef: Tensor) -> OutputMap:
        return self.fisher(outputs, extra, -coef)

    def fisher(self, outputs: Tensor, extra: Tensor, weight: Tensor) -> OutputMap:
        p = outputs.softmax(1)
        weighted = p * weight.unsqueeze(1)

        def product(d_outputs: Tensor, d_extra: Tensor) -> tuple[Tensor, Tensor]:
            return d_outputs.sub_((p * d_outputs).sum(1, keepdim=True)).mul_(weighted), torch.zeros_like(d_extra)

        return product
