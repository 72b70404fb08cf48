"""Work over chunks of tasks: order, errors, threads."""

import threading

import pytest

from metarl.parallel import TaskMap, task_chunks

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
