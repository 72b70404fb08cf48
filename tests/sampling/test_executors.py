"""Executors against real processes that are killed, stopped, interrupted and orphaned."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.config.schema import SamplerConfig
from metarl.errors import Interrupted, MetarlError, NumericError, WorkerError
from metarl.sampling.executors import scratch, worker
from metarl.sampling.executors.base import Call, Executor, RestartBudget
from metarl.sampling.executors.codec import FaultError, encode
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.executors.make import make_executor
from metarl.sampling.executors.processes import Processes


def square(number: int) -> int:
    return number * number


def square_after(unit: tuple[int, float]) -> int:
    time.sleep(unit[1])
    return unit[0] ** 2


def append(unit: int, shared: list[int]) -> list[int]:
    shared.append(unit)
    return shared


@dataclass(frozen=True)
class Once:
    """A unit that does something terrible in its first run only; the file survives the worker."""

    number: int
    flag: Path | None = None

    def describe(self) -> dict[str, int]:
        return {"task": self.number}

    def is_first_run(self) -> bool:
        if self.flag is None or self.flag.exists():
            return False
        self.flag.write_text(str(os.getpid()))
        return True


def die_once(unit: Once) -> int:
    if unit.is_first_run():
        os.kill(os.getpid(), signal.SIGKILL)
    return unit.number**2


def scaled(unit: Once, shared: Tensor) -> int:
    if unit.is_first_run():
        os.kill(os.getpid(), signal.SIGKILL)
    return int(shared.mean()) * unit.number


def stop_once(unit: Once) -> int:
    if unit.is_first_run():
        os.kill(os.getpid(), signal.SIGSTOP)
    return unit.number**2


def raise_once(unit: Once) -> int:
    if unit.is_first_run():
        raise ArithmeticError("a transient failure")
    return unit.number**2


def raise_always(unit: Any) -> None:
    raise ArithmeticError("a lasting failure")


def end_the_program(unit: int) -> None:
    raise (SystemExit(0), GeneratorExit())[unit]


def clean_up(log: Path) -> None:
    """Takes a minute, and says when it has cleaned up."""
    log.with_suffix(".started").write_text("")
    try:
        time.sleep(60)
    finally:
        log.write_text("clean")


def die_always(unit: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class MyNumericError(NumericError):
    """A class that lives outside of metarl.errors."""


def raise_ours(unit: tuple[str, str]) -> None:
    kind, log = unit
    with open(log, "a") as file:
        file.write("run\n")
    raise {
        "numeric": NumericError("loss is nan"),
        "own": MyNumericError("loss is inf"),
        "interrupted": Interrupted(signal.SIGTERM),
    }[kind]


def surroundings(_: Any) -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return {"threads": torch.get_num_threads(), "pid": os.getpid(), **{name: os.environ.get(name) for name in names}}


def zeros(megabytes: int) -> Tensor:
    return torch.zeros(megabytes << 18)


def forward(unit: tuple[Tensor, Tensor]) -> list[Tensor]:
    """A stacked linear layer, and sums whose order depends on the memory layout and on the number of threads."""
    weights, inputs = unit
    hidden = torch.tanh(torch.bmm(inputs, weights))
    return [hidden, weights.sum(dim=-1), torch.cat([hidden.flatten()] * 50).sum()]


def unpicklable(_: Any) -> Any:
    return lambda: None


@pytest.fixture(scope="module")
def shared() -> Iterator[Processes]:
    """Two workers for all tests that leave them usable."""
    torch.set_num_threads(2)
    torch.randn(256, 256) @ torch.randn(256, 256)  # a forked child would hang after this
    with Processes(2, timeout_s=30, retries=1, restarts=100) as executor:
        executor.prepare(2)
        yield executor


@pytest.fixture(params=["in_process", "processes"])
def either(request: pytest.FixtureRequest, shared: Processes) -> Executor:
    return shared if request.param == "processes" else InProcess(retries=1)


def new_faults(
    executor: Executor, function: Callable[[Any], Any], units: Sequence[Any]
) -> tuple[list[Any], dict[str, int]]:
    """The results of a map, and the faults that happened in it."""
    before = dict(executor.faults)
    results = executor.map(function, units)
    return results, {kind: count - before[kind] for kind, count in executor.faults.items() if count > before[kind]}


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def state_and_parent(pid: int) -> tuple[str, int]:
    """A process's state letter and its parent, from the kernel; ``X`` for one that is no more."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return state, int(parent)


