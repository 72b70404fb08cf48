"""Faults planted in the code, each of which a GPU would show and a CPU does not: the fake device shows every one."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from memory_probes import gather
from on_a_device import CASES, fresh, learn, needs_fake_device
from probe_envs import ProbeConfig, ProbeDistribution

from metarl.agents._gradient import GradientAgent
from metarl.agents._maml import MAMLAgent
from metarl.agents._memory import MemoryAgent
from metarl.agents.rl2_ppo import RL2PPO
from metarl.agents.rl2_trpo import RL2TRPO
from metarl.bench.fake_device import Counts, FakeDeviceError, fake_device
from metarl.config.schema import LearnerConfig
from metarl.learning import baselines, returns, trials
from metarl.nn import elementwise, products
from metarl.nn.memories import transformer
from metarl.nn.memory_policy import MemoryPolicy
from metarl.nn.normalization import RunningMoments
from metarl.nn.optimizers import FlatOptimizer
from metarl.sampling.sampler import Sampler
from metarl.types import Trajectory

pytestmark = [needs_fake_device, pytest.mark.usefixtures("one_torch_thread")]
NUMPY = (TypeError, RuntimeError)  # what torch raises where numpy is shown a tensor of another device


def plant(patch: pytest.MonkeyPatch, function: Any, right: str, wrong: str) -> None:
    """Have a function, wherever it was imported, run with one place of its source changed."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, f"expected {right!r} once in {function.__qualname__}:\n{source}"
    made: dict[str, Any] = {}
    exec(compile(source.replace(right, wrong), "<planted>", "exec"), dict(vars(sys.modules[function.__module__])), made)
    (changed,) = made.values()
    patch.setattr(function, "__code__", changed.__code__)


def update(name: str) -> Counts:
    """One update on the device."""
    case = CASES[name]
    phases = fresh(case.data())
    with fake_device() as (device, counts):
        agent = case.agent(device)
        counts.reset()
        learn(agent, phases)
        return counts


def go_on(name: str) -> None:
    """An update on the device from what a checkpoint of the CPU's holds."""
    case = CASES[name]
    cpu, phases = case.agent(), case.data()
    learn(cpu, phases)
    with fake_device() as (device, _):
        agent = case.agent(device)
        agent.load_state({key: value.clone() for key, value in cpu.state().items()})
        learn(agent, fresh(phases))
        assert agent.init_adapted(1).device == device, "it has quietly gone on on the CPU"


def roll_out(name: str) -> None:
    """Data gathered with parameters on the device."""
    distribution, learner = ProbeDistribution(ProbeConfig(num_tasks=4)), LearnerConfig(threads=1, tasks_per_chunk=2)
    family, config = type(CASES[name].agent()), CASES[name].agent().config
    with fake_device() as (device, _):
        agent = family(distribution.spaces, config, learner, device=device, rng=np.random.default_rng(0))
        gather(agent, distribution, tasks=4)


