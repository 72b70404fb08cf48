"""Processes that end with the one that has started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest
import tiny_runs

pytestmark = pytest.mark.usefixtures("children_find_metarl")
CHILD = """
import signal, sys, time
from metarl.run import signals
signals.follow_parent(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_a_process_is_asked_to_stop_when_its_parent_is_killed() -> None:
    parent = tiny_runs.start("-c", PARENT)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "ready\n"
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    assert tiny_runs.all_gone([child])


def test_a_process_whose_parent_was_quicker_stops_at_once() -> None:
    gone = subprocess.run([sys.executable, "-c", CHILD, "1"], capture_output=True, text=True, timeout=60)
    assert (gone.returncode, gone.stdout) == (-signal.SIGTERM, "")
