"""Benchmarks: what they report on a tiny configuration, and that the bare loop replays the sampler's own physics."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from metarl import cli
from metarl.bench import faults, iteration, learner, machine, memory_learner, sampling
from metarl.config import loading
from metarl.config.schema import RunConfig
from metarl.envs.half_cheetah_dir import HalfCheetahDirConfig, HalfCheetahDirDistribution
from metarl.nn.policies import init_parameters, make_policy
from metarl.run.experiment import build, resolve
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.rollout import draw_reset_seeds
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, Stream, generator
from metarl.tasks import Task, TaskDistribution

TINY = [
    "seed=1",
    "meta_batch_size=4",
    "rollouts_per_task=3",
    "agent.hidden_sizes=[8]",
    "sampler.tasks_per_unit=2",
    "learner.threads=1",
    "device=cpu",
]

pytestmark = pytest.mark.alone  # speeds and their ratios


def tiny(name: str, *overrides: str) -> RunConfig:
    return loading.load(name, [*TINY, *overrides]).config


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sampling, learner, iteration):
        monkeypatch.setattr(module, "ROUNDS", 2)
    for module in (machine, learner):
        monkeypatch.setattr(module, "GEMM_SIZE", 100)


def test_sampling_is_measured_against_the_bare_physics() -> None:
    result = sampling.measure(tiny("maml_trpo_half_cheetah_dir", "task.horizon=20", "sampler.workers=1"))
    peak = result.pop("peak_memory_mb")
    sampled, raw, ratio = (result.pop(key) for key in ("env_steps_per_s", "raw_steps_per_s", "ratio"))
    assert result == {
        "config": "half_cheetah_dir",
        "tasks": 4,
        "lanes": 3,
        "horizon": 20,
        "workers": 1,
        "cores": len(os.sched_getaffinity(0)),
    }
    assert 50 < sampled < 1e6
    assert 1e3 < raw < 1e6 * result["cores"]
    assert 0 < ratio < 1.5
    assert 50 < peak < 64e3  # this process and a worker, both with torch


def test_sampling_without_mujoco_has_nothing_to_compare_with() -> None:
    result = sampling.measure(tiny("maml_trpo_point", "task.horizon=10", "sampler.workers=0"))
    assert result["env_steps_per_s"] > 0
    assert result["raw_steps_per_s"] is None
    assert result["ratio"] is None


def test_long_meta_updates_are_measured_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by 25 s at every look: three updates take more than a minute."""
    looks = itertools.count()
    monkeypatch.setattr(learner, "ROUNDS", 10)
    for module in (machine, learner):
        monkeypatch.setattr(module, "now", lambda device: 25.0 * next(looks))
    result = learner.measure(tiny("maml_trpo_point", "task.horizon=10", "sampler.workers=0"))
    assert (result["rounds"], result["meta_update_s"], result["gemm_s"], result["ratio"]) == (3, 25.0, 25.0, 1.0)


def test_the_learner_is_measured_against_a_matrix_product() -> None:
    result = learner.measure(tiny("maml_trpo_point", "task.horizon=10", "sampler.workers=0"))
    peak = result.pop("peak_memory_mb")
    update, product, ratio, operations = (result.pop(key) for key in ("meta_update_s", "gemm_s", "ratio", "operations"))
    assert result == {
        "config": "maml_trpo on point",
        "tasks": 4,
        "lanes": 3,
        "horizon": 10,
        "device": "cpu",
        "threads": 1,
        "rounds": 2,
    }
    assert 0 < product < 10 and 0 < update < 10
    assert 0.1 < ratio / (update / product) < 10  # the median of ratios is near the ratio of medians
    assert 50 < peak < 64e3
    assert operations > 0


def test_multiplications_are_those_of_all_kinds_of_matrix_products() -> None:
    a, b, c = torch.zeros(2, 3, 5), torch.zeros(2, 5, 7), torch.zeros(2, 3, 7)
    bias = torch.zeros(2, 1, 7)
    with machine.CountMultiplications() as counted:
        torch.bmm(a, b)
        torch.bmm(a, b, out=c)
        torch.baddbmm(bias, a, b)
        c.baddbmm_(a, b)
        torch.bmm(b.mT, a.mT)
        assert counted.total == 5 * 2 * 3 * 5 * 7
        torch.mm(a[0], b[0])
        assert counted.total == 5 * 2 * 3 * 5 * 7 + 3 * 5 * 7
        torch.tanh(a) + a * a  # no products of matrices
    assert counted.total == 5 * 2 * 3 * 5 * 7 + 3 * 5 * 7


