"""The sampler: the same bits from any number of workers, in task order, also when a worker dies on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from probe_envs import ProbeConfig, ProbeDistribution
from probe_policies import FatalOncePolicy, MirrorPolicy, NaNPolicy, ScriptDistribution

from metarl.config.schema import SamplerConfig, TaskConfig
from metarl.envs.half_cheetah_dir import HalfCheetahDirConfig, HalfCheetahDirDistribution
from metarl.envs.point import PointConfig, PointDistribution
from metarl.errors import NumericError
from metarl.nn.policies import MLPPolicy, init_parameters, make_policy
from metarl.sampling.executors.base import Executor
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.executors.make import make_executor
from metarl.sampling.executors.processes import Processes
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, Stream, generator
from metarl.tasks import Task, TaskDistribution
from metarl.types import Trajectory

NUM_TASKS = 7
STREAM = Stream(root=3, iteration=1, phase=0)
FAMILIES: dict[str, TaskDistribution] = {
    "point": PointDistribution(PointConfig(name="point", horizon=12)),
    "half_cheetah_dir": HalfCheetahDirDistribution(HalfCheetahDirConfig(name="half_cheetah_dir", horizon=12)),
}


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[int, Executor]]:
    """Executors by ``sampler.workers``, as a configuration makes them; 0 is this process."""
    made = {workers: make_executor(SamplerConfig(workers=workers)) for workers in range(4)}
    yield made
    for executor in made.values():
        executor.close()


@pytest.fixture(scope="module")
def references() -> dict[str, Trajectory]:
    """What this process collects, by family."""
    return {name: collect(distribution, InProcess()) for name, distribution in FAMILIES.items()}


def network(distribution: TaskDistribution) -> tuple[MLPPolicy, torch.Tensor]:
    policy = make_policy(distribution.spaces, (16, 16), "tanh", min_std=1e-6)
    rows = [init_parameters(policy, 1.0, generator(0, Domain.INIT, task_slot=slot)) for slot in range(NUM_TASKS)]
    return policy, torch.stack(rows)


def collect(
    distribution: TaskDistribution,
    executor: Executor,
    *,
    tasks_per_unit: int = 2,
    policy: MLPPolicy | None = None,
    lanes: int = 3,
    stream: Stream = STREAM,
) -> Trajectory:
    made, params = network(distribution)
    tasks = distribution.sample(NUM_TASKS, split="train", rng=generator(0, Domain.TASKS))
    sampler = Sampler(distribution, executor, tasks_per_unit=tasks_per_unit)
    return sampler.collect(policy or made, params, tasks, stream, lanes=lanes, episodes=2)


def probe_sampler(executor: Executor, *, tasks_per_unit: int = 2, **config: Any) -> Sampler:
    return Sampler(ProbeDistribution(ProbeConfig(**config)), executor, tasks_per_unit=tasks_per_unit)


def assert_same_bits(found: Trajectory, expected: Trajectory) -> None:
    for field in fields(Trajectory):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if theirs is None:
            assert ours is None
        else:
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs), field.name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_any_number_of_workers_gives_the_same_bits(
    family: str, workers: int, executors: dict[int, Executor], references: dict[str, Trajectory]
) -> None:
    assert isinstance(executors[workers], InProcess if workers == 0 else Processes)
    assert_same_bits(collect(FAMILIES[family], executors[workers]), references[family])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tasks_per_unit", [1, 3, 7, 100])
def test_any_size_of_units_gives_the_same_bits(
    family: str, tasks_per_unit: int, references: dict[str, Trajectory]
) -> None:
    """More than is promised: batched products of other sizes might differ in the last bits, so a run keeps its own."""
    assert_same_bits(collect(FAMILIES[family], InProcess(), tasks_per_unit=tasks_per_unit), references[family])


def test_the_learners_threads_change_nothing(references: dict[str, Trajectory]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        assert_same_bits(collect(FAMILIES["point"], InProcess()), references["point"])
    finally:
        torch.set_num_threads(before)


def test_a_worker_killed_on_the_way_changes_nothing(tmp_path: Path, references: dict[str, Trajectory]) -> None:
    """SIGKILL from inside the third step of some unit's rollout: the unit is run again from its beginning."""
    distribution = FAMILIES["half_cheetah_dir"]
    healthy, _ = network(distribution)
    policy = FatalOncePolicy(healthy.mlp, healthy.distribution, flag=tmp_path / "killed")
    with make_executor(SamplerConfig(workers=2)) as executor:
        found = collect(distribution, executor, policy=policy)
        assert executor.faults == {"worker_died": 1, "worker_hung": 0, "unit_raised": 0}
    assert (tmp_path / "killed").exists()
    assert_same_bits(found, references["half_cheetah_dir"])