def gone(pid: int) -> bool:
    return state_and_parent(pid)[0] in "XZ"


def descendants(pid: int) -> list[int]:
    parents = {int(name): state_and_parent(int(name))[1] for name in os.listdir("/proc") if name.isdigit()}
    found = [pid]
    for member in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == member]
    return found[1:]


def start_processes(seconds: float) -> list[int]:
    """A unit whose environment starts processes, one of Python's and one that is no Python, and does not end them."""
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    forked.start()
    pids = [os.getpid(), forked.pid or 0, subprocess.Popen(["sleep", "60"]).pid]
    print(*pids, file=sys.stderr, flush=True)
    time.sleep(seconds)
    return pids


# Results


def test_results_come_in_the_order_of_the_units(either: Executor) -> None:
    units = [(number, delay) for number, delay in enumerate([0.2, 0.0, 0.05, 0.0, 0.1, 0.0, 0.02, 0.0])]
    assert new_faults(either, square_after, units) == ([0, 1, 4, 9, 16, 25, 36, 49], {})


def test_no_units_no_results(either: Executor) -> None:
    assert either.map(square, []) == []


def test_what_units_share_is_given_to_each_and_what_one_does_to_it_reaches_no_other(either: Executor) -> None:
    assert either.map(append, [3, 4, 5], shared=[1, 2]) == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
    assert either.map(append, [3], shared=[7]) == [[7, 3]]


def test_what_units_share_reaches_a_worker_once_and_its_successor_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    send = worker.send

    def counted(channel: Any, message: Any, on_stall: Any = None) -> None:
        sizes.append(len(message))
        send(channel, message, on_stall)

    monkeypatch.setattr(worker, "send", counted)
    shared = torch.ones(1 << 16)  # 256 KB
    with Processes(1, timeout_s=30, retries=1, restarts=1) as executor:
        assert executor.map(scaled, [Once(number) for number in range(5)], shared=shared) == [0, 1, 2, 3, 4]
        assert sum(sizes) < 300_000 < 2 * len(encode(shared))
        sizes.clear()
        assert executor.map(scaled, [Once(1), Once(2, tmp_path / "flag"), Once(3)], shared=shared) == [1, 2, 3]
        assert executor.faults["worker_died"] == 1
        assert 2 * len(encode(shared)) < sum(sizes) < 600_000


@pytest.mark.alone
def test_all_workers_take_part(shared: Processes) -> None:
    start = time.monotonic()
    shared.map(square_after, [(0, 1.0)] * 4)
    assert time.monotonic() - start < 3.8  # 4 s one after the other


def test_both_executors_give_the_same_bits_for_any_layout(shared: Processes) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(9, 65, 33, generator=generator)
    inputs = torch.randn(9, 40, 34, generator=generator)
    units = [  # neither contiguous nor aligned
        (weights[start : start + 3].transpose(1, 2), inputs[start : start + 3, :, 1:]) for start in (0, 3, 6)
    ]
    in_process, processes = InProcess().map(forward, units), shared.map(forward, units)
    for tensors, others in zip(in_process, processes, strict=True):
        assert [tensor.numpy().tobytes() for tensor in tensors] == [other.numpy().tobytes() for other in others]


def test_units_run_on_copies_and_one_thread_without_a_gpu(shared: Processes) -> None:
    before = dict(os.environ)
    for seen in shared.map(surroundings, [0, 1]):
        assert seen["pid"] != os.getpid()
        assert (seen["threads"], seen["OMP_NUM_THREADS"], seen["MKL_NUM_THREADS"]) == (1, "1", "1")
        assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert dict(os.environ) == before


def test_in_process_uses_one_thread_and_restores_the_callers() -> None:
    torch.set_num_threads(2)
    assert InProcess().map(surroundings, [0])[0]["threads"] == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(WorkerError):
        InProcess().map(raise_always, [0])
    assert torch.get_num_threads() == 2


def test_a_slice_travels_without_the_rest_of_its_tensor() -> None:
    assert len(encode(torch.zeros(1000, 1000)[3:5])) < 10_000


def test_the_fork_server_has_one_thread(shared: Processes) -> None:
    server = state_and_parent(shared.pids[0])[1]
    assert server in descendants(os.getpid())
    assert (
        len(os.listdir(f"/proc/{server}/task")) == 1
    )  # a fork takes no other threads along, but the locks that they hold