def test_a_first_order_update_takes_the_products_that_it_must() -> None:
    """One linear layer and one product of the conjugate gradient, counted by hand."""
    overrides = ["task.horizon=10", "agent.first_order=true", "agent.cg_iterations=1", "agent.num_adapt_steps=1"]
    sizes = [override for override in TINY if "hidden" not in override]
    settings = [*sizes, *overrides, "agent.hidden_sizes=[]", "sampler.workers=0"]
    result = learner.measure(loading.load("maml_trpo_point", settings).config)
    samples = 4 * 3 * 10  # tasks · lanes · steps: nobody is at the goal after ten steps
    forward = backward = samples * 2 * 2
    deviations = samples * 2  # their gradient is a product with the coefficients
    fit = samples * (8 * 8 + 8 + 8)  # moments, projection and prediction of 8 features
    adapt = fit + forward + backward + deviations
    update = 2 * fit + 2 * (forward + backward + deviations)  # both phases
    fisher, diagnostics = forward + backward, forward
    candidate = forward  # of the new policy: adaptation is not repeated
    rest = result["operations"] * machine.GEMM_SIZE**3 - (adapt + update + fisher + diagnostics)
    assert rest > 0 and rest / candidate == pytest.approx(round(rest / candidate), abs=1e-6)


def test_an_iteration_is_sampling_and_learning() -> None:
    result = iteration.measure(tiny("maml_trpo_half_cheetah_dir", "task.horizon=20", "sampler.workers=1"))
    assert result["env_steps"] == 2 * 4 * 3 * 20
    assert result["iteration_s"] == pytest.approx(result["sample_s"] + result["learn_s"], rel=0.5)
    assert result["raw_steps_per_s"] > 1e3 and 0 < result["gemm_s"] < 10
    assert iteration.measure(tiny("maml_trpo_point", "task.horizon=5"))["raw_steps_per_s"] is None


class ReplaySpy:
    """Notes the simulation's state whenever the newest ``MjData`` is reset: in a replay, the end of each episode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: list[np.ndarray] = []
        self.steps = 0
        make, reset, step = mujoco.MjData, mujoco.mj_resetData, mujoco.mj_step

        def make_noted(model: Any) -> Any:
            self.data, self.states, self.steps = make(model), [], 0
            return self.data

        def reset_noted(model: Any, data: Any) -> None:
            self.note(data)
            reset(model, data)

        def step_noted(model: Any, data: Any, nstep: int = 1) -> None:
            self.steps += nstep
            step(model, data, nstep)

        monkeypatch.setattr(mujoco, "MjData", make_noted)
        monkeypatch.setattr(mujoco, "mj_resetData", reset_noted)
        monkeypatch.setattr(mujoco, "mj_step", step_noted)

    def note(self, data: Any) -> None:
        if data is self.data:
            self.states.append(np.concatenate([data.qpos[1:], data.qvel]))


def stepped(distribution: TaskDistribution, tasks: list[Task], seeds: list[int], actions: np.ndarray) -> np.ndarray:
    """Last observations in float64 of the environment stepped directly; actions [lanes, T, act]."""
    env = distribution.make_vector(len(tasks))
    env.set_tasks(tasks)
    env.reset(seed=seeds)
    observations = [env.step(actions[:, t])[0] for t in range(actions.shape[1])]
    return observations[-1]


def test_the_bare_loop_ends_where_the_samplers_episodes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit the last observations, after 30 steps of contacts: the same work, not similar work."""
    distribution = HalfCheetahDirDistribution(
        HalfCheetahDirConfig(name="half_cheetah_dir", horizon=30, action_scale=10.0)
    )
    policy = make_policy(distribution.spaces, (8,), "tanh", min_std=1e-6)
    params = init_parameters(policy, 5.0, generator(0, Domain.INIT)).repeat(4, 1)
    tasks, stream = distribution.sample(4, split="train", rng=generator(0, Domain.TASKS)), Stream(0, 5, 1)
    sampler = Sampler(distribution, InProcess(), tasks_per_unit=3)
    batch = sampler.collect(policy, params, tasks, stream, lanes=2)
    lengths, actions = batch.valid.sum(-1).numpy(), batch.action[1:].numpy()
    seeds = draw_reset_seeds(stream, 1, 3, 2, 1)[:, 0].tolist()
    expected = stepped(distribution, [task for task in tasks[1:] for _ in range(2)], seeds, actions.reshape(6, 30, 6))
    spy = ReplaySpy(monkeypatch)
    steps, seconds = sampling.replay(
        sampling._ReplayUnit(distribution, tuple(tasks[1:]), 1, stream, actions, lengths[1:])
    )
    spy.note(spy.data)
    assert steps == 3 * 2 * 30
    assert spy.steps == steps * 5  # frame_skip
    assert 0 < seconds < 5
    ends = np.array(spy.states[1:])  # the first reset comes before any episode
    np.testing.assert_array_equal(ends, expected)  # warm starts included, which float32 would not show
    np.testing.assert_array_equal(ends.astype(np.float32), batch.final_obs[1:].reshape(6, 17).numpy())


