"""The short adaptation and the fast one are the same function with the same derivatives: float64, every inner loss."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import compare_adaptation
import pytest
import tiny_runs
import torch
from synthetic import random_params, random_samples, small_policy

from metarl.agents.maml_trpo import MAMLTRPO
from metarl.config import loading
from metarl.learning.adaptation import analytic, autograd
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import INNER_LOSSES
from metarl.learning.meta_objective import TaskObjective
from metarl.nn.derivatives import Scratch
from metarl.run import runs

TASKS = 3
BOUND = 1e-6  # what is promised; found is 1e-12
CASES = list(product(INNER_LOSSES, ("gaussian", "categorical"), ("tanh", "relu"), (1, 3)))
ADAPTED_PARTS = [
    {},
    {"first_order": True},
    {"learned": "per_tensor"},
    {"learned": "per_parameter", "later_scale": 0.5},
    {"learned": "per_parameter", "first_order": True},
    {"head": True},
]


def pair(loss: str, kind: str, activation: str, steps: int, **settings: Any) -> tuple[Any, Any, list[TaskObjective]]:
    """ψ, a direction, and the objective of three tasks by both ways of adapting."""
    policy, loop_settings = small_policy(kind, (4, 3), activation), dict(settings)
    if loop_settings.pop("head", False):
        mask = torch.zeros(policy.num_parameters, dtype=torch.float64)
        mask[-(4 * policy.distribution.num_outputs + policy.distribution.num_extra) :] = 1.0
        loop_settings["mask"] = mask
    loop = InnerLoop(policy, 0.02, loss=INNER_LOSSES[loss], **loop_settings)
    psi = loop.initial(random_params(policy, 1)[0])
    psi[policy.num_parameters :] *= torch.linspace(0.5, 1.5, len(psi) - policy.num_parameters, dtype=torch.float64)
    phases = [random_samples(policy, TASKS, seed=k, size=6 + k, padded=k) for k in range(steps + 1)]
    coefs = {k: phases[k].loss_coef for k in range(1, steps + 1)}
    objectives = [
        TaskObjective(loop, psi, phases, coefs, Scratch(), constrained=range(1, steps + 1), adapt=adapt)
        for adapt in (analytic.adapt, autograd.adapt)
    ]
    direction = torch.randn(len(psi), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    return psi, direction, objectives


def close(fast: Any, short: Any) -> None:
    torch.testing.assert_close(short, fast, rtol=BOUND, atol=1e-9)


@pytest.mark.parametrize("settings", ADAPTED_PARTS, ids=lambda settings: "-".join(map(str, settings)) or "plain")
@pytest.mark.parametrize(("loss", "kind", "activation", "steps"), CASES)
def test_both_ways_agree(loss: str, kind: str, activation: str, steps: int, settings: dict[str, Any]) -> None:
    psi, v, (fast, short) = pair(loss, kind, activation, steps, **settings)
    for ours, theirs in zip(fast._adaptation.parameters, short._adaptation.parameters, strict=True):
        close(ours, theirs.detach())
    close(fast.gradient(), short.gradient())
    close(fast.fisher_product()(v), short.fisher_product()(v))
    close(fast.evaluate(psi + 0.001 * v), short.evaluate(psi + 0.001 * v))
    how = {"clip": 0.2, "inner_kl_penalty": 0.5}
    for ours, theirs in zip(
        fast.clipped_gradient(psi + 0.001 * v, **how), short.clipped_gradient(psi + 0.001 * v, **how), strict=True
    ):
        close(ours, theirs)


@pytest.mark.parametrize("loss", INNER_LOSSES)
def test_both_ways_take_other_samples_for_their_jacobians(loss: str) -> None:
    _, v, (fast, short) = pair(loss, "gaussian", "tanh", 2, learned="per_tensor")
    other = [random_samples(small_policy("gaussian"), TASKS, seed=10 + k, size=4) for k in range(3)]
    close(fast.fisher_product(other)(v), short.fisher_product(other)(v))
    assert not torch.allclose(fast.fisher_product(other)(v), fast.fisher_product()(v), rtol=0.01)


def test_a_wrong_derivative_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second derivative of the ratio by log-probabilities the meta-gradient is that of another loss."""
    _, _, (fast, short) = pair("ratio", "gaussian", "tanh", 1)
    monkeypatch.setitem(autograd.LOSSES, INNER_LOSSES["ratio"], autograd.log_prob_loss)
    _, _, (_, wrong) = pair("ratio", "gaussian", "tanh", 1)
    close(fast.gradient(), short.gradient())
    assert not torch.allclose(fast.gradient(), wrong.gradient(), rtol=1e-3)


def test_an_agent_learns_by_either(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An iteration of MAML-TRPO in float32: rounding is all that differs, and it is small beside the step. With little
    damping ten products of the conjugate gradient make it a tenth of the step, more or less of it on other CPUs."""
    changes = (
        "iterations=1",
        "eval.every=null",
        "agent.num_adapt_steps=2",
        "agent.inner_loss=dice",
        "agent.cg_damping=0.1",
    )
    loaded = loading.load(tiny_runs.POINT, tiny_runs.overrides(tmp_path, *changes))
    fast = tiny_runs.parameters(runs.train(loaded))
    monkeypatch.setattr(MAMLTRPO, "adapt_by", staticmethod(autograd.adapt))
    short = tiny_runs.parameters(runs.train(replace(loaded, name="by_autograd")))
    start = tiny_runs.parameters(runs.train(replace(loaded, config=loaded.config.model_copy(update={"seed": 1}))))
    for name, tensor in fast.items():
        torch.testing.assert_close(short[name], tensor, rtol=1e-3, atol=2e-4)
    assert any((start[name] - fast[name]).abs().max() > 0.01 for name in fast)  # another seed is far away


def test_the_comparison_prints_a_row_for_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    compare_adaptation.main(samples=20, rounds=1)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("log_prob", "ratio", "dice")) for line in lines) == 12
    assert any(line.startswith("lines of code") for line in lines)