def test_collecting_twice_gives_the_same_bits_and_other_streams_others(executors: dict[int, Executor]) -> None:
    first, again = (collect(FAMILIES["point"], executors[2]) for _ in range(2))
    assert_same_bits(again, first)
    other = collect(FAMILIES["point"], executors[2], stream=Stream(root=3, iteration=2, phase=0))
    assert not torch.equal(other.action, first.action)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("tasks_per_unit", [1, 2, 5])
def test_results_are_in_task_order(workers: int, tasks_per_unit: int, executors: dict[int, Executor]) -> None:
    """Task i says its id in every observation and acts with parameter i/10."""
    sampler = probe_sampler(executors[workers], tasks_per_unit=tasks_per_unit)
    ids = [4, 0, 3, 1, 5]
    params = torch.arange(5.0)[:, None] / 10
    found = sampler.collect(MirrorPolicy(), params, [{"id": number} for number in ids], STREAM, lanes=2)
    assert found.obs.shape == (5, 2, 5, 4)
    for place, number in enumerate(ids):
        assert set(found.obs[place, ..., 0].flatten().tolist()) == {number}
        assert torch.equal(found.action[place], params[place].expand(2, 5, 1))
        assert torch.allclose(found.reward[place], number + params[place])


def test_units_of_different_lengths_make_one_trajectory_that_ends_with_the_longest_lane() -> None:
    """One unit per task; their lanes run 1 and 2, and 4 and 3 of at most 6 steps."""
    tasks: list[Task] = [{"n": 1, "lengths": [[1], [2]]}, {"n": 2, "lengths": [[4], [3]]}]
    sampler = Sampler(ScriptDistribution(TaskConfig(name="script", horizon=6)), InProcess(), tasks_per_unit=1)
    found = sampler.collect(MirrorPolicy(), torch.zeros(2, 1), tasks, STREAM, lanes=2)
    assert found.valid.sum(-1).tolist() == [[1, 2], [4, 3]]
    assert found.reward.tolist() == [
        [[100, 0, 0, 0], [110, 111, 0, 0]],
        [[200, 201, 202, 203], [210, 211, 212, 0]],
    ]


def test_first_actions_differ_in_all_lanes_tasks_and_workers(executors: dict[int, Executor]) -> None:
    """Workers with a common ancestor must not share its generator (they did in other projects)."""
    sampler = probe_sampler(executors[3], tasks_per_unit=1)
    tasks = [{"id": 0}] * 6
    found = sampler.collect(MirrorPolicy(scale=1.0), torch.zeros(6, 1), tasks, STREAM, lanes=5)
    assert len(set(found.action[:, :, 0].flatten().tolist())) == 30
    assert len(set(found.obs[:, :, 0, 1].flatten().tolist())) == 30  # the resets' random numbers


