"""Every agent's update on a device that is not the CPU, by the fake one: the CPU's step, within a budget of work.

What the fake device cannot show is in its docstring; tests marked ``gpu`` ask a real one.
"""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
import torch
from memory_probes import gather
from on_a_device import CASES, Case, fresh, learn, learned, needs_fake_device
from probe_envs import ProbeConfig, ProbeDistribution

from metarl.agents.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from metarl.agents.rl2_ppo import RL2PPO, RL2PPOConfig
from metarl.bench.fake_device import Counts, fake_device
from metarl.config import loading
from metarl.config.schema import LearnerConfig
from metarl.run.arithmetic import arithmetic
from metarl.run.experiment import resolve
from metarl.types import Trajectory

pytestmark = [needs_fake_device, pytest.mark.usefixtures("one_torch_thread")]
TOLERANCE = 1e-3  # of the length of a step

# (launches, waits, copies) that one update may take on these small batches, adaptation included: what it takes and a
# quarter more; of copies what it takes. One is the data of a phase, the keys of its sub-sample, the order of an epoch
# or the moments of observations.
BUDGETS = {
    "maml_trpo": (3000, 60, 2),
    "maml_trpo_choices": (2900, 65, 2),
    "maml_trpo_two_steps": (5400, 90, 3),
    "maml_trpo_first_order": (3100, 85, 3),
    "maml_trpo_ratio": (3800, 60, 2),
    "maml_trpo_dice": (5500, 60, 2),
    "maml_trpo_rates_per_tensor": (3200, 60, 2),
    "maml_trpo_head": (3000, 60, 2),
    "maml_trpo_exploration": (3200, 65, 2),
    "maml_trpo_exploration_mean": (5400, 100, 3),
    "maml_trpo_thinned": (3600, 70, 4),
    "maml_trpo_moments": (3100, 60, 4),
    "maml_trpo_no_baseline": (2800, 50, 2),
    "maml_trpo_autograd": (7200, 60, 2),
    "maml_trpo_autograd_first_order": (3600, 60, 2),
    "maml_trpo_autograd_rates": (7700, 60, 2),
    "maml_trpo_autograd_dice": (10600, 60, 2),
    "maml_ppo": (2900, 60, 2),
    "maml_ppo_choices": (2400, 60, 2),
    "maml_vpg": (2400, 55, 2),
    "maml_vpg_sgd": (2400, 55, 2),
    "promp": (5800, 95, 3),
    "reptile": (1700, 45, 2),
    "reptile_ppo": (2900, 50, 2),
    "pretraining": (1100, 35, 1),
    "pretraining_thinned": (1100, 35, 2),
    "random_init": (100, 0, 2),
    "lpg": (4200, 14, 4),
    "lpg_a2c": (1050, 7, 3),
    "lpg_reinforce": (520, 5, 3),
    "rl2_ppo_gru": (1600, 30, 3),
    "rl2_ppo_lstm": (1500, 30, 3),
    "rl2_ppo_transformer": (2800, 60, 3),
    "rl2_ppo_retrieval": (2300, 40, 3),
    "rl2_trpo_gru": (4700, 40, 2),
    "rl2_trpo_lstm": (4800, 30, 2),
    "rl2_trpo_transformer": (5900, 65, 2),
    "rl2_trpo_retrieval": (6200, 55, 2),
    "rl2_ppo_ntm": (7500, 30, 3),
    "rl2_ppo_memory_network": (2300, 35, 3),
    "rl2_trpo_ntm": (21000, 30, 2),
    "rl2_trpo_memory_network": (3200, 40, 2),
    "rl2_ppo_retrieval_dot": (2300, 40, 3),
    "rl2_ppo_retrieval_weighted_l1": (2300, 40, 3),
    "rl2_trpo_retrieval_weighted_l1": (6200, 55, 2),
    "rl2_ppo_choices": (1600, 30, 3),
    "rl2_ppo_chunks": (2700, 40, 3),
    "rl2_ppo_transformer_chunks": (6400, 120, 3),
    "rl2_ppo_normalised": (1600, 30, 6),
    "rl2_ppo_linear_critic": (1500, 25, 3),
    "rl2_trpo_per_task": (4100, 30, 2),
}

