"""What a run will need is compared with the machine: what cannot be, and only that, is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny_runs

from metarl import cli
from metarl.config import loading
from metarl.errors import ConfigError
from metarl.run import memory
from metarl.run.experiment import build, make_agent, resolve
from metarl.spaces import Space, SpaceSpec

pytestmark = pytest.mark.mistakes

MEMINFO = """\
MemTotal:        1000 kB
MemFree:          100 kB
MemAvailable:     600 kB
SwapTotal:         50 kB
SwapFree:          20 kB
"""


def spaces(observations: int, actions: int = 2) -> SpaceSpec:
    return SpaceSpec(*(Space("box", size, (-1.0,) * size, (1.0,) * size) for size in (observations, actions)))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The machine has so much memory, in bytes, and so much of it is free."""

    def set_memory(free: float, total: float) -> None:
        monkeypatch.setattr(memory, "machine_memory", lambda: (free, total))

    return set_memory


def tiny(tmp_path: Path, *changes: str, config: str = tiny_runs.POINT):
    return resolve(loading.load(config, tiny_runs.overrides(tmp_path, "device=cpu", *changes)).config)


def test_memory_is_that_of_the_machine_or_of_the_container(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.machine_memory() == (math.inf, math.inf)  # no such files: another system
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert memory.machine_memory() == (620 * 1024, 1050 * 1024)  # swap included, no container
    for name, text in (("memory.current", "300000\n"), ("memory.stat", "anon 200000\nfile 90000\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.machine_memory() == (620 * 1024, 1050 * 1024)
    (tmp_path / "memory.max").write_text("500000\n")
    assert memory.machine_memory() == (500000 - 210000, 500000)


def test_the_linear_baseline_needs_three_matrices_per_task_of_a_chunk(tmp_path: Path, machine) -> None:
    config = tiny(tmp_path, "agent.hidden_sizes=[8]")  # chunks of 2 tasks, 5 tasks
    parameters = (100 * 8 + 8) + (8 * 2 + 2) + 2  # the layers, and log σ
    need = 3 * 2 * 204**2 * 8 + 5 * parameters * 4  # [o, o², three powers of the time, 1] are 2 · 100 + 4 features
    machine(need, 1e12)
    memory.check_learner(config, spaces(100))
    machine(need - 1, 1e12)
    with pytest.raises(
        ConfigError, match=r"^agent.baseline = linear: expected none, or fewer observations, .* 204 feat"
    ):
        memory.check_learner(config, spaces(100))
    memory.check_learner(tiny(tmp_path, "agent.baseline=none"), spaces(100))


def test_the_largest_need_is_named(tmp_path: Path, machine) -> None:
    machine(1e6, 1e12)
    wide = tiny(tmp_path, "agent.hidden_sizes=[100000]")
    with pytest.raises(ConfigError, match=r"^agent.hidden_sizes = \[100000\]: with 3 observations every task has 600"):
        memory.check_learner(wide, spaces(3))


@pytest.mark.parametrize(("critic", "fits"), [("linear", 1), ("linear_per_task", 4), ("value_head", 0)])
def test_critics_of_memory_agents_fit_their_inputs(critic: str, fits: int, machine) -> None:
    overrides = [f"agent.critic={critic}", "meta_batch_size=4", "device=cpu", "agent.memory_size=8"]
    config = resolve(loading.load("rl2_ppo_bernoulli_bandit", overrides).config)
    features = 2 * (2000 + 2 + 4) + 4  # of observation, action, reward, two ends of episodes, and first
    need = 3 * fits * features**2 * 8
    machine(need + 1e6, 1e12)  # a megabyte for the parameters
    memory.check_learner(config, spaces(2000))
    if fits:
        machine(need, 1e12)
        with pytest.raises(ConfigError, match=rf"^agent\.critic = {critic}: expected value_head"):
            memory.check_learner(config, spaces(2000))


def test_trajectories_of_full_length_fit_the_machine(tmp_path: Path, machine) -> None:
    config = tiny(tmp_path)
    with build(config) as experiment:
        agent = make_agent(config, experiment.distribution)
    step = 4 * 100 + 4 * 2 + 12
    training = 2 * 5 * 3 * 10 * step  # phases, tasks, episodes, steps
    machine(0, training)
    memory.check_trajectories(config, spaces(100), agent)
    machine(0, training - 1)
    expected = r"^meta_batch_size = 5, rollouts_per_task = 3, task.horizon = 10: 300 steps with 100 observations"
    with pytest.raises(ConfigError, match=expected):
        memory.check_trajectories(config, spaces(100), agent)
    with pytest.raises(ConfigError, match=r"^eval\.num_tasks = 100, eval.score_episodes = 2, task.horizon = 10: 2000 "):
        memory.check_trajectories(tiny(tmp_path, "eval.num_tasks=100", "meta_batch_size=1"), spaces(100), agent)


def test_what_does_not_fit_is_refused_before_anything_is_made(tmp_path: Path, machine, capsys) -> None:
    machine(1e3, 1e12)
    assert cli.main(["train", tiny_runs.POINT, *tiny_runs.overrides(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: agent.baseline = linear: expected none") and error.count("\n") == 1
    machine(1e12, 1e3)
    assert cli.main(["train", tiny_runs.POINT, *tiny_runs.overrides(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.startswith("error: meta_batch_size = 5")
    assert not list(tmp_path.iterdir())
