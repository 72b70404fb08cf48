"""The tables of docs/meta_gradients.md, computed exactly; run it in a checkout to write them anew."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, hessian

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "meta_gradients.md"
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from enumerable import (  # noqa: E402
    ALL,
    ALPHA,
    POLICY,
    SCRATCH,
    STATE,
    THETA,
    Outcomes,
    T,
    World,
    draws,
    everything,
    left_out_credit,
    limit_objective,
    make_samples,
    matrix,
    meta_gradients,
    objective,
    own_credit,
    probability,
    value,
    values,
)

from metarl.learning.adaptation.analytic import LinearizedPhase  # noqa: E402
from metarl.learning.adaptation.inner_loop import InnerLoop, LearnedRates  # noqa: E402
from metarl.learning.inner_losses import INNER_LOSSES, InnerLossName  # noqa: E402

WORLD = World()


@dataclass(frozen=True)
class Estimator:
    """One row: its name, E[ĝ] in units of −1/T with G = ∇V(θ'), and the settings that it stands for."""

    name: str
    expectation: str
    loss: InnerLossName = "log_prob"
    first_order: bool = False
    learned: LearnedRates = "none"
    credit: Literal["none", "sum", "left out", "mean"] = "none"

    @property
    def loop(self) -> InnerLoop:
        """Adaptation as it has it."""
        loss = INNER_LOSSES[self.loss]
        return InnerLoop(POLICY, float(ALPHA[0]), loss=loss, first_order=self.first_order, learned=self.learned)

    def part(self, gradient: Tensor) -> Tensor:
        """What is compared: the step sizes' gradient where they are learned, else θ's."""
        return gradient[..., -len(ALPHA) :] if self.learned != "none" else gradient

    def limit(self) -> Tensor:
        """What it gives for one endless batch before adaptation and one after it."""
        if self.credit in ("sum", "left out"):  # their extra term needs the noise that an endless batch has not
            return self.true(math.inf)
        after = THETA + ALPHA / T * grad(value)(THETA, WORLD)
        psi = self.loop.initial(THETA)
        return self.part(meta_gradients(self.loop, psi, [everything(WORLD, p) for p in (THETA, after)]))[0]

    def true(self, episodes: float) -> Tensor:
        """The gradient of −J_E/T."""
        by = 1 if self.learned != "none" else 0

        def reached(theta: Tensor, alpha: Tensor) -> Tensor:
            if episodes == math.inf:
                return limit_objective(theta, alpha, WORLD)
            return objective("log_prob", theta, alpha, WORLD, episodes=int(episodes))

        return -grad(reached, argnums=by)(THETA, ALPHA) / T


@cache
def moments(row: Estimator, episodes: int) -> tuple[Tensor, float]:
    """(E[ĝ], √E‖ĝ − E[ĝ]‖²) with E episodes before adaptation and one after it."""
    loop, psi = row.loop, row.loop.initial(THETA)
    drawn = draws(psi, loop, WORLD, episodes=episodes)
    if row.credit == "left out":
        return left_out_credit([WORLD] * 3, [drawn.after] * 2).moments(loop, psi, drawn)
    credit = None if row.credit == "none" else own_credit(WORLD)[drawn.last]
    credit = credit / episodes if credit is not None and row.credit == "mean" else credit
    outcomes = Outcomes(row.part(meta_gradients(loop, psi, drawn.phases, credit)), drawn.chance)
    return outcomes.mean, outcomes.deviation


ESTIMATORS = [
    Estimator("FOMAML", "E[G]", first_order=True),
    Estimator("MAML", "E[(I − αH_log_prob)G]"),
    Estimator("LVC", "E[(I − αH_ratio)G]", loss="ratio"),
    Estimator("DiCE", "E[(I − αH_dice)G]", loss="dice"),
    Estimator("E-MAML, `sum`, one task", "E[(I − αH_log_prob)G + V(θ')·Σₑ∇log p(τₑ)] = ∇J_E", credit="sum"),
    Estimator("E-MAML, `sum`, three tasks", "the same", credit="left out"),
    Estimator("E-MAML, `mean`, one task", "E[(I − αH_log_prob)G + V(θ')·(1/E)Σₑ∇log p(τₑ)]", credit="mean"),
    Estimator("Meta-SGD, by the step sizes", "−E[∇ℓ ∘ G] = ∇J_E by α", learned="per_parameter"),
]


CURVATURES: dict[InnerLossName, str] = {
    "log_prob": "E[Σₜ Rₜ∇²log πₜ]",
    "ratio": "E[Σₜ Rₜ(∇²log πₜ + gₜgₜᵀ)]",
    "dice": "E[Σₜ Rₜ(∇²log πₜ + gₜGₜᵀ + Gₜgₜᵀ − gₜgₜᵀ)] = ∇²V",
}


def distance(found: Tensor, true: Tensor) -> str:
    """‖found − true‖/‖true‖ and their cosine, as two cells; a zero vector has no cosine."""
    bias, size = float((found - true).norm() / true.norm()), float(found.norm() / true.norm())
    cosine = f"{float((found * true).sum() / (found.norm() * true.norm())):.3f}" if size > 1e-12 else "–"
    return f"{bias:.3f} | {cosine}"


def curvature_table() -> str:
    """Estimates of ∇²ℓ from one episode, against −∇²V/T, without and with the value function as baseline."""
    lines = [
        "| loss | E[H]·(−T) | bias | cosine | deviation | bias, with V | cosine | deviation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    samples, _ = make_samples(ALL.unsqueeze(1), WORLD)
    baseline = values(THETA, WORLD)[torch.arange(T), STATE]
    true = -hessian(value)(THETA, WORLD).flatten() / T
    for name, expectation in CURVATURES.items():
        cells = []
        for advantage in (samples.advantage, samples.advantage - baseline):
            phase = LinearizedPhase(POLICY, THETA.repeat(len(ALL), 1), replace(samples, advantage=advantage), SCRATCH)
            loss = phase.loss(INNER_LOSSES[name](phase.samples, None))
            products = matrix(lambda v, p=loss: p.hessian_product(v.repeat(len(ALL), 1)), len(THETA))
            found = Outcomes(products.flatten(1), probability(THETA))
            cells.append(f"{distance(found.mean, true)} | {found.deviation / float(true.norm()):.2f}")
        lines.append(f"| `{name}` | {expectation} | {' | '.join(cells)} |")
    return "\n".join(lines)


def finite_table() -> str:
    """Against ∇J_E, for E = 1 and 2."""
    lines = [
        "| estimator | E[ĝ]·(−T) | bias, E = 1 | cosine | deviation | bias, E = 2 | cosine | deviation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ESTIMATORS:
        cells = []
        for episodes in (1, 2):
            (mean, deviation), true = moments(row, episodes), row.true(episodes)
            cells.append(f"{distance(mean, true)} | {deviation / float(true.norm()):.2f}")
        lines.append(f"| {row.name} | {row.expectation} | {' | '.join(cells)} |")
    return "\n".join(lines)


def limit_table() -> str:
    """Against ∇J_∞, for E = 1, 2 and an endless batch."""
    lines = [
        "| estimator | bias, E = 1 | cosine | bias, E = 2 | cosine | bias, E → ∞ | cosine |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ESTIMATORS:
        true = row.true(math.inf)
        means = [moments(row, 1)[0], moments(row, 2)[0], row.limit()]
        lines.append(f"| {row.name} | {' | '.join(distance(mean, true) for mean in means)} |")
    return "\n".join(lines)


TABLES = {"curvature": curvature_table, "finite": finite_table, "limit": limit_table}


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with these tables in place of those of the same names."""
    for name, table in tables.items():
        before, start, rest = page.partition(f"<!-- table {name} -->")
        _, end, after = rest.partition("<!-- end -->")
        assert start and end, name
        page = f"{before}{start}\n{table}\n{end}{after}"
    return page


if __name__ == "__main__":
    torch.set_num_threads(1)
    computed = {name: table() for name, table in TABLES.items()}
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), computed), encoding="utf-8")
