"""Work over chunks of tasks: order, errors, threads."""

import os
import threading

import pytest

from metarl.parallel import TaskMap, available_cores, task_chunks

THREADS = pytest.mark.parametrize("threads", [1, 2, 4])


def test_chunks_cover_all_tasks_in_order():
    assert list(task_chunks(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(task_chunks(2, 9)) == [slice(0, 2)]
    assert list(task_chunks(0, 3)) == []


@THREADS
def test_results_come_in_task_order(threads):
    task_map = TaskMap(threads=threads, chunk=2)
    parts = task_map(lambda part: list(range(part.start, part.stop)), 7)
    assert parts == [[0, 1], [2, 3], [4, 5], [6]]
    assert task_map.over(sum, parts) == [1, 5, 9, 6]


@pytest.mark.parametrize("threads", [2, 3])
def test_chunks_run_at_the_same_time(threads):
    meeting = threading.Barrier(threads, timeout=20)  # broken where one chunk waits for another to end
    assert sorted(TaskMap(threads=threads, chunk=1)(lambda part: meeting.wait(), threads)) == list(range(threads))


@THREADS
def test_an_error_in_a_chunk_reaches_the_caller(threads):
    task_map = TaskMap(threads=threads, chunk=1)
    with pytest.raises(ZeroDivisionError):
        task_map(lambda part: 1 // (part.start - 2), 4)
    assert task_map(lambda part: part.start, 3) == [0, 1, 2]  # and the map goes on


@THREADS
def test_what_interrupts_is_asked_before_every_chunk_and_ends_the_call(threads):
    asked, done = [], []

    def interrupt():
        asked.append(None)
        if len(asked) == 3:
            raise InterruptedError

    task_map = TaskMap(threads=threads, chunk=1, interrupt=interrupt)
    with pytest.raises(InterruptedError):
        task_map(lambda part: done.append(part.start), 9)
    assert len(asked) <= 9 and len(done) == len(asked) - 1


@pytest.mark.parametrize(
    ("group", "files", "slurm", "expected"),
    [
        ("0::/", {}, "", 8),
        ("0::/", {"cpu.max": "max 100000"}, "", 8),
        ("0::/", {"cpu.max": "200000 100000"}, "", 2),
        ("0::/", {"cpu.max": "150000 100000"}, "", 2),  # one and a half: the second worker is of use
        ("0::/", {"cpu.max": "50000 100000"}, "", 1),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, "", 3),  # of the group above
        ("0::/of/outside", {"cpu.max": "400000 100000"}, "", 4),  # a container that sees its own group only
        ("3:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, "", 3),
        ("3:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "", 8),
        ("4:memory:/", {"cpu.max": "100000 100000"}, "", 8),
        ("0::/", {}, "5", 5),
        ("0::/", {"cpu.max": "200000 100000"}, "64", 2),
        ("0::/", {}, "x", 8),
        ("0::/", {}, "0", 1),
        (None, {}, "", 8),
    ],
)
def test_cores_are_those_that_affinity_quotas_and_slurm_allow(tmp_path, monkeypatch, group, files, slurm, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    written = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    if group is not None:
        written["proc/self/cgroup"] = f"{group}\n"
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert available_cores(tmp_path) == expected
