"""The Ray cluster that workers live in: one of this run's own, on this machine alone, or somebody's by its address.

Whoever reaches a cluster runs code on all its nodes. So the own one listens on the loopback interface and asks for a
token that lies in a file for this user alone; another one is joined only where its address is given.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarl.errors import ConfigError, WorkerError
from metarl.sampling.executors import scratch
from metarl.sampling.executors.fork_server import TO_THE_GROUP
from metarl.surroundings import SAFE_PATH, set_variables, variables

MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# Read when Ray is imported. "0": all that Ray starts listens on 127.0.0.1, on Linux too, whatever its name says.
BEYOND_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# The second: without its head this process would be ended by Ray itself after a minute, with nothing saved.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}
LOOK_S, LOST_S = 1.0, 5.0  # between two looks at the head, and until it counts as lost
TRIES = 3  # a node of the own cluster has 30 s to come up; on a machine that is very busy it takes longer
log = logging.getLogger(__name__)


class Cluster:
    """A cluster that this process has joined, or started: without an ``address``, with so many ``cpus``.

    Attributes:
        ray: the library.
        cpus: cores of all nodes together, as they have declared.

    Raises:
        ConfigError: Ray is not installed, or runs in this process already.
        WorkerError: the cluster cannot be started, or does not let this process in.
    """

    def __init__(self, address: str | None, cpus: int) -> None:
        self.address = address
        self._folder: Path | None = None
        self._before: dict[str, str | None] = {}
        self.ray: Any = self._start(cpus) if address is None else self._join(address)
        self.cpus = max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        self._head = self.ray.get_runtime_context().gcs_address
        self._looked = self._answered = time.monotonic()

    def require_head(self) -> None:
        """Raises WorkerError where the head of the cluster has been out of reach for some seconds."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._answered = now if now - self._looked > LOST_S else self._answered  # nobody has looked meanwhile
        self._looked = now
        host, _, port = self._head.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_S).close()
            self._answered = time.monotonic()
        except OSError as error:
            if now - self._answered > LOST_S:
                raise WorkerError(
                    f"lost the Ray cluster: its head at {self._head} does not answer ({error})"
                ) from error

    def close(self) -> None:
        """Leave the cluster, and end it if it is the own one; may be called more than once."""
        if "ray" in sys.modules:
            with _own_handlers():
                sys.modules["ray"].shutdown()
        set_variables(self._before)
        self._before = {}
        if self._folder is not None:
            scratch.remove(self._folder)

    def _start(self, cpus: int) -> Any:
        if "ray" in sys.modules and os.environ.get(BEYOND_LOOPBACK) != "0":
            raise ConfigError(
                "sampler.executor = ray: Ray was imported before, and would let other machines reach its cluster; "
                f"start the program with {BEYOND_LOOPBACK}=0, or give sampler.ray_address"
            )
        self._folder = scratch.make()
        token = self._folder / "token"
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        self._set({**QUIET, BEYOND_LOOPBACK: "0", MODE: "token", TOKEN_FILE: str(token), TOKEN: None})
        path = os.pathsep.join(folder for folder in sys.path if folder)  # workers find what this process finds
        failed: Exception | None = None
        for _ in range(TRIES):
            try:
                with variables({"PYTHONPATH": path, SAFE_PATH: "1"}):
                    return self._init(num_cpus=cpus, num_gpus=0, include_dashboard=False, _temp_dir=str(self._folder))
            except ConfigError:
                self.close()
                raise
            except Exception as error:
                failed = error
                with _own_handlers():
                    sys.modules["ray"].shutdown()
        self.close()
        raise WorkerError(f"cannot start a Ray cluster on this machine: {_first_line(failed)}") from failed

    def _join(self, address: str) -> Any:
        self._set(QUIET)
        try:
            ray = self._init(address=address)
        except ConfigError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise WorkerError(
                f"cannot join the Ray cluster at {address}. Is its token the one that this process has "
                f"({MODE}=token, and {TOKEN_FILE}, else ~/.ray/auth_token), is this machine one of its nodes, and does "
                f"it run? Ray says: {_first_line(error)}"
            ) from error
        if os.environ.get(MODE, "").lower() != "token":
            log.warning(
                "the Ray cluster at %s asks for no token: whoever reaches it runs programs on all its nodes; start it "
                "with %s=token (docs/many_machines.md)",
                address,
                MODE,
            )
        return ray

    def _init(self, **arguments: Any) -> Any:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(f"sampler.executor = ray needs Ray ({error}): pip install 'metarl[ray]'") from error
        if ray.is_initialized():
            raise ConfigError("sampler.executor = ray: Ray runs in this program already; call ray.shutdown() before")
        with _own_handlers():
            ray.init(log_to_driver=False, configure_logging=False, **arguments)
        return ray

    def _set(self, values: Mapping[str, str | None]) -> None:
        self._before = {name: os.environ.get(name) for name in values}
        set_variables(values)


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM; ours stays. What it starts meanwhile is deaf to what a terminal or a
    scheduler sends to the whole group, as this process decides what to do."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, TO_THE_GROUP)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
