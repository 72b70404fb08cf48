"""Processes side by side, and the signals that they hear of."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import tiny_runs

COUNTS_SIGNALS = """
import os, signal, sys, time
count = 0
def hear(*_):
    global count
    count += 1
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, hear)
os.write(1, b"ready\\n")  # one write: an unbuffered print makes two
while not count:
    time.sleep(0.01)
time.sleep(0.5)
sys.exit(10 + count)
"""
PROGRAM = f"""
import os, subprocess, sys
from pathlib import Path
from metarl.errors import Interrupted
from metarl.studies import launcher, sweep
class Policy:
    def ready(self, job):
        return True
    def start(self, job, place):
        return subprocess.Popen([sys.executable, "-c", {COUNTS_SIGNALS!r}], start_new_session=True)
    def ended(self, job, code, *, stopping):
        print(job.entry, code, stopping, flush=True)
os.setpgrp()
plan = sweep.make_plan("maml_trpo_point", ["seed=0..2"], out=Path(sys.argv[1]))
try:
    launcher.Launcher(plan.jobs, plan.out, Policy(), side_by_side=2).run()
except Interrupted as error:
    print(error.signum)
"""


@pytest.mark.parametrize("signum", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_runs_are_told_once_of_a_signal_to_the_whole_group(signum: signal.Signals, tmp_path: Path) -> None:
    """As a terminal's Ctrl-C is; a second one would make them stop without saving. Nothing is started any more."""
    process = tiny_runs.start("-c", PROGRAM, tmp_path)
    assert process.stdout is not None and [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    os.killpg(process.pid, signum)
    output, errors = process.communicate(timeout=60)
    assert (sorted(output.splitlines()), errors) == ([str(signum.value), "s0 11 True", "s1 11 True"], "")