# Units that raise


def test_a_unit_that_raises_once_is_run_again(either: Executor, tmp_path: Path) -> None:
    units = [Once(0), Once(1, tmp_path / "flag"), Once(2)]
    assert new_faults(either, raise_once, units) == ([0, 1, 4], {"unit_raised": 1})


def test_a_unit_that_is_run_again_is_told_of(
    either: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    either.map(raise_once, [Once(1, tmp_path / "flag")])
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "ArithmeticError: a transient failure" in record.getMessage()
    assert "File" not in record.getMessage()


def test_a_unit_that_always_raises_ends_the_map_with_its_description_and_where_it_did(either: Executor) -> None:
    before = either.faults["unit_raised"]
    with pytest.raises(WorkerError) as caught:
        either.map(raise_always, [Once(7)])
    what, unit, file, *_ = str(caught.value).splitlines()
    assert what == "ArithmeticError: a lasting failure"
    assert "'task': 7" in unit and unit.startswith("  in ") and unit.endswith("run 2 times (sampler.unit_retries = 1)")
    assert file.startswith("  File ") and file.endswith("in raise_always") and __file__ in file
    assert str(caught.value).count("a lasting failure") == 2  # in the sentence, and in the line of the code
    assert caught.value.exit_code == 5
    assert either.faults["unit_raised"] == before + 2
    with pytest.raises(WorkerError, match="  in unit 0, run 2 times"):
        either.map(raise_always, ["no description"])
    assert either.map(square, [3]) == [9]


@pytest.mark.parametrize(
    ("kind", "expected", "exit_code", "message"),
    [
        ("numeric", NumericError, 4, "loss is nan"),
        ("own", NumericError, 4, "loss is inf"),
        ("interrupted", Interrupted, 143, "stopped by signal 15"),
    ],
)
def test_our_own_errors_keep_class_and_exit_code_and_are_not_run_again(
    either: Executor, tmp_path: Path, kind: str, expected: type[MetarlError], exit_code: int, message: str
) -> None:
    log = tmp_path / "log"
    before = dict(either.faults)
    with pytest.raises(expected) as caught:
        either.map(raise_ours, [(kind, str(log))])
    assert type(caught.value) is expected
    assert (str(caught.value), caught.value.exit_code) == (message, exit_code)
    assert "in raise_ours" in caught.value.__notes__[0]
    assert log.read_text() == "run\n"
    assert either.faults == before
    assert either.map(square, [3]) == [9]


def test_what_cannot_be_pickled_is_an_error_that_leaves_the_executor_usable(either: Executor) -> None:
    with pytest.raises(Exception, match="pickle"):
        either.map(lambda unit: unit, [1, 2])
    with pytest.raises(WorkerError, match="pickle"):
        either.map(unpicklable, [1])
    assert either.map(square, [3]) == [9]


@pytest.mark.parametrize(("unit", "name"), [(0, "SystemExit: 0"), (1, "GeneratorExit")])
def test_a_unit_cannot_end_the_program(either: Executor, unit: int, name: str) -> None:
    with pytest.raises(
        WorkerError,
        match=f"^{name} \\(an environment, a family or an agent must not end the program\\)\n  in unit 0, run 2 times",
    ):
        either.map(end_the_program, [unit])
    assert either.map(square, [3]) == [9]


# Workers that die or hang


def test_a_worker_killed_in_a_unit_is_replaced_and_the_unit_run_again(shared: Processes, tmp_path: Path) -> None:
    shared.prepare(2)
    before = set(shared.pids)
    start = time.monotonic()
    units = [Once(0), Once(1, tmp_path / "flag"), Once(2), Once(3)]
    assert new_faults(shared, die_once, units) == ([0, 1, 4, 9], {"worker_died": 1})
    assert time.monotonic() - start < 15  # not the timeout's 30
    assert len(set(shared.pids) - before) <= 1 and len(shared.pids) <= 2
    assert int((tmp_path / "flag").read_text()) in before - set(shared.pids)


def test_every_worker_killed_from_outside_changes_no_result() -> None:
    with Processes(2, timeout_s=30, retries=2, restarts=2) as executor:  # both kills may hit the same unit
        executor.map(square, [0, 1])
        killers = [
            threading.Timer(0.15 * (i + 1), os.kill, (pid, signal.SIGKILL)) for i, pid in enumerate(executor.pids)
        ]
        for killer in killers:
            killer.start()
        results, faults = new_faults(executor, square_after, [(number, 0.4) for number in range(8)])
    assert results == [0, 1, 4, 9, 16, 25, 36, 49]
    assert faults == {"worker_died": 2}


def test_what_a_worker_has_started_ends_with_it_however_it_ends() -> None:
    with Processes(1, timeout_s=2, retries=0, restarts=1) as executor:
        killed = executor.map(start_processes, [0.0])[0]
        assert killed[0] == executor.pids[0] and not any(map(gone, killed))
        os.kill(killed[0], signal.SIGKILL)
        assert wait_until(lambda: gone(killed[0]), 2)
        closed = executor.map(start_processes, [0.0])[0]  # by a new worker
        assert wait_until(lambda: all(map(gone, killed)), 2) and not any(map(gone, closed))
    assert wait_until(lambda: all(map(gone, closed)), 2)


def test_an_idle_worker_that_dies_costs_no_unit_a_retry() -> None:
    with Processes(1, timeout_s=30, retries=0, restarts=1) as executor:
        assert executor.map(square, [1]) == [1]
        os.kill(executor.pids[0], signal.SIGKILL)
        assert wait_until(lambda: gone(executor.pids[0]), 2)
        assert new_faults(executor, square, [2, 3]) == ([4, 9], {"worker_died": 1})


def test_a_stopped_worker_is_replaced_at_its_deadline(tmp_path: Path) -> None:
    with Processes(2, timeout_s=3, retries=1, restarts=3) as executor:
        executor.map(square, [0, 1])
        start = time.monotonic()
        units = [Once(0), Once(1, tmp_path / "flag"), Once(2)]
        assert new_faults(executor, stop_once, units) == ([0, 1, 4], {"worker_hung": 1})
        assert 3 <= time.monotonic() - start < 25
        assert gone(int((tmp_path / "flag").read_text()))


def test_an_idle_stopped_worker_cannot_block_a_unit_that_no_buffer_holds() -> None:
    with Processes(1, timeout_s=3, retries=1, restarts=1) as executor:
        executor.map(square, [0])
        os.kill(executor.pids[0], signal.SIGSTOP)
        results, faults = new_faults(executor, torch.sum, [torch.ones(1 << 20)])
        assert (float(results[0]), faults) == (2**20, {"worker_hung": 1})


def test_a_unit_that_hangs_again_ends_the_map() -> None:
    with Processes(1, timeout_s=0.3, retries=1, restarts=5) as executor:
        with pytest.raises(
            WorkerError,
            match=r"0\.3 s, which sampler\.unit_timeout_s .*sampler\.tasks_per_unit.*\n  in unit 0, run 2 times",
        ):
            executor.map(square_after, [(0, 60.0)])
        assert executor.faults["worker_hung"] == 2


def test_a_spent_restart_budget_ends_the_map_and_leaves_no_process() -> None:
    with Processes(2, timeout_s=30, retries=10, restarts=2) as executor:
        executor.prepare(2)
        pids = executor.pids
        with pytest.raises(WorkerError, match=r"worker_restarts.*'worker_died': 3") as caught:
            executor.map(die_always, range(2))
        pids += executor.pids
    assert caught.value.exit_code == 5
    assert executor.pids == []
    assert all(gone(pid) for pid in pids)


def test_the_budget_of_restarts_is_one_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of any hour: the third within it is refused, and one a day goes on for ever."""
    budget = RestartBudget(2)

    def spend_at(seconds: float) -> int:
        monkeypatch.setattr(time, "monotonic", lambda: seconds)
        budget.spend(FaultError("worker_died", "killed"), {"worker_died": 3})
        return budget.left

    assert [spend_at(0.0), spend_at(3599.0)] == [1, 0]
    with pytest.raises(WorkerError, match=r"within an hour \(sampler\.worker_restarts = 2\) is spent.*killed"):
        spend_at(3599.9)
    assert spend_at(3600.0) == 0  # the first has left the window
    with pytest.raises(WorkerError):
        spend_at(3601.0)
    assert [spend_at(day * 86400.0) for day in range(1, 20)] == [1] * 19


def test_what_takes_several_workers_along_at_once_costs_one_restart() -> None:
    budget = RestartBudget(2)
    for cause in ("node a", "node a", None, "node a"):
        budget.spend(FaultError("worker_died", "killed", cause), {})
    assert budget.left == 0
    with pytest.raises(WorkerError):
        budget.spend(FaultError("worker_died", "killed", "node b"), {})


@pytest.mark.alone
def test_a_storm_that_kills_every_new_worker_ends_the_map_in_seconds_and_leaves_no_process() -> None:
    """Killed as soon as they are there, before they have a unit: no unit's retries run out in it."""
    with Processes(2, timeout_s=300, retries=10, restarts=10) as executor:
        killed: set[int] = set()

        def kill_all() -> None:
            for pid in set(executor.pids) - killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)

        executor.interrupt = kill_all
        started = time.monotonic()
        with pytest.raises(WorkerError, match=r"worker_restarts = 10\) is spent"):
            executor.map(square_after, [(number, 0.1) for number in range(4)])
        assert time.monotonic() - started < 30
        assert executor.faults["worker_died"] == 11
    assert len(killed) >= 11 and all(map(gone, killed))


