"""Tiny runs of the shipped configurations, in this process or as programs, and what a run left on the disk."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch import Tensor

from metarl import cli
from metarl.config import loading
from metarl.run import checkpoint, run_dir, runs
from metarl.run.trainer import Trainer
from metarl.sampling.executors.processes import Processes

ROOT = Path(__file__).resolve().parents[2]
POINT = "maml_trpo_point"
TINY = {
    "iterations": "5",
    "meta_batch_size": "5",  # with 2 tasks per unit and chunk: three units and three chunks, the last one smaller
    "rollouts_per_task": "3",
    "task.horizon": "10",
    "agent.hidden_sizes": "[8]",
    "agent.num_adapt_steps": "1",
    "sampler.workers": "0",
    "sampler.tasks_per_unit": "2",
    "learner.threads": "1",
    "learner.tasks_per_chunk": "2",
    "eval.every": "2",
    "eval.num_tasks": "4",
    "eval.adapt_steps": "1",
    "eval.adapt_episodes": "2",
    "eval.adapt_env_steps": "null",
    "eval.score_episodes": "2",
    "checkpoint.every": "2",
    "wandb.mode": "disabled",
}
MDP = "rl2_ppo_tabular_mdp"
TINY_MEMORY = {
    "iterations": "4",
    "meta_batch_size": "12",  # with auto: six units of two tasks
    "rollouts_per_task": "3",
    "task.horizon": "5",
    "agent.episodes_per_trial": "3",
    "agent.memory": "gru",
    "agent.critic": "value_head",
    "agent.memory_size": "24",
    "agent.lr_iterations": "4",
    "agent.bptt_steps": "6",
    "agent.normalize_obs": "true",
    "agent.normalize_reward": "true",
    "sampler.workers": "0",
    "learner.threads": "1",
    "eval.every": "2",
    "eval.num_tasks": "4",
    "eval.score_episodes": "2",
    "eval.restored_episodes": "2",
    "checkpoint.every": "2",
    "wandb.mode": "disabled",
}
LPG = "lpg_tabular_mdp"
TINY_LPG = {key: value for key, value in TINY.items() if not key.startswith(("agent.", "task."))} | {
    "task.horizon": "5",
    "agent.hidden_sizes": "[4]",
    "agent.num_adapt_steps": "2",
    "agent.lifetime": "3",  # of five iterations: some lives end, some go on, and some begin
    "agent.rule_size": "6",
    "agent.critic_size": "4",
    "agent.critic_steps": "2",
    "agent.outer_lr": "0.01",
    "eval.adapt_steps": "4",
    "eval.score_every": "2",
}


def short_chunks(name: str) -> list[str]:
    """What a shipped configuration needs beside a short horizon if its agent cuts trials into chunks."""
    return ["agent.bptt_steps=25"] if getattr(loading.load(name).config.agent, "bptt_steps", None) else []


def overrides(root: Path, *changes: str, size: Mapping[str, str] = TINY) -> list[str]:
    """Overrides that make a shipped configuration tiny, ``changes`` (``key=value``) last, with runs in ``root``."""
    merged = {**size} | {"run_dir": str(root)} | dict(change.split("=", 1) for change in changes)
    return [f"{key}={value}" for key, value in merged.items()]


def train(root: Path, *changes: str, name: str = POINT) -> Path:
    """Train a tiny run to its end in this process."""
    return runs.train(loading.load(name, overrides(root, *changes)))


def metarl(*argv: object) -> int:
    """The exit code of a ``metarl`` command in this process."""
    return cli.main([str(argument) for argument in argv])


def only_run(root: Path) -> Path:
    """The one run below ``root``."""
    (run,) = root.glob("*/*")
    return run


def parameters(run: Path) -> dict[str, Tensor]:
    """The tensors of a run's newest checkpoint."""
    return checkpoint.latest(run_dir.checkpoints(run)).tensors


def saved_state(run: Path) -> dict[str, Any]:
    """The JSON part of a run's newest checkpoint."""
    return checkpoint.latest(run_dir.checkpoints(run)).state.model_dump()


def lines(file: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines, every one of which must be whole."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def strict_json(file: Path) -> dict[str, Any]:
    """A JSON file that must not contain NaN or Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    loaded: dict[str, Any] = json.loads(file.read_text("utf-8"), parse_constant=refuse)
    return loaded


def training(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if not name.startswith("perf/")}
        for line in lines(run / "metrics.jsonl")
    ]


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The lines of ``evaluations.jsonl``."""
    return lines(run / "evaluations.jsonl")


def outcome(run: Path) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """All that must not depend on how a run was run: the digest and both records."""
    return run_dir.digest(run), training(run), evaluations(run)


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder, files with the SHA-256 of their content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def on_call(patch: pytest.MonkeyPatch, owner: Any, name: str, number: int, action: Callable[[], None]) -> None:
    """Do something just before the ``number``-th call of ``owner.name``, counted from 1."""
    original = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            action()
        return original(*args, **kwargs)

    patch.setattr(owner, name, counted)


def kill_a_worker_per_iteration(patch: pytest.MonkeyPatch, iterations: int) -> list[int]:
    """In each of the first iterations a worker is killed somewhere in the next few milliseconds; their process ids.

    A later iteration must follow: it notices a death that came behind an iteration's sampling.
    """
    iterate = Trainer.iterate
    killed: list[int] = []

    def with_a_kill(self: Trainer) -> dict[str, float]:
        executor = self.experiment.executor
        assert isinstance(executor, Processes)
        if self.iteration >= iterations:
            return iterate(self)
        victim = next(pid for pid in executor.pids if pid not in killed)
        killed.append(victim)

        def kill() -> None:
            time.sleep(0.005 * len(killed))
            os.kill(victim, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        metrics = iterate(self)
        thread.join()
        return metrics

    patch.setattr(Trainer, "iterate", with_a_kill)
    return killed


def send_self(signum: signal.Signals) -> Callable[[], None]:
    """An action that sends a signal to this process."""
    return lambda: os.kill(os.getpid(), signum)


def start(*command: object, into: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """A Python program that finds metarl, installed or not; its output goes ``into`` a descriptor, or pipes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, *map(str, command)]
    return subprocess.Popen(argv, env=environment, stdout=into, stderr=into, text=True)


def wait_for_iteration(root: Path, iteration: int, process: subprocess.Popen[str], seconds: float = 200) -> Path:
    """The run below ``root`` as soon as its metrics have that iteration."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        for file in root.glob("*/*/metrics.jsonl"):
            if file.read_bytes().count(b"\n") >= iteration:
                return file.parent
        time.sleep(0.005)
    raise AssertionError(f"expected iteration {iteration} within {seconds} s")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes that a program has started: fork server, workers, wandb."""
    return psutil.Process(process.pid).children(recursive=True)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The rollout workers of a program: the living children of its fork server."""
    found: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children():
            if "forkserver" in " ".join(child.cmdline()):
                found += [worker for worker in child.children() if _runs(worker)]
    return found


def all_gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    """Whether processes end in time; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + seconds
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(_runs, processes))


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