ON, MOMENTS = "batch.on(self.psi.device, LEARNED_FROM)", '.to("cpu", torch.float64)'
FAULTS: list[tuple[str, Callable[[str], Any], Any, str, str, Any]] = [
    # a tensor made on the CPU, and mixed in
    ("maml_trpo", update, baselines.fit_predict, "torch.eye(F.shape[-1], dtype=F.dtype, device=F.device)",
     "torch.eye(F.shape[-1], dtype=F.dtype)", FakeDeviceError),
    ("maml_ppo", update, baselines.time_in_episode, ", device=first.device", "", FakeDeviceError),
    ("maml_trpo_head", update, MAMLAgent._inner_loop, ", device=device", "", FakeDeviceError),
    ("rl2_ppo_gru", update, trials._times, ", device=first.device", "", FakeDeviceError),
    ("rl2_ppo_choices", update, MemoryPolicy.inputs, ", device=action.device", "", FakeDeviceError),
    ("rl2_ppo_transformer", update, transformer.attend_scan, "torch.arange(low, stop, device=q.device)",
     "torch.arange(low, stop)", FakeDeviceError),
    # a tensor that is not moved
    ("maml_trpo", update, GradientAgent.adapt, ON, "batch", FakeDeviceError),
    ("maml_trpo", update, MAMLAgent._objective, ON, "batch", FakeDeviceError),
    ("maml_trpo_thinned", update, MAMLAgent._objective, "thinning_keys(batch, rng).to(self.psi.device)",
     "thinning_keys(batch, rng)", FakeDeviceError),
    ("rl2_ppo_lstm", update, MemoryAgent.meta_update, "batches[0].on(self.theta.device, LEARNED_FROM)",
     "batches[0]", RuntimeError),
    ("rl2_ppo_gru", update, RunningMoments.update, MOMENTS, ".double()", FakeDeviceError),
    ("maml_ppo", go_on, FlatOptimizer.load_state, '"cpu" if name == "step" else device', '"cpu"', FakeDeviceError),
    ("maml_trpo", go_on, GradientAgent.load_state, "learned.to(self.psi.device)", "learned", AssertionError),
    ("rl2_trpo_gru", go_on, MemoryAgent._load_policy, ".to(self.theta.device)", "", AssertionError),
    # numpy on a tensor of the device, in place and not
    ("maml_trpo", update, elementwise.tanh_, "z.is_cpu and ", "", NUMPY),
    ("maml_trpo", roll_out, Sampler._run, "params.detach().cpu()", "params.detach()", NUMPY),
    ("rl2_ppo_gru", roll_out, Sampler._run, "params.detach().cpu()", "params.detach()", NUMPY),
    # an operator that only CPUs have
    ("rl2_ppo_gru", update, products.product, "not x.is_cpu or ", "", FakeDeviceError),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "run", "function", "right", "wrong", "error"),
    FAULTS,
    ids=[f"{fault[0]}-{fault[2].__qualname__}-{number}" for number, fault in enumerate(FAULTS)],
)
def test_a_planted_fault_is_shown(
    name: str,
    run: Callable[[str], Any],
    function: Any,
    right: str,
    wrong: str,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if function is products.product:
        monkeypatch.setattr(products, "ONEDNN_FROM", 0)
        if products._onednn() is None:
            pytest.skip("this torch has no such operator of oneDNN's")
    plant(monkeypatch, function, right, wrong)
    with pytest.raises(error):
        run(name)


CREEP: list[tuple[str, Any, str, str, str]] = [
    ("copies", RL2PPO._improve, "rng.permutation(len(trials.inputs))).to(self.theta.device)",
     "rng.permutation(len(trials.inputs)))", "rl2_ppo_gru"),
    ("copies", RL2TRPO._improve, "[:count])).to(self.theta.device)", "[:count]))", "rl2_trpo_gru"),
    ("copies", Trajectory.on, "if key not in kept:", "if True:", "promp"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "function", "right", "wrong", "name"), CREEP, ids=lambda value: str(value)[:20])
def test_work_that_creeps_in_is_counted(
    what: str, function: Any, right: str, wrong: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not wrong but slow: small copies for every field, data sent twice, a loop over time."""
    before = getattr(update(name), what).total()
    plant(monkeypatch, function, right, wrong)
    assert getattr(update(name), what).total() > before


def test_a_loop_over_time_grows_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def launches(steps: int) -> int:
        with fake_device() as (device, counts):
            rewards = torch.ones(2, steps, device=device)
            returns.discounted_returns(rewards, rewards > 2, gamma=0.9)
            return counts.launches.total()

    assert launches(500) < 3 * launches(8)
    plant(monkeypatch, returns._discounted_sum, "if not values.is_cpu:", "if False:")
    assert launches(500) > 30 * launches(8)


def test_a_number_read_in_a_loop_is_a_wait() -> None:
    def norm(vectors: torch.Tensor) -> float:
        return sum(float(vector.norm()) for vector in vectors)

    with fake_device() as (device, counts):
        norm(torch.ones(7, 2, device=device))
        assert counts.waits == {"_local_scalar_dense": 7}