def test_ctrl_c_is_left_to_the_parent(shared: Processes) -> None:
    timers = [threading.Timer(0.2, os.kill, (pid, signal.SIGINT)) for pid in shared.pids]
    for timer in timers:
        timer.start()
    assert new_faults(shared, square_after, [(1, 0.5), (2, 0.5)]) == ([1, 4], {})


# Interrupts and the end


def raise_after(seconds: float) -> Callable[[], None]:
    deadline = time.monotonic() + seconds

    def interrupt() -> None:
        if time.monotonic() > deadline:
            raise Interrupted(signal.SIGTERM)

    return interrupt


def test_an_interrupt_stops_promptly_and_no_late_result_reaches_the_next_map(shared: Processes) -> None:
    shared.interrupt = raise_after(0.3)
    start = time.monotonic()
    with pytest.raises(Interrupted):
        shared.map(square_after, [(number, 6.0) for number in range(10)])
    assert time.monotonic() - start < 5
    shared.interrupt = None
    assert new_faults(shared, square, [5, 6, 7]) == ([25, 36, 49], {})


def test_an_interrupt_gets_through_a_transfer_that_a_stopped_worker_blocks() -> None:
    with Processes(1, timeout_s=30, retries=1, restarts=1) as executor:
        executor.map(square, [1])
        os.kill(executor.pids[0], signal.SIGSTOP)
        executor.interrupt = raise_after(0.3)
        start = time.monotonic()
        with pytest.raises(Interrupted):
            executor.map(torch.sum, [torch.ones(1 << 22)])
        assert time.monotonic() - start < 15
        executor.interrupt = None
        assert executor.map(square, [2]) == [4]


