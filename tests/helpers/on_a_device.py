"""Agents whose update is to be the same on every device: one case for every way through the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import memory_probes
import numpy as np
import pytest
import synthetic
import torch
from torch import Tensor

from metarl.agent import Agent
from metarl.agents.lpg import LPG
from metarl.agents.maml_ppo import MAMLPPO
from metarl.agents.maml_trpo import MAMLTRPO
from metarl.agents.maml_vpg import MAMLVPG
from metarl.agents.pretraining import Pretraining
from metarl.agents.promp import ProMP
from metarl.agents.random_init import RandomInit
from metarl.agents.reptile import Reptile
from metarl.bench import fake_device
from metarl.learning.adaptation import autograd
from metarl.tasks import TaskDistribution
from metarl.types import Metrics, Trajectory

TASKS, LANES, STEPS = 3, 4, 6
SMALL_RULE = {"rule_size": 8, "critic_size": 6, "critic_steps": 2}
STEADY = {"cg_damping": 1e-2, "cg_iterations": 4}  # of conjugate gradients: more of them magnify the last bits

needs_fake_device = pytest.mark.skipif(fake_device.missing() is not None, reason=str(fake_device.missing()))


class ByAutograd(MAMLTRPO):
    """MAML-TRPO whose derivatives torch takes."""

    adapt_by = staticmethod(autograd.adapt)


@dataclass(frozen=True)
class Case:
    """An agent, its settings, and what it acts on."""

    kind: Any  # a class of agents that adapt by gradients; "ppo" or "trpo" of those with a memory
    settings: dict[str, Any] = field(default_factory=dict)
    action: str = "gaussian"  # or "categorical"

    @property
    def remembers(self) -> bool:
        return isinstance(self.kind, str)

    def agent(self, device: torch.device | str = "cpu") -> Agent:
        if self.remembers:
            sizes = {"memory_size": 8, "memory_context": 16}
            if self.kind == "ppo":
                sizes |= {"epochs": 2, "minibatches": 2}
            made: Agent = memory_probes.make(self.kind, self.distribution(), device=device, **sizes | self.settings)
            return made
        settings = {"hidden_sizes": [6, 6], **self.settings}
        return synthetic.make_agent(self.kind, self.action, device=str(device), chunk=2, **settings)

    def distribution(self) -> TaskDistribution:
        """Of agents with a memory: trials that end at different times."""
        action = "box" if self.action == "gaussian" else "discrete"
        return memory_probes.ragged(action=action, num_tasks=4)

    def data(self) -> list[Trajectory]:
        """All phases of a trial, as the agent gathers them on the CPU."""
        agent = self.agent()
        if self.remembers:
            return [memory_probes.gather(agent, self.distribution(), tasks=4, lanes=2)]
        return synthetic.trial(agent, tasks=TASKS, lanes=LANES, steps=STEPS)[0]


def learn(agent: Agent, phases: Sequence[Trajectory]) -> tuple[Metrics, list[Tensor]]:
    """All adaptation steps and the meta-update; what was logged, and the parameters after every step."""
    adapted = [agent.init_adapted(len(phases[0].obs))]
    for k in range(agent.num_adapt_steps):
        adapted.append(agent.adapt(adapted[-1], phases[k], step=k, rng=np.random.default_rng(k)))
    metrics = agent.meta_update(phases, adapted[-1], rng=np.random.default_rng(9))
    return metrics, adapted


def learned(agent: Agent) -> Tensor:
    """What a meta-update has changed, on the CPU."""
    if isinstance(agent, LPG):
        return agent.eta.detach().cpu()
    flat: Tensor = agent.theta if hasattr(agent, "_critic") else agent.psi  # type: ignore[attr-defined]
    return flat.detach().cpu()


def fresh(phases: Sequence[Trajectory]) -> list[Trajectory]:
    """The same data, of which nothing is on another device yet."""
    return [phase.to("cpu") for phase in phases]


CASES = {
    "maml_trpo": Case(MAMLTRPO, STEADY),
    "maml_trpo_choices": Case(MAMLTRPO, STEADY, "categorical"),
    "maml_trpo_two_steps": Case(
        MAMLTRPO, {**STEADY, "num_adapt_steps": 2, "outer_phases": "all", "later_step_lr_scale": 0.5}
    ),
    "maml_trpo_first_order": Case(MAMLTRPO, {**STEADY, "first_order": True, "num_adapt_steps": 2}),
    "maml_trpo_ratio": Case(MAMLTRPO, {**STEADY, "inner_loss": "ratio", "learn_inner_lr": "per_parameter"}),
    "maml_trpo_dice": Case(MAMLTRPO, {**STEADY, "inner_loss": "dice"}),
    "maml_trpo_rates_per_tensor": Case(MAMLTRPO, {**STEADY, "learn_inner_lr": "per_tensor"}),
    "maml_trpo_head": Case(MAMLTRPO, {**STEADY, "adapt_layers": "head", "activation": "relu"}),
    "maml_trpo_exploration": Case(MAMLTRPO, {**STEADY, "exploration": "sum"}),
    "maml_trpo_exploration_mean": Case(MAMLTRPO, {**STEADY, "exploration": "mean", "num_adapt_steps": 2}),
    "maml_trpo_thinned": Case(MAMLTRPO, {**STEADY, "fisher_fraction": 0.5}),
    "maml_trpo_moments": Case(MAMLTRPO, {**STEADY, "normalize_obs": True}),
    "maml_trpo_no_baseline": Case(MAMLTRPO, {**STEADY, "baseline": "none", "advantage_norm": "var"}),
    "maml_trpo_autograd": Case(ByAutograd, STEADY),
    "maml_trpo_autograd_first_order": Case(ByAutograd, {**STEADY, "first_order": True}),
    "maml_trpo_autograd_rates": Case(ByAutograd, {**STEADY, "learn_inner_lr": "per_tensor"}),
    "maml_trpo_autograd_dice": Case(ByAutograd, {**STEADY, "inner_loss": "dice"}),
    "maml_ppo": Case(MAMLPPO, {"epochs": 2}),
    "maml_ppo_choices": Case(MAMLPPO, {"epochs": 2}, "categorical"),
    "maml_vpg": Case(MAMLVPG),
    "maml_vpg_sgd": Case(MAMLVPG, {"outer_optimizer": "sgd", "outer_lr": 0.1}),
    "promp": Case(ProMP, {"epochs": 2, "num_adapt_steps": 2}),
    "reptile": Case(Reptile),
    "reptile_ppo": Case(Reptile, {"inner": "ppo", "outer_optimizer": "adam", "meta_lr": 0.01}, "categorical"),
    "pretraining": Case(Pretraining, STEADY),
    "pretraining_thinned": Case(Pretraining, {**STEADY, "fisher_fraction": 0.5}),
    "random_init": Case(RandomInit, {"normalize_obs": True}),
    "lpg": Case(LPG, {**SMALL_RULE, "num_adapt_steps": 2}, "categorical"),
    "lpg_a2c": Case(LPG, {**SMALL_RULE, "rule": "a2c", "num_adapt_steps": 1}, "categorical"),
    "lpg_reinforce": Case(LPG, {"rule": "reinforce", "num_adapt_steps": 1}, "categorical"),
    **{
        f"rl2_{kind}_{memory}": Case(kind, {"memory": memory, **({} if kind == "ppo" else STEADY)})
        for kind in ("ppo", "trpo")
        for memory in ("gru", "lstm", "transformer", "retrieval", "ntm", "memory_network")
    },
    **{
        f"rl2_ppo_retrieval_{metric}": Case("ppo", {"memory": "retrieval", "retrieval_metric": metric})
        for metric in ("dot", "weighted_l1")
    },
    "rl2_trpo_retrieval_weighted_l1": Case(
        "trpo", {**STEADY, "memory": "retrieval", "retrieval_metric": "weighted_l1"}
    ),
    "rl2_ppo_choices": Case("ppo", {"entropy_coef": 0.01, "encoder_sizes": [6]}, "categorical"),
    "rl2_ppo_chunks": Case("ppo", {"bptt_steps": 3, "max_grad_norm": None}),
    "rl2_ppo_transformer_chunks": Case("ppo", {"memory": "transformer", "bptt_steps": 3}),
    "rl2_ppo_normalised": Case("ppo", {"normalize_obs": True, "normalize_reward": True, "credit": "episode"}),
    "rl2_ppo_linear_critic": Case("ppo", {"critic": "linear", "advantage_norm": "none"}),
    "rl2_trpo_per_task": Case("trpo", {**STEADY, "critic": "linear_per_task", "fisher_fraction": 0.5}, "categorical"),
}