def test_the_trajectory_holds_what_the_types_promise() -> None:
    found = probe_sampler(InProcess(), ends="random").collect(
        MirrorPolicy(scale=1.0), torch.zeros(3, 1), [{"id": i} for i in range(3)], STREAM, lanes=4, episodes=2
    )
    assert found.num_steps == int(found.valid.sum()) < 3 * 4 * 10
    assert found.first.sum() == 3 * 4 * 2
    assert (found.terminated | found.truncated).sum() == 3 * 4 * 2
    assert found.final_obs.shape == (3, 4, 2, 4)
    assert found.success is None
    assert {found.obs.dtype, found.action.dtype, found.reward.dtype, found.log_prob.dtype} == {torch.float32}


def test_episode_returns_are_sums_of_the_right_steps() -> None:
    """Rewards are 100·n + 10·e + t: by hand for lanes of 1 + 2 and 3 + 3 steps."""
    distribution = ScriptDistribution(TaskConfig(name="script", horizon=3))
    sampler = Sampler(distribution, InProcess(), tasks_per_unit=5)
    tasks = [{"n": 1, "lengths": [[1, 2], [3, 9]]}]
    found = sampler.collect(MirrorPolicy(), torch.zeros(1, 1), tasks, STREAM, lanes=2, episodes=2)
    assert found.episode_returns().tolist() == [[[100, 101 + 102], [110 + 111 + 112, 113 + 114 + 115]]]


def test_deterministic_collects_the_mode() -> None:
    sampler = probe_sampler(InProcess())
    params, tasks = torch.tensor([[0.5]]), [{"id": 0}]
    sampled = sampler.collect(MirrorPolicy(scale=1.0), params, tasks, STREAM, lanes=2)
    mode = sampler.collect(MirrorPolicy(scale=1.0), params, tasks, STREAM, lanes=2, deterministic=True)
    assert (sampled.action != 0.5).all()
    assert (mode.action == 0.5).all()


def test_parameters_may_carry_gradients_and_need_not_be_contiguous() -> None:
    """A learner passes what it has; nothing of it is changed."""
    wide = torch.arange(6.0).reshape(3, 2).requires_grad_()
    params = wide[:, 1:] / 10
    assert params.requires_grad
    tasks = [{"id": i} for i in range(3)]
    found = probe_sampler(InProcess()).collect(MirrorPolicy(), params, tasks, STREAM, lanes=1)
    assert found.action[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.3, 0.5])
    assert not found.action.requires_grad
    assert wide.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("rows", [2, 4])
def test_a_wrong_number_of_parameters_is_an_error(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"expected 3 rows of parameters for 3 tasks, got {rows}"):
        probe_sampler(InProcess()).collect(MirrorPolicy(), torch.zeros(rows, 1), [{"id": 0}] * 3, STREAM, lanes=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_numeric_error_keeps_its_class_and_the_executor_goes_on(workers: int, executors: dict[int, Executor]) -> None:
    sampler = probe_sampler(executors[workers])
    tasks = [{"id": i} for i in range(4)]
    with pytest.raises(NumericError, match="expected finite actions"):
        sampler.collect(NaNPolicy(), torch.zeros(4, 1), tasks, STREAM, lanes=1)
    found = sampler.collect(MirrorPolicy(), torch.ones(4, 1), tasks, STREAM, lanes=1)
    assert found.num_steps == 4 * 5


@pytest.mark.parametrize(
    ("num_tasks", "sizes"),
    [(1, [1]), (2, [1, 1]), (7, [1] * 7), (11, [2, 2, 2, 2, 2, 1]), (20, [5] * 4), (40, [5] * 8), (45, [9] * 5)],
)
@pytest.mark.parametrize("workers", [0, 3])
def test_units_of_policies_with_a_memory_do_not_depend_on_the_number_of_workers(
    executors: dict[int, Executor], workers: int, num_tasks: int, sizes: list[int]
) -> None:
    sampler = probe_sampler(executors[workers])
    sampler.tasks_per_unit = "auto"
    size = sampler._unit_size(num_tasks, fixed=True)
    assert [min(size, num_tasks - start) for start in range(0, num_tasks, size)] == sizes
