"""Whole runs on Ray: the digest of worker processes, and what is left where the cluster is lost."""

from __future__ import annotations

import importlib.util
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import tiny_runs
from tiny_runs import ROOT, only_run, outcome, overrides, saved_state

from metarl.bench import faults
from metarl.config import loading
from metarl.run import runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'metarl[ray]'"),
]


SMALL = {
    **{key: value for key, value in tiny_runs.TINY.items() if key.partition(".")[0] not in ("agent", "task")},
    "iterations": "3",
    "sampler.workers": "2",
    "sampler.tasks_per_unit": "auto",
}
MEMORY = ["agent.memory_size=8", "agent.episodes_per_trial=2", "agent.bptt_steps=4", "agent.lr_iterations=3"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("maml_trpo_point", ["task.horizon=10", "agent.hidden_sizes=[8]", "agent.num_adapt_steps=2"]),
        ("reptile_half_cheetah_dir", ["task.horizon=10", "agent.hidden_sizes=[8]"]),
        ("rl2_ppo_tabular_mdp", ["task.horizon=5", *MEMORY]),
    ],
)
def test_the_digest_is_that_of_worker_processes(name: str, changes: list[str], tmp_path: Path) -> None:
    found = {
        executor: runs.train(
            loading.load(name, overrides(tmp_path, *changes, f"sampler.executor={executor}", size=SMALL))
        )
        for executor in ("processes", "ray")
    }
    assert outcome(found["ray"]) == outcome(found["processes"])
    (node,) = saved_state(found["ray"])["nodes"].values()
    assert node["python"] == platform.python_version()
    assert saved_state(found["processes"])["nodes"] == {}


def program(root: Path, *changes: str) -> subprocess.Popen[str]:
    command = ["-m", "metarl", "train", "maml_trpo_point"]
    given = ["sampler.executor=ray", "sampler.workers=2", "iterations=100000", *changes]
    return tiny_runs.start(*command, *overrides(root, *given))


@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_a_head_that_dies_ends_the_run_with_exit_code_5_and_keeps_the_checkpoint(part: str, tmp_path: Path) -> None:
    process = program(tmp_path)
    run = tiny_runs.wait_for_iteration(tmp_path, 4, process, seconds=600)
    children = tiny_runs.family(process)
    next(child for child in children if child.name() == part).kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 5, errors[-3000:]
    assert tiny_runs.all_gone(children, 20)
    done = saved_state(run)["counters"]["iteration"]
    assert done >= 4
    resumed = tiny_runs.metarl(
        "resume", run, f"iterations={done + 1}", "sampler.executor=in_process", "sampler.workers=0"
    )
    assert resumed == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_saved_and_leaves_nothing(signum: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "metarl", "train", "maml_trpo_point"]
    given = overrides(tmp_path, "sampler.executor=ray", "sampler.workers=2", "iterations=100000")
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*command, *given], env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    tiny_runs.wait_for_iteration(tmp_path, 2, process, seconds=600)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signum)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, errors[-3000:]
    assert tiny_runs.all_gone(children, 20)
    assert saved_state(only_run(tmp_path))["counters"]["iteration"] >= 2


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    process = program(tmp_path)
    tiny_runs.wait_for_iteration(tmp_path, 2, process, seconds=600)
    children = tiny_runs.family(process)
    process.kill()
    process.communicate()
    assert tiny_runs.all_gone(children, 20)


def test_what_the_death_of_an_actor_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "ROUNDS", 2)
    monkeypatch.setattr(faults, "PARAMETERS", 1000)
    given = overrides(tmp_path, "sampler.executor=ray", "sampler.workers=2", "iterations=1")
    found = faults.measure(loading.load("maml_trpo_point", given).config)["recovery_s"]
    assert found is not None and 0 < found < 60
