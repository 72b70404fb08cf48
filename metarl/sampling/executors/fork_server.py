"""The process that rollout workers are forked from; torch is imported in it once, so that they start quickly.

Nothing heavy is imported here: the command line starts this process before it imports torch itself, and both do so side
by side.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, process, resource_tracker, util
from multiprocessing.context import ForkServerProcess
from typing import Any

from metarl import ranks
from metarl.sampling.executors import scratch
from metarl.surroundings import SAFE_PATH, variables

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
IMPORT_TIMEOUT_S = 120.0  # for its first process: importing torch from a cold network disk takes that long
FORK_TIMEOUT_S = 15.0  # for any later one
# Ctrl-C, the end of a terminal, a scheduler's warning: they reach all processes, and the parent decides what to do.
TO_THE_GROUP = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}

# Not fork: a child forked after any torch operation hangs in its own first one.
context = multiprocessing.get_context("forkserver")
# Not metarl itself: the fork server does not know this process's sys.path, and could find another copy of it.
context.set_forkserver_preload(["torch", "gymnasium.vector", "pydantic"])
_answered: int | None = None  # the fork server that has forked before


def start() -> None:
    """Start the fork server, unless it runs: with one thread from its first import on, no GPU, no rank of a launcher's,
    and deaf to what is meant for this process alone. Nor does it run modules that lie in the working directory. Does
    not wait for its imports.

    Raises:
        OSError: there is no place for its socket, or no process to be had.
    """
    _make_folder_of_sockets()
    with variables({**ENVIRONMENT, **dict.fromkeys(ranks.VARIABLES), SAFE_PATH: "1"}):
        with _signalled_when_alone(signal.SIGCONT):  # even a stopped one ends then, as it sees the end of its pipe
            resource_tracker.ensure_running()  # else the fork server starts it, and that ends with SIGINT let through
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, TO_THE_GROUP)
        try:
            with _signalled_when_alone(signal.SIGKILL):  # it would end by itself, but not stopped or before its imports
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


class StuckError(Exception):
    """The fork server with this process id gave no answer, and has been killed."""

    def __init__(self, server: int, limit_s: float) -> None:
        super().__init__(f"the process that workers are forked from gave no answer within {limit_s:g} s")
        self.server = server


def fork(process: ForkServerProcess, poll: Callable[[], None], every_s: float) -> int:
    """Start a process; the pid of the fork server that it is a child of. ``poll`` is called meanwhile, and may raise.

    A thread waits for the fork server, as multiprocessing waits for ever. What ends the wait early, ends the fork
    server: so that thread ends, and another one is started next time.

    Raises:
        StuckError: the fork server gave no answer.
        ConnectionError, EOFError: it has died.
    """
    global _answered
    start()
    server = _pid()
    limit_s = FORK_TIMEOUT_S if server == _answered else IMPORT_TIMEOUT_S
    deadline, errors = time.monotonic() + limit_s, list[BaseException]()

    def wait() -> None:
        try:
            process.start()
        except BaseException as error:
            errors.append(error)

    waiting = threading.Thread(target=wait, name="metarl-fork", daemon=True)
    waiting.start()
    try:
        while waiting.is_alive():
            waiting.join(every_s)
            if waiting.is_alive():
                poll()
                if time.monotonic() > deadline:
                    raise StuckError(server, limit_s)
    except BaseException:
        stop()
        waiting.join()
        raise
    if errors:
        raise errors[0]
    _answered = server
    return server


def has_ended(server: int) -> bool:
    """Whether a fork server, the running one or one before, is no more."""
    try:
        return os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # it has been waited for
        return True


def _pid() -> int:
    server: Any = forkserver._forkserver
    pid: int = server._forkserver_pid
    return pid


def signal_at_end(pipe: int, owner: int, signum: signal.Signals) -> None:
    """Have the kernel send a signal when all other ends of a pipe are closed: even to a process that is busy or
    stopped, and however those have ended that held them. Linux only; elsewhere nothing happens.

    ``owner``: process id, or minus that of a group. PR_SET_PDEATHSIG would need code in the process itself.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(pipe, fcntl.F_SETOWN, owner)
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signum)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


@contextmanager
def _signalled_when_alone(signum: signal.Signals) -> Iterator[None]:
    """What multiprocessing starts in here is sent a signal when this process and all workers have ended.

    It is given the reading end of a pipe, as the last of its files; the flags of that file are shared with it.
    """
    modules: Any = util
    spawn = modules.spawnv_passfds

    def spawn_and_watch(path: Any, args: Any, files: Sequence[int]) -> int:
        pid: int = spawn(path, args, files)
        signal_at_end(files[-1], pid, signum)
        return pid

    modules.spawnv_passfds = spawn_and_watch
    try:
        yield
    finally:
        modules.spawnv_passfds = spawn


def _make_folder_of_sockets() -> None:
    """Have multiprocessing make its sockets in a folder that the next run removes if this process is killed."""
    settings: Any = process.current_process()
    if settings._config.get("tempdir") is not None:
        return
    configured = tempfile.gettempdir()
    tempfile.tempdir = str(scratch.make())
    try:
        util.get_temp_dir()  # is remembered
    finally:
        tempfile.tempdir = configured