TINY_MEMORY = [
    "meta_batch_size=4",
    "rollouts_per_task=2",
    "agent.episodes_per_trial=2",
    "agent.memory_size=8",
    "agent.bptt_steps=7",
    "sampler.workers=0",
    "device=cpu",
]


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_learning_with_a_memory_is_measured_against_its_network(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_learner, "ROUNDS", 2)
    overrides = [*TINY_MEMORY, f"learner.threads={threads}"]
    result = learner.measure(loading.load("rl2_ppo_tabular_mdp", overrides).config)
    update, ours, bare, ratio = (
        result.pop(key) for key in ("meta_update_s", "epoch_steps_per_s", "bare_steps_per_s", "ratio")
    )
    assert result == {"config": "rl2_ppo on tabular_mdp", "trials": 8, "steps": 20, "threads": threads}
    assert ours == pytest.approx(8 * 20 * 4 / update)  # trials, steps, epochs
    assert 0 < ratio < 1.5 and bare > 0


def test_more_minibatches_than_trials_are_as_many_as_there_are_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_learner, "ROUNDS", 1)
    overrides = [*TINY_MEMORY[1:], "meta_batch_size=1", "agent.minibatches=5", "learner.threads=3"]
    result = learner.measure(loading.load("rl2_ppo_tabular_mdp", overrides).config)
    assert result["trials"] == 2 and result["ratio"] > 0


def test_a_learner_without_epochs_has_no_such_measure(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["meta_batch_size=4", "agent.memory_size=8", "sampler.workers=0"]
    assert cli.main(["bench", "learner", "rl2_trpo_bernoulli_bandit", *small]) == 2
    assert "epochs" in capsys.readouterr().err


def test_what_reliability_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "ROUNDS", 2)
    monkeypatch.setattr(faults, "PARAMETERS", 1000)
    config = tiny("maml_trpo_half_cheetah_dir", "task.horizon=5", "sampler.workers=1", f"run_dir={tmp_path / 'runs'}")
    result = faults.measure(config)
    save, guards = result["save"], result["guards"]
    assert save.pop("parameters") == 1000
    assert all(0 < seconds < 10 for seconds in save.values())
    assert set(save) == {"seconds", "processor_s", "serialise_s", "hash_s", "write_s", "load_s"}
    assert 0 < guards["with_s"] < 10 and 0 < guards["without_s"] < 10 and -0.9 < guards["share"] < 5
    assert 0 < result["recovery_s"] < 60
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["maml_trpo_half_cheetah_dir", "maml_trpo_cartpole", "maml_trpo_point"])
def test_without_guards_the_same_is_gathered(name: str) -> None:
    """What is left out guards, and does nothing else."""
    with build(resolve(tiny(name, "task.horizon=10", "sampler.workers=0"))) as experiment:
        guarded = faults._gather(experiment, InProcess(), 2, 0)()
        with faults._without_guards():
            bare = faults._gather(experiment, InProcess(), 2, 0)()
    for (field, one), (_, other) in zip(guarded.tensors(), bare.tensors(), strict=True):
        assert torch.equal(one, other), field
