"""Runs on several ranks: the bits and the records of one, and what becomes of a run when a rank fails.

Ranks are real processes that meet over gloo. The program trains several runs, as most of its time goes into starting.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import rank_processes
import tiny_runs
import torch

from metarl import cli, ranks
from metarl.config import loading
from metarl.errors import ConfigError
from metarl.run import run_dir
from metarl.run.agreement import Agreement, state_sum
from metarl.run.experiment import resolve

PROGRAM = rank_processes.HELPERS / "rank_program.py"
GRADIENT = ("maml_trpo", "maml_ppo", "maml_vpg", "promp", "reptile", "pretraining", "random_init")
MEMORY = ("rl2_ppo", "rl2_trpo")
CHOICES = ("task.actions=nine",)  # what the learned policy gradient needs
SMALL = {
    **tiny_runs.TINY,
    "iterations": "3",
    "sampler.tasks_per_unit": "1",  # five units and five chunks for two ranks: unequal shares
    "learner.tasks_per_chunk": "1",
    "learner.shares": "4",
    "agent.hidden_sizes": "[8]",
}


def words(root: Path, agent: str, *changes: str, allow: str = "") -> list[str]:
    """A command line behind ``train``: an agent in small on the point family, or on what the changes say."""
    size = {key: value for key, value in SMALL.items() if not key.startswith("agent.")}
    if agent in MEMORY:
        size |= {"agent.episodes_per_trial": "2", "agent.memory_size": "8"}
    else:
        size |= {"agent.hidden_sizes": "[8]"}
    if agent == "rl2_ppo":
        size |= {"agent.epochs": "2", "agent.minibatches": "2"}
    elif agent in ("maml_trpo", "promp"):
        size |= {"agent.num_adapt_steps": "1"}
    given = tiny_runs.overrides(root, f"agent.name={agent}", *changes, size=size)
    return [tiny_runs.POINT, *given, *(["--allow", allow] if allow else [])]


def assert_same(tmp_path: Path, cases: Sequence[Sequence[str]], *worlds: int, allow: str = "") -> None:
    """Runs (agent, changes …) on so many ranks and in this process come to the same, records included."""
    for world in worlds:
        given = [words(tmp_path / f"{world}" / str(n), *case, allow=allow) for n, case in enumerate(cases)]
        for ended in rank_processes.wait(rank_processes.start(world, PROGRAM, json.dumps(given))):
            assert ended.code == 0, ended.err
    for n, case in enumerate(cases):
        assert cli.main(["train", *words(tmp_path / "1" / str(n), *case, allow=allow)]) == 0
        alone = tiny_runs.only_run(tmp_path / "1" / str(n))
        assert len(tiny_runs.training(alone)) == 3
        for world in worlds:
            together = tiny_runs.only_run(tmp_path / str(world) / str(n))
            assert tiny_runs.outcome(together) == tiny_runs.outcome(alone), (world, case)
            assert (together / "config.yaml").read_text().replace(f"/{world}/", "/1/").splitlines()[:-1] == (
                (alone / "config.yaml").read_text().splitlines()[:-1]
            )


def test_two_ranks_come_to_the_bits_and_the_records_of_one(tmp_path: Path) -> None:
    assert_same(tmp_path, [["maml_trpo", "agent.fisher_fraction=0.5"], ["rl2_ppo", "agent.bptt_steps=5"]], 2)


@pytest.mark.slow
def test_every_agent_learns_the_same_on_two_ranks(tmp_path: Path) -> None:
    assert_same(tmp_path, [*([agent] for agent in (*GRADIENT, *MEMORY)), ["lpg", *CHOICES]], 2)


@pytest.mark.slow
def test_every_way_through_the_learners_is_the_same_on_two_ranks(tmp_path: Path) -> None:
    """Options that sum, gather or keep otherwise; and worker processes."""
    cases = [
        ("maml_trpo", "agent.num_adapt_steps=3", "agent.outer_phases=all", "agent.inner_loss=dice"),
        ("maml_trpo", "agent.learn_inner_lr=per_tensor", "agent.fisher_fraction=0.5"),
        ("maml_trpo", "agent.first_order=true", "agent.normalize_obs=true", "agent.exploration=sum"),
        ("promp", "agent.adapt_layers=head", "agent.num_adapt_steps=2", "learner.threads=2"),
        ("reptile", "agent.inner=ppo", "agent.outer_optimizer=adam"),
        ("pretraining", "agent.fisher_fraction=0.5", "agent.normalize_obs=true", "sampler.workers=2"),
        ("rl2_ppo", "agent.memory=transformer", "agent.normalize_obs=true", "agent.normalize_reward=true"),
        ("rl2_ppo", "agent.memory=lstm", "agent.critic=linear", "learner.threads=2"),
        ("rl2_ppo", "agent.critic=linear_per_task", "agent.credit=episode", "agent.bptt_steps=5"),
        ("rl2_trpo", "agent.memory=retrieval", "agent.fisher_fraction=1.0"),
        ("lpg", *CHOICES, "agent.lifetime=2", "eval.adapt_steps=4", "eval.score_every=2"),
        ("lpg", *CHOICES, "agent.rule=a2c", "learner.threads=2"),
        ("rl2_ppo", "agent.memory=retrieval", "agent.retrieval_metric=weighted_l1"),
        ("rl2_ppo", "agent.memory=ntm", "agent.memory_context=16", "agent.bptt_steps=5"),
        ("rl2_trpo", "agent.memory=memory_network"),
    ]
    assert_same(tmp_path, cases, 2)


@pytest.mark.slow
def test_four_ranks_come_to_the_bits_of_one(tmp_path: Path) -> None:
    assert_same(tmp_path, [["maml_trpo"], ["promp"], ["rl2_ppo"]], 4)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [16, 40])
def test_units_of_a_memory_are_cut_from_the_whole_meta_batch(tasks: int, tmp_path: Path) -> None:
    """A fused GRU gives other bits for other numbers of rows, so units must not be cut from a rank's own tasks."""
    changes = [f"meta_batch_size={tasks}", "sampler.tasks_per_unit=auto", "agent.memory=gru", "eval.num_tasks=10"]
    assert_same(tmp_path, [["rl2_ppo", *changes, "agent.memory_size=64"]], 2)


