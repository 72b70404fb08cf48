"""The Ray cluster that workers live in: one of this run's own, on this machine alone, or somebody's by its address.

Whoever reaches a cluster runs code on all its nodes. So the own one listens on the loopback interface and asks for a
token that lies in a file for this user alone; another one is joined only where its address is given.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any

from metarl.errors import ConfigError, WorkerError
from metarl.sampling.executors import scratch
from metarl.surroundings import SAFE_PATH

MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# "0" when Ray is imported: all that it starts listens on 127.0.0.1, on Linux too, whatever the variable's name says.
LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# The second: without its head this process would be ended by Ray itself after a minute, with nothing saved.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}
LOOK_S, LOST_S = 1.0, 5.0  # between two looks at the head, and until it counts as lost
TRIES = 3  # a node of the own cluster has 30 s to come up; on a machine that is very busy it takes longer
log = logging.getLogger(__name__)


class Cluster:
    """A cluster that this process has joined, or started: without an ``address``, with so many ``cpus``.

    Once in a process, which is its own: environment variables change, and Ray takes over signals.

    Attributes:
        ray: the library.
        cpus: cores of all nodes together, as they have declared.
        lost: its head has ended, or cannot be reached any more.

    Raises:
        ConfigError: Ray is not installed.
        WorkerError: the cluster cannot be started, or does not let this process in.
    """

    def __init__(self, address: str | None, cpus: int) -> None:
        self.lost = False
        self._folder: Path | None = None
        os.environ.update(QUIET)
        self.ray: Any = self._start(cpus) if address is None else _join(address)
        self.cpus = max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        self._head = self.ray.get_runtime_context().gcs_address
        self._looked = self._answered = time.monotonic()

    def require_head(self) -> None:
        """Raises WorkerError where the head of the cluster has been out of reach for some seconds."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        if now - self._looked > LOST_S or answers(self._head):  # or nobody has looked meanwhile
            self._answered = now
        self._looked = now
        if now - self._answered > LOST_S:
            self.lost = True
            raise WorkerError(f"lost the Ray cluster: its head at {self._head} does not answer")

    def node_address(self, node: str) -> str:
        """Where what runs on a node for Ray listens."""
        found = next(entry for entry in self.ray.nodes() if entry["NodeID"] == node)
        return f"{found['NodeManagerAddress']}:{found['NodeManagerPort']}"

    def close(self) -> None:
        """Leave the cluster, and end it if it is the own one."""
        if not self.lost:  # else this would wait for its head
            self.ray.shutdown()
        if self._folder is not None:
            scratch.remove(self._folder)

    def _start(self, cpus: int) -> Any:
        self._folder = scratch.make()
        token = self._folder / "token"
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        path = os.pathsep.join(folder for folder in sys.path if folder)  # workers find what this process finds
        os.environ.pop(TOKEN, None)
        os.environ.update(
            {LOOPBACK_ONLY: "0", MODE: "token", TOKEN_FILE: str(token), "PYTHONPATH": path, SAFE_PATH: "1"}
        )
        ray, failed = _import(), None
        for _ in range(TRIES):
            try:
                # one level deeper, as Ray lets everybody write there
                where = {"include_dashboard": False, "_temp_dir": str(self._folder / "ray")}
                ray.init(num_cpus=cpus, num_gpus=0, log_to_driver=False, configure_logging=False, **where)
                return ray
            except Exception as error:
                failed = error
                ray.shutdown()
        scratch.remove(self._folder)
        raise WorkerError(f"cannot start a Ray cluster on this machine: {_first_line(failed)}") from failed


def answers(address: str) -> bool:
    """Whether somebody listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_S).close()
    except OSError:
        return False
    return True


def _join(address: str) -> Any:
    ray = _import()
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:
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


def _import() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"sampler.executor = ray needs Ray ({error}): pip install 'metarl[ray]'") from error
    return ray


def _first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