LEARN_NOTHING = ("random_init", "lpg_a2c", "lpg_reinforce")  # what adapts does


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_an_update_on_a_gpu_is_the_cpus(name: str) -> None:
    """More than rounding lies between them: a GPU's functions are others, and sums are in another order."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    case = CASES[name]
    phases, cpu = case.data(), case.agent()
    start = learned(cpu).clone()
    learn(cpu, phases)
    with arithmetic(resolve(loading.load("maml_trpo_point", ["device=cuda"]).config)):
        gpu = case.agent("cuda")
        learn(gpu, phases)
    length = float((learned(cpu) - start).norm())
    assert gpu.init_adapted(1).is_cuda
    assert float((learned(gpu) - learned(cpu)).norm()) <= 2e-2 * length


def on_device(
    case: Case, phases: list[Trajectory]
) -> tuple[torch.Tensor, dict[str, float], list[torch.Tensor], Counts]:
    """What one update makes of ψ there, what it logs, the adapted parameters, and what it took."""
    with fake_device() as (device, counts):
        agent = case.agent(device)
        counts.reset()
        metrics, adapted = learn(agent, fresh(phases))
        counted = Counts(counts.launches.copy(), counts.waits.copy(), counts.copies.copy(), counts.copied)
        return learned(agent), metrics, [params.cpu() for params in adapted], counted


@pytest.mark.parametrize("name", CASES)
def test_an_update_is_the_cpus_within_the_budget(name: str) -> None:
    case = CASES[name]
    phases, cpu = case.data(), case.agent()
    start = learned(cpu).clone()
    metrics, adapted = learn(cpu, phases)
    theirs, their_metrics, their_adapted, counts = on_device(case, phases)
    for ours, there in zip(adapted, their_adapted, strict=True):
        torch.testing.assert_close(there, ours, rtol=1e-4, atol=1e-5)
    length = float((learned(cpu) - start).norm())
    assert length > 0 or name in LEARN_NOTHING
    assert metrics.get("linesearch/accepted", 1.0) == their_metrics.get("linesearch/accepted", 1.0) == 1.0
    assert float((theirs - learned(cpu)).norm()) <= TOLERANCE * length
    assert metrics.keys() == their_metrics.keys()
    for key, value in metrics.items():
        assert their_metrics[key] == pytest.approx(value, rel=1e-2, abs=1e-4, nan_ok=True), key
    for what, limit in zip(("launches", "waits", "copies"), BUDGETS[name], strict=True):
        counted = getattr(counts, what)
        assert counted.total() <= limit, f"{what}: {counted.most_common(8)}"


@pytest.mark.parametrize("name", ["maml_trpo", "maml_trpo_dice", "reptile", "pretraining"])
def test_launches_do_not_grow_with_the_length_of_episodes(name: str) -> None:
    """Ten times the steps: passes over all of them that double their reach, and no loop."""
    case = CASES[name]
    short, long = (
        on_device(case, synthetic.trial(case.agent(), tasks=2, lanes=3, steps=steps)[0])[3].launches.total()
        for steps in (6, 60)
    )
    assert long < 1.5 * short


@pytest.mark.parametrize("name", ["maml_ppo", "promp", "reptile_ppo", "rl2_ppo_gru", "lpg"])
def test_what_a_checkpoint_holds_goes_on_there(name: str) -> None:
    """Parameters and the optimiser's moments come from the CPU, where they are saved and loaded."""
    case = CASES[name]
    phases, cpu = case.data(), case.agent()
    learn(cpu, phases)
    saved = {key: value.clone() for key, value in cpu.state().items()}
    start = learned(cpu).clone()
    with fake_device() as (device, _):
        agent = case.agent(device)
        agent.load_state(saved)
        learn(agent, fresh(phases))
        assert agent.init_adapted(1).device == device
        theirs = learned(agent)
    learn(cpu, phases)
    assert float((theirs - learned(cpu)).norm()) <= TOLERANCE * float((learned(cpu) - start).norm()) > 0


@pytest.mark.parametrize("name", ["maml_trpo", "rl2_ppo_gru"])
def test_rollouts_take_parameters_from_there(name: str) -> None:
    """Workers are on the CPU: parameters go to them once in a phase."""
    distribution, learner = ProbeDistribution(ProbeConfig(num_tasks=4)), LearnerConfig(threads=1, tasks_per_chunk=2)
    family, config = type(CASES[name].agent()), CASES[name].agent().config
    with fake_device() as (device, counts):
        agent = family(distribution.spaces, config, learner, device=device, rng=np.random.default_rng(0))
        counts.waits.clear()
        there = gather(agent, distribution, tasks=4, lanes=2)
        assert counts.waits == {"to the host": 1}
    assert there.obs.is_cpu and there.num_steps > 0


def test_a_phase_goes_to_the_device_once_and_only_what_is_learned_from() -> None:
    """In adaptation, and not again in the meta-update."""
    case = CASES["promp"]
    phases = case.data()
    needed = ("obs", "action", "reward", "terminated", "truncated", "first", "valid")
    size = sum(t.numel() * t.element_size() for phase in phases for name, t in phase.tensors() if name in needed)
    *_, counts = on_device(case, phases)
    assert counts.copies == {"_to_copy": len(phases)}
    assert size <= counts.copied <= size + 256 * len(needed) * len(phases)  # fields begin at multiples of 256


def test_a_trajectory_keeps_its_copy_and_one_on_the_cpu_is_itself() -> None:
    phase = CASES["maml_trpo"].data()[0]
    names = ("obs", "valid", "action")
    assert phase.on(torch.device("cpu"), names) is phase
    with fake_device() as (device, counts):
        there = phase.on(device, names)
        assert there is phase.on(device, names) and counts.copies == {"_to_copy": 1}
        assert (there.obs.device, there.reward.device) == (device, torch.device("cpu"))
        for name in names:
            here, moved = getattr(phase, name), getattr(there, name).cpu()
            assert moved.dtype == here.dtype and torch.equal(moved, here)
        assert len(there.tasks(slice(1, 2)).obs) == 1
    assert [name for name, _ in phase.tensors()] == [name for name, _ in there.tensors()]


def test_only_a_cpu_has_a_pool_of_threads() -> None:
    learner = LearnerConfig(threads=2, tasks_per_chunk=2)
    with fake_device() as (device, _):
        for family, config in ((MAMLTRPO, MAMLTRPOConfig()), (RL2PPO, RL2PPOConfig(memory_size=8))):
            for where in (torch.device("cpu"), device):
                agent = family(synthetic.spaces(), config, learner, device=where, rng=np.random.default_rng(0))
                assert (agent._map._pool is not None) == (where.type == "cpu")