@pytest.mark.parametrize("way", ["interrupt", "close"])
def test_a_busy_worker_that_is_ended_cleans_up(way: str, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupt() -> None:
        if log.with_suffix(".started").exists():
            raise Interrupted(signal.SIGTERM)

    with Processes(1, timeout_s=300, retries=0, restarts=0) as executor:
        if way == "interrupt":
            executor.interrupt = interrupt
            with pytest.raises(Interrupted):
                executor.map(clean_up, [log])
        else:
            executor.map(square, [0])
            executor._hand_out(Call(clean_up, [log], retries=0))
            assert wait_until(log.with_suffix(".started").exists, 60)
    assert log.read_text() == "clean"


def test_what_is_sent_to_the_whole_group_is_left_to_the_parent(shared: Processes) -> None:
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        for pid in shared.pids:
            os.kill(pid, signum)
    assert new_faults(shared, square, [2, 3]) == ([4, 9], {})


def test_in_process_looks_for_an_interrupt_between_units() -> None:
    executor = InProcess()
    executor.interrupt = raise_after(0.1)
    with pytest.raises(Interrupted):
        executor.map(square_after, [(number, 0.05) for number in range(100)])


def test_close_does_not_wait_for_unread_results_or_stopped_workers() -> None:
    executor = Processes(2, timeout_s=30, retries=1, restarts=1)
    executor.map(square_after, [(number, 0.3) for number in range(4)])  # until both have started
    executor._hand_out(Call(zeros, [64, 64], retries=0))
    assert [worker.unit for worker in executor._pool] == [0, 1]
    time.sleep(0.5)  # both block in the middle of a 64 MB answer
    os.kill(executor.pids[0], signal.SIGSTOP)
    pids = executor.pids
    start = time.monotonic()
    executor.close()
    executor.close()
    assert time.monotonic() - start < 4
    assert all(gone(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        executor.map(square, [1])


def test_large_results_arrive(shared: Processes) -> None:
    assert [tensor.numel() for tensor in shared.map(zeros, [64, 1, 64])] == [1 << 24, 1 << 18, 1 << 24]


def test_a_forgotten_executor_takes_its_workers_along() -> None:
    executor = Processes(1, timeout_s=30, retries=1, restarts=1)
    executor.prepare(1)
    (pid,) = executor.pids
    del executor
    gc.collect()
    assert wait_until(lambda: gone(pid), 2)


def test_opening_and_closing_leaks_neither_files_nor_processes(shared: Processes) -> None:
    def census() -> tuple[int, int, int]:
        return len(os.listdir("/proc/self/fd")), len(descendants(os.getpid())), len(os.listdir("/dev/shm"))

    before = census()
    for _ in range(4):
        with Processes(2, timeout_s=30, retries=1, restarts=1) as executor:
            assert executor.map(square, [1, 2, 3]) == [1, 4, 9]
    assert wait_until(lambda: census() == before, 2), f"{before} became {census()}"


# Whole programs


def run_script(path: Path, text: str, **options: Any) -> subprocess.Popen[str]:
    path.write_text(textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, str(path)], env=environment, stdout=pipe, stderr=pipe, text=True, **options
    )


def test_workers_go_with_a_parent_that_is_killed_even_busy_and_stopped_ones(tmp_path: Path) -> None:
    script = """
        import time
        from metarl.sampling.executors.processes import Processes

        if __name__ == "__main__":
            executor = Processes(3, timeout_s=300, retries=0, restarts=0)
            executor.map(abs, [1, 2, 3])
            print(*executor.pids, flush=True)
            executor.map(time.sleep, [60, 60])
    """
    parent = run_script(tmp_path / "script.py", script)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3
    time.sleep(0.5)
    family = descendants(parent.pid)
    assert set(pids) <= set(family)
    os.kill(pids[0], signal.SIGSTOP)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: all(gone(pid) for pid in family), 2)
    parent.communicate()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_parent_that_is_killed_leaves_no_process_and_the_next_run_removes_its_folder(
    stopped: bool, tmp_path: Path
) -> None:
    """Fork server and resource tracker go too, all of them stopped before the kill."""
    script = """
        import os, time
        from multiprocessing import util
        from metarl.sampling.executors import scratch
        from metarl.sampling.executors.processes import Processes

        if __name__ == "__main__":
            scratch.YOUNG_S = 0.0
            executor = Processes(2, timeout_s=300, retries=0, restarts=0)
            while len(set(executor.map(os.getpgid, [0] * 4))) < 2:
                pass  # until both are up
            print(os.path.dirname(util.get_temp_dir()), flush=True)
            executor.map(time.sleep, [600] * 2)
    """
    place = tmp_path if len(os.fsencode(tmp_path)) <= scratch.LONGEST_PLACE else Path("/tmp")
    (place / "metarl-not-ours").write_text("a file stays")
    try:
        parents, folders = [], []
        for _ in range(2):
            parent = run_script(tmp_path / "script.py", script)
            assert parent.stdout is not None
            folders.append(Path(parent.stdout.readline().strip()))
            family = descendants(parent.pid)
            assert len(family) == 4 and folders[-1].name.startswith(scratch.PREFIX) and folders[-1].is_dir()
            for pid in [*family, parent.pid] if stopped else []:
                os.kill(pid, signal.SIGSTOP)
            parent.kill()
            parent.wait()
            assert wait_until(lambda family=family: all(map(gone, family)), 10), [*map(state_and_parent, family)]
            parents.append(parent)
        assert not folders[0].exists() and folders[1].exists()
        assert (place / "metarl-not-ours").exists()
        shutil.rmtree(folders[1])
    finally:
        (place / "metarl-not-ours").unlink()
    for parent in parents:
        parent.communicate()


def test_what_workers_have_started_goes_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = """
        from tests.sampling.test_executors import start_processes
        from metarl.sampling.executors.processes import Processes

        if __name__ == "__main__":
            Processes(1, timeout_s=300, retries=0, restarts=0).map(start_processes, [60.0])
    """
    parent = run_script(tmp_path / "script.py", script)
    assert parent.stderr is not None
    pids = [int(pid) for pid in parent.stderr.readline().split()]
    assert len(pids) == 3 and not any(map(gone, pids))
    parent.kill()
    parent.wait()
    assert wait_until(lambda: all(map(gone, pids)), 2)
    parent.communicate()


def test_a_killed_fork_server_is_one_more_way_for_workers_to_die(tmp_path: Path) -> None:
    script = """
        import os, signal, sys, threading, time
        from multiprocessing import forkserver
        from metarl.sampling.executors.processes import Processes

        if __name__ == "__main__":
            with Processes(2, timeout_s=300, retries=1, restarts=2) as executor:
                executor.map(abs, [1, 2])
                lost = executor.pids
                server = forkserver._forkserver._forkserver_pid
                threading.Timer(0.3, os.kill, (server, signal.SIGKILL)).start()
                executor.map(time.sleep, [1, 1])
                assert not set(lost) & set(executor.pids)
                print(executor.map(abs, [-1, -2]), executor.faults["worker_died"], *lost)
    """
    program = run_script(tmp_path / "script.py", script)
    output, errors = program.communicate(timeout=200)
    assert output.startswith("[1, 2] 2 "), errors
    assert all(gone(int(pid)) for pid in output.split()[3:])


STOPPED_SERVER = """
    import os, signal, sys, time
    from multiprocessing import forkserver
    from metarl.sampling.executors import fork_server
    from metarl.sampling.executors.processes import Processes

    def server():
        return forkserver._forkserver._forkserver_pid

    if __name__ == "__main__":
        fork_server.FORK_TIMEOUT_S = 2.0
        with Processes(2, timeout_s=300, retries=1, restarts=1) as executor:
            executor.map(abs, [1])
            stopped, polls = server(), []
            os.kill(stopped, signal.SIGSTOP)
            %s
            executor.interrupt = lambda: polls.append(time.monotonic())
            print(executor.map(abs, [-1, -2]), executor.faults, server() != stopped)
            print(max(later - earlier for earlier, later in zip(polls, polls[1:])), file=sys.stderr)
        try:
            os.kill(stopped, 0)
        except ProcessLookupError:
            print("gone")
"""


def test_a_worker_that_a_stopped_fork_server_does_not_start_is_a_fault_and_another_server_does(tmp_path: Path) -> None:
    program = run_script(tmp_path / "script.py", STOPPED_SERVER % "pass")
    output, errors = program.communicate(timeout=200)
    assert output == "[1, 2] {'worker_died': 1, 'worker_hung': 1, 'unit_raised': 0} True\ngone\n", errors
    assert "gave no answer within 2 s; was it stopped?" in errors
    assert float(errors.splitlines()[-1]) < 2, "the interrupt was not looked for"


def test_a_worker_killed_while_the_fork_server_is_stopped_is_replaced(tmp_path: Path) -> None:
    """Nobody says that it has ended; nor may the end of the program wait for that."""
    program = run_script(tmp_path / "script.py", STOPPED_SERVER % "os.kill(executor.pids[0], signal.SIGKILL)")
    output, errors = program.communicate(timeout=200)
    assert re.fullmatch(r"\[1, 2\] \{'worker_died': 1, .* True\ngone\n", output), errors


def test_a_stopped_fork_server_holds_up_neither_close_nor_the_end(tmp_path: Path) -> None:
    script = """
        import os, signal
        from multiprocessing import forkserver
        from metarl.sampling.executors.processes import Processes

        if __name__ == "__main__":
            with Processes(2, timeout_s=300, retries=0, restarts=0) as executor:
                print(executor.map(abs, [-1, -2]), forkserver._forkserver._forkserver_pid)
                os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)
    """
    program = run_script(tmp_path / "script.py", script)
    output, errors = program.communicate(timeout=200)
    assert (output[:6], errors, program.returncode) == ("[1, 2]", "", 0)
    assert gone(int(output.split()[-1]))


def test_an_interrupt_gets_through_to_a_map_that_waits_for_a_stopped_fork_server(tmp_path: Path) -> None:
    script = """
        import os, signal, time
        from multiprocessing import forkserver
        from metarl.errors import Interrupted
        from metarl.sampling.executors.processes import Processes

        def interrupt():
            raise Interrupted(signal.SIGTERM)

        if __name__ == "__main__":
            with Processes(2, timeout_s=300, retries=0, restarts=9) as executor:
                executor.map(abs, [-1])
                os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)
                executor.interrupt, started = interrupt, time.monotonic()
                try:
                    executor.prepare(2)
                except Interrupted:
                    assert time.monotonic() - started < 10
                    executor.interrupt = None
                    print(executor.map(abs, [-2, -3]))
    """
    program = run_script(tmp_path / "script.py", script)
    output, errors = program.communicate(timeout=200)
    assert (output, program.returncode) == ("[2, 3]\n", 0), errors


def test_a_program_that_forgets_to_close_ends_by_itself(tmp_path: Path) -> None:
    script = """
        import os, signal
        from metarl.sampling.executors.processes import Processes

        if __name__ == "__main__":
            executor = Processes(2, timeout_s=300, retries=0, restarts=0)
            print(executor.map(abs, [-1, -2, -3]))
            os.kill(executor.pids[0], signal.SIGSTOP)
    """
    program = run_script(tmp_path / "script.py", script)
    output, errors = program.communicate(timeout=200)
    assert (output, errors, program.returncode) == ("[1, 2, 3]\n", "", 0)


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = """
        from metarl.sampling.executors.processes import Processes

        with Processes(2, timeout_s=30, retries=0, restarts=9) as executor:
            print(executor.map(abs, [-1]))
    """
    program = run_script(tmp_path / "script.py", script)
    output, errors = program.communicate(timeout=200)
    assert (output, program.returncode) == ("", 1)
    assert re.search(r'WorkerError: a rollout worker could not start: .* `if __name__ == "__main__":`', errors)


# Configuration


def test_a_script_on_standard_input_is_told_to_be_a_file() -> None:
    script = """if __name__ == "__main__":
        from metarl.sampling.executors.processes import Processes
        Processes(1, timeout_s=60, retries=0, restarts=0).map(abs, [1])
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-"], input=script, env=environment, capture_output=True, text=True)
    assert "WorkerError: cannot start rollout workers" in done.stderr and "<stdin> is no file" in done.stderr
    assert "guard" not in done.stderr and "__main__" not in done.stderr.rpartition("WorkerError")[2]


@pytest.mark.parametrize(("tasks", "per_unit", "workers"), [(2, "auto", 2), (6, 3, 2), (7, 3, 3), (9, "auto", 3)])
def test_no_more_workers_start_than_there_are_units(tasks: int, per_unit: int | str, workers: int) -> None:
    config = SamplerConfig.model_validate({"workers": 3, "tasks_per_unit": per_unit})
    with make_executor(config, tasks) as executor:
        assert executor.workers == workers


def test_make_executor_follows_the_configuration() -> None:
    assert isinstance(make_executor(SamplerConfig(executor="in_process")), InProcess)
    assert isinstance(make_executor(SamplerConfig(workers=0)), InProcess)
    with make_executor(SamplerConfig(workers=3)) as executor:
        assert isinstance(executor, Processes) and executor.workers == 3 and executor.pids == []
    with make_executor(SamplerConfig()) as executor:
        assert isinstance(executor, Processes) and executor.workers == len(os.sched_getaffinity(0))


def test_workers_start_as_units_need_them_and_stay() -> None:
    with Processes(3, timeout_s=30, retries=1, restarts=1) as executor:
        assert executor.pids == []
        executor.map(square, [1])
        (first,) = executor.pids
        executor.map(square_after, [(number, 0.1) for number in range(2)])
        executor.map(square, [])
        both = executor.pids
        assert first in both and len(both) == 2
        executor.map(square_after, [(number, 0.1) for number in range(9)])
        assert len(executor.pids) == 3 and set(both) < set(executor.pids)


def test_prepare_starts_what_so_many_units_can_use() -> None:
    with Processes(2, timeout_s=30, retries=1, restarts=1) as executor:
        executor.prepare(1)
        (first,) = executor.pids
        executor.prepare(9)
        assert len(executor.pids) == 2 and first in executor.pids


def test_a_unit_whose_class_a_worker_cannot_import_is_told_at_once(
    shared: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("class Unit:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    unit = importlib.import_module("only_here").Unit()
    before = dict(shared.faults)
    with pytest.raises(WorkerError, match=r"cannot import what it needs \(ModuleNotFoundError: .*'only_here'.*--allow"):
        shared.map(type, [unit])
    assert shared.faults == before


def test_processes_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="at least one worker, got 0"):
        Processes(0, timeout_s=1, retries=0, restarts=0)