@pytest.mark.slow
def test_episodes_that_end_early_on_one_rank_alone_change_no_bit(tmp_path: Path) -> None:
    """Tasks of the second rank end after two of five steps: its arrays are padded to the longest of all."""
    family = ["task.name=rank_families:EarlyEnds", "task.horizon=5", "task.num_tasks=6", "meta_batch_size=6"]
    cases = [["maml_trpo", *family, "agent.normalize_obs=true"], ["rl2_ppo", *family, "agent.normalize_obs=true"]]
    allow = "rank_families:EarlyEnds"
    assert_same(tmp_path, cases, 2, allow=allow)
    logged = tiny_runs.training(tiny_runs.only_run(tmp_path / "2" / "0"))
    assert logged[0]["env_steps"] == 2 * 3 * (3 * 5 + 3 * 2)  # phases × episodes × tasks' steps


@pytest.mark.parametrize(
    ("agent", "change", "line"),
    [
        ("maml_trpo", "learner.tasks_per_chunk=5", "learner.tasks_per_chunk = 5: cuts the learner's work into 1 for 2"),
        ("rl2_ppo", "learner.shares=1", "learner.shares = 1: cuts the learner's work into 1 for 2 ranks"),
    ],
)
def test_fewer_parts_than_ranks_are_refused(
    agent: str, change: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metarl.run import runs

    loaded = loading.load(*split(words(tmp_path, agent, change)))
    with pytest.raises(ConfigError, match=line):
        runs._require_parts(ranks.Ranks(ranks.Launch(0, 2)), resolve(loaded.config))


def split(given: Sequence[str]) -> tuple[str, Sequence[str]]:
    return given[0], given[1:]


@pytest.mark.parametrize(
    ("change", "threads", "shares"),
    [("learner.threads=auto", 3, 12), ("learner.threads=2", 2, 2), ("learner.shares=5", 1, 5)],
)
def test_ranks_share_the_cores_of_their_machine_and_no_number_of_them_decides_bits(
    change: str, threads: int, shares: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve cores and four ranks."""
    monkeypatch.setattr("metarl.run.experiment.available_cores", lambda: 12)
    monkeypatch.setattr(ranks, "_here", ranks.Ranks(ranks.Launch(1, 4, 1, 4)))
    given = [word for word in words(tmp_path, "rl2_ppo", change) if word != "learner.shares=4"]
    learner = resolve(loading.load(*split(given)).config).learner
    assert (learner.threads, learner.shares) == (threads, shares)


def test_a_run_of_before_has_a_share_for_each_thread(tmp_path: Path) -> None:
    kept = loading.as_data(resolve(loading.load(*split(words(tmp_path, "rl2_ppo", "learner.threads=3"))).config))
    del kept["learner"]["shares"]
    assert loading.reload(kept)[0].learner.shares == 3


class Differing(ranks.Ranks):
    """The second of two ranks, whose first one has other bits."""

    def gather(self, work: Callable[[], list[Any]]) -> list[Any]:
        own = work()
        if not own:
            return [{"policy": torch.tensor([1.0])}]
        return [(state_sum({"policy": torch.tensor([1.0])}), {"worker_died": 2, "unit_raised": 1}), *own]


def test_where_bits_differ_the_first_ranks_are_taken_and_it_is_told_once() -> None:
    class Agent:
        policy = torch.tensor([1.0 + 1e-7])

        def state(self) -> dict[str, torch.Tensor]:
            return {"policy": self.policy}

        def load_state(self, state: dict[str, torch.Tensor]) -> None:
            self.policy = state["policy"]

    agent, told = Agent(), []
    agreement = Agreement(Differing(ranks.Launch(1, 2)), told.append)
    for _ in range(2):
        agent.policy = torch.tensor([1.0 + 1e-7])
        agreement.on_state(agent, {"worker_died": 1})  # type: ignore[arg-type]
        assert agent.policy.item() == 1.0
    assert len(told) == 1 and "the ranks' numbers differ in their last bits" in told[0]
    assert agreement.faults_elsewhere == {"worker_died": 2, "unit_raised": 1}


def test_other_commands_do_not_run_once_per_rank(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["evaluate", "latest"]) == 2
    assert "a launcher has started 2 processes, and only train and resume share their work" in capsys.readouterr().err


def failing(tmp_path: Path, fault: str, *changes: str) -> tuple[list[rank_processes.Ended], Path, float]:
    """Two ranks, of which the second has a fault in its third iteration: how they end, the run, and the seconds that
    the first one lived on."""
    family = ["task.name=rank_families:FailsOnRankOne", "task.horizon=5", "task.num_tasks=6", "meta_batch_size=4"]
    given = words(tmp_path, "maml_trpo", *family, "iterations=1000", "eval.every=null", "eval.num_tasks=2", *changes)
    given += ["--allow", "rank_families:FailsOnRankOne"]
    os.environ["METARL_TEST_FAULT"] = fault
    try:
        processes = rank_processes.start(2, PROGRAM, json.dumps([given]))
    finally:
        del os.environ["METARL_TEST_FAULT"]
    process, second = processes
    while not stopped(second):
        time.sleep(0.05)
    started = time.monotonic()
    process.wait(240)
    seconds = time.monotonic() - started
    second.kill() if fault == "SIGSTOP" else None
    return rank_processes.wait(processes), tiny_runs.only_run(tmp_path), seconds


def stopped(process: subprocess.Popen[str]) -> bool:
    return process.poll() is not None or psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


def assert_saved(run: Path, iteration: int) -> None:
    assert tiny_runs.saved_state(run)["counters"]["iteration"] == iteration


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "codes", "said"),
    [
        ("raise", [5, 5], "KeyError: 'no such goal'"),
        ("nan", [5, 5], "expected finite observations"),
        ("SIGKILL", [5, -9], "another rank is gone"),
        ("SIGSTOP", [5, -9], "rank 0 has waited for the others for 5 s"),
        ("SIGTERM", [143, 143], "stopped by signal 15"),
    ],
)
def test_a_failure_of_one_rank_ends_all_and_the_run_is_saved(
    fault: str, codes: list[int], said: str, tmp_path: Path
) -> None:
    (first, second), run, seconds = failing(tmp_path, fault, "sampler.rank_timeout_s=5")
    assert [first.code, second.code] == codes, first.err + second.err
    assert said in first.err and seconds < 60
    assert_saved(run, 2)
    if fault in ("raise", "nan"):
        assert "on rank 1" in first.err and "on rank 1" not in second.err
    else:
        assert said not in second.err


def torchrun(folder: Path, *given: str) -> subprocess.Popen[str]:
    """``torchrun`` with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *given],
        env=rank_processes.environment(),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TWO = ("--standalone", "--nproc-per-node=2")


def metarl_ranks(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The ranks of a launcher, in order."""
    found = [child for child in psutil.Process(launcher.pid).children() if "-m" in child.cmdline()]
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


@pytest.mark.slow
def test_torchrun_starts_again_and_the_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    given = words(tmp_path / "runs", "maml_trpo", "iterations=8", "eval.every=null", "checkpoint.every=1")
    launcher = torchrun(tmp_path, *TWO, "--max-restarts=1", "-m", "metarl", "train", *given)
    tiny_runs.wait_for_iteration(tmp_path / "runs", 3, launcher)
    metarl_ranks(launcher)[1].kill()
    out, err = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, err
    run = tiny_runs.only_run(tmp_path / "runs")  # one run, not two
    assert out.splitlines() == [str(run)]
    assert cli.main(["train", *words(tmp_path / "alone", "maml_trpo", "iterations=8", "eval.every=null")]) == 0
    alone = tiny_runs.only_run(tmp_path / "alone")
    assert run_dir.digest(run) == run_dir.digest(alone)
    assert tiny_runs.training(run) == tiny_runs.training(alone)


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_the_run_which_one_process_goes_on_with(tmp_path: Path) -> None:
    given = words(tmp_path / "runs", "rl2_ppo", "iterations=2000", "eval.every=null")
    launcher = torchrun(tmp_path, *TWO, "-m", "metarl", "train", *given)
    run = tiny_runs.wait_for_iteration(tmp_path / "runs", 2, launcher)
    launcher.send_signal(signal.SIGTERM)
    _, err = launcher.communicate(timeout=60)
    assert err.count("saved at iteration") == 1 and err.count("stopping, as soon as") == 1
    done = tiny_runs.saved_state(run)["counters"]["iteration"]
    assert done == len(tiny_runs.training(run)) >= 2
    assert cli.main(["resume", str(run), f"iterations={done + 1}", "eval.num_tasks=2"]) == 0
    changed = ["iterations=" + str(done + 1), "eval.every=null", "eval.num_tasks=2"]
    assert cli.main(["train", *words(tmp_path / "alone", "rl2_ppo", *changed)]) == 0
    assert run_dir.digest(run) == run_dir.digest(tiny_runs.only_run(tmp_path / "alone"))


@pytest.mark.slow
def test_a_configuration_error_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    given = words(tmp_path / "runs", "maml_trpo", "learner.tasks_per_chunk=5")
    launcher = torchrun(tmp_path, *TWO, "-m", "metarl", "train", *given)
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 1 and out == ""
    assert err.count("error: learner.tasks_per_chunk = 5: cuts the learner's work into 1 for 2 ranks") == 1
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/*"))


def documented() -> list[list[str]]:
    """The arguments of every ``torchrun`` on the page, those behind ``srun`` too, with variables as they stand."""
    page = (tiny_runs.ROOT / "docs" / "many_ranks.md").read_text(encoding="utf-8")
    return [shlex.split(line) for line in re.findall(r"^(?:srun )?torchrun (.*)$", page, flags=re.MULTILINE)]


def test_the_page_has_the_commands_that_are_tried_here() -> None:
    commands = [given[given.index("metarl") + 1] for given in documented()]
    assert commands == ["train", "train", "train", "resume"]


@pytest.mark.slow
def test_the_documented_commands_of_one_machine(tmp_path: Path) -> None:
    train, *_, resume = documented()
    small = words(tmp_path, "maml_trpo")
    out, err = torchrun(tmp_path, *train[:-1], *small).communicate()
    run = tiny_runs.only_run(tmp_path)
    assert out.splitlines() == [str(run)], err
    named = [{"RUN": str(run), "iterations=200": "iterations=4"}.get(word, word) for word in resume]
    out, err = torchrun(tmp_path, *named).communicate()
    assert out.splitlines() == [str(run)], err
    assert cli.main(["train", *words(tmp_path / "alone", "maml_trpo", "iterations=4")]) == 0
    assert run_dir.digest(run) == run_dir.digest(tiny_runs.only_run(tmp_path / "alone"))


@pytest.mark.slow
@pytest.mark.parametrize("which", [1, 2], ids=["by hand", "in SLURM"])
def test_the_documented_commands_of_several_machines(which: int, tmp_path: Path) -> None:
    """Two launchers on this one, which do not share a folder of runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    named = {"$HEAD": "HEAD", "HEAD:29400": f"127.0.0.1:{port}", "$SLURM_NNODES": "2", "$SLURM_JOB_ID": "17"}
    named |= {"nproc-per-node=4": "nproc-per-node=1", "nproc-per-node=2": "nproc-per-node=1"}
    given = documented()[which][:-1]
    for there, here in named.items():
        given = [word.replace(there, here) for word in given]
    folders = [tmp_path / name for name in ("first", "second")]
    launchers = [torchrun(tmp_path, *given, *words(folder, "maml_trpo")) for folder in folders]
    said = [launcher.communicate() for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    (run,) = tmp_path.glob("*/*/*")  # on the machine of rank 0
    assert [out for out, _ in said if out] == [f"{run}\n"]
    assert cli.main(["train", *words(tmp_path / "alone", "maml_trpo")]) == 0
    assert run_dir.digest(run) == run_dir.digest(tiny_runs.only_run(tmp_path / "alone"))


@pytest.mark.slow
def test_an_agent_that_knows_nothing_of_ranks_learns_the_same_on_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tiny_runs.ROOT / "docs" / "examples")
    agent = "first_order:FirstOrder"
    assert_same(tmp_path, [[agent]], 2, allow=agent)
