"""The process that rollout workers are forked from; torch is imported in it once, so that they start quickly.

Nothing heavy is imported here: the command line starts this process before it imports torch itself, and both do so side
by side.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

from metarl.surroundings import SAFE_PATH, variables

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LONGEST_FOLDER = 70  # bytes: a socket's path has 107 at most, with what multiprocessing appends
# multiprocessing makes a folder of its own in one of them
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # nosec B108
# Ctrl-C, the end of a terminal, a scheduler's warning: they reach all processes, and the parent decides what to do.
TO_THE_GROUP = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}

# Not fork: a child forked after any torch operation hangs in its own first one.
context = multiprocessing.get_context("forkserver")
# Not metarl itself: the fork server does not know this process's sys.path, and could find another copy of it.
context.set_forkserver_preload(["torch", "gymnasium.vector", "pydantic"])


def start() -> None:
    """Start the fork server, unless it runs: with one thread from its first import on, no GPU and deaf to what is meant
    for this process alone. Nor does it run modules that lie in the working directory. Does not wait for its imports.

    Raises:
        OSError: there is no place for its socket, or no process to be had.
    """
    _choose_folder_of_sockets()
    with variables({**ENVIRONMENT, SAFE_PATH: "1"}):
        resource_tracker.ensure_running()  # else the fork server starts it, and that ends with SIGINT let through
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, TO_THE_GROUP)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def stop() -> None:
    """End the fork server, as nothing is to be forked from it after all. It would go on with its imports, and hold
    standard output and standard error for as long."""
    server: Any = forkserver._forkserver
    if server._forkserver_pid is not None:
        with suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
        server._stop()


def _choose_folder_of_sockets() -> None:
    """Have multiprocessing make its sockets in another folder where the one for temporary files has too long a path."""
    configured = tempfile.gettempdir()
    if len(os.fsencode(configured)) > LONGEST_FOLDER:
        tempfile.tempdir = next((folder for folder in SHORT_FOLDERS if os.access(folder, os.W_OK)), configured)
        try:
            util.get_temp_dir()  # is remembered
        finally:
            tempfile.tempdir = configured
