"""Standard error with a reader that stalls, comes back, or goes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import tiny_runs
from tiny_runs import POINT, ROOT, overrides, saved_state

from metarl.monitor import patience
from metarl.monitor.patience import UnblockedStream, patient_errors


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The reading end of a pipe, and the writing end as a stream of text."""
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as stream:
        yield reading, stream
    os.close(reading)


def drained(reading: int) -> str:
    """All that is in a pipe."""
    os.set_blocking(reading, False)
    parts = []
    while True:
        try:
            part = os.read(reading, 1 << 20)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()


def test_lines_come_whole_and_in_order_past_what_the_stream_held_back(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    stream.write("first\n")
    unblocked = UnblockedStream(stream)
    print("zweite — 2", file=unblocked)
    unblocked.writelines(["a\n", "b\n"])
    assert drained(reading) == "first\nzweite — 2\na\nb\n"
    assert unblocked.encoding == "utf-8" and not unblocked.isatty() and unblocked.fileno() == stream.fileno()


def test_a_full_pipe_holds_nobody_up_and_what_was_left_out_is_counted(
    pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1000 lines of 1000 bytes: 64 KiB lie in the pipe, 100 KB wait, the rest is left out."""
    monkeypatch.setattr(patience, "ROOM", 100_000)
    reading, stream = pipe
    unblocked = UnblockedStream(stream)
    for number in range(1000):
        unblocked.write(f"{number:03}{'.' * 996}\n")
    found = drained(reading)
    while "were not shown" not in found:
        unblocked.flush()
        found += drained(reading)
    *lines, note = found.splitlines()
    assert [int(line[:3]) for line in lines] == list(range(len(lines))) and 100 < len(lines) < 200
    assert note == f"({1000 - len(lines)} lines were not shown: the reader of standard error was too slow)"
    unblocked.write("and on\n")
    assert drained(reading) == "and on\n"


def test_a_reader_that_has_gone_is_no_error(pipe: tuple[int, TextIO]) -> None:
    reading, stream = os.pipe()
    os.close(reading)
    with open(stream, "w", encoding="utf-8") as writing:
        unblocked = UnblockedStream(writing)
        assert unblocked.write("nobody\n") == 7
        unblocked.finish()


def test_many_threads_lose_nothing_that_is_read(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    unblocked = UnblockedStream(stream)
    threads = [
        threading.Thread(target=lambda name=name: [unblocked.write(f"{name}\n") for _ in range(200)]) for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    unblocked.finish()
    assert sorted(drained(reading).split()) == sorted("abcd" * 200)


def test_only_a_stream_with_a_file_behind_it_is_replaced_and_only_meanwhile(
    pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with patient_errors():
        assert not isinstance(sys.stderr, UnblockedStream)  # pytest's has none
    monkeypatch.setattr(sys, "stderr", pipe[1])
    with patient_errors():
        outer = sys.stderr
        assert isinstance(outer, UnblockedStream)
        with patient_errors():
            assert sys.stderr is outer
        print("said", file=sys.stderr)
    assert sys.stderr is pipe[1] and drained(pipe[0]) == "said\n"


@pytest.mark.alone
@pytest.mark.slow
def test_a_run_whose_reader_stalls_goes_on_and_hears_a_signal(tmp_path: Path) -> None:
    """Standard output and error lead into one pipe that is full from the start."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"." * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    settings = overrides(tmp_path, "iterations=1000000", "eval.every=null", "checkpoint.every=1000")
    process = tiny_runs.start(ROOT / "train.py", POINT, *settings, into=writing)
    os.close(writing)
    run = tiny_runs.wait_for_iteration(tmp_path, 20, process)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    while len(list((run / "checkpoints").glob("[0-9]*"))) < 2 and time.monotonic() < sent + 60:
        time.sleep(0.01)
    heard = time.monotonic() - sent
    assert process.wait(timeout=60) == 143
    os.close(reading)
    assert heard < 2
    assert saved_state(run)["counters"]["iteration"] == len(tiny_runs.training(run)) >= 20
