"""Workers of Ray: the bits and faults of worker processes, on a cluster that nobody else reaches, and on two nodes."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray_units
import torch

from metarl.config import loading
from metarl.errors import ConfigError, Interrupted, WorkerError
from metarl.sampling.executors import scratch
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.executors.ray_client import RayExecutor

ROOT = Path(__file__).resolve().parents[2]
# not importorskip: Ray must not be imported before its cluster is told to keep to this machine
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'metarl[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a cluster takes seconds to start, and some start two


@pytest.fixture(scope="module")
def own() -> Iterator[RayExecutor]:
    """Two workers in a cluster of their own."""
    handler = signal.getsignal(signal.SIGTERM)
    variables = {name: value for name, value in os.environ.items() if name.startswith(("RAY", "PYTHON"))}
    limits = {"timeout_s": 20.0, "retries": 1, "restarts": 100}
    with RayExecutor(2, most=math.inf, address=None, cpus=2, **limits) as executor:
        assert executor.workers == 2
        yield executor
    assert signal.getsignal(signal.SIGTERM) is handler
    assert {name: value for name, value in os.environ.items() if name.startswith(("RAY", "PYTHON"))} == variables


@needs_ray
def test_results_come_in_order_and_each_unit_has_its_own_copy_of_what_is_shared(own: RayExecutor) -> None:
    units = [(number, delay) for number, delay in enumerate([0.2, 0.0, 0.05, 0.0, 0.1])]
    assert own.map(ray_units.square_after, units) == [0, 1, 4, 9, 16]
    assert own.map(ray_units.append, [3, 4, 5], shared=[1, 2]) == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
    assert own.map(abs, []) == []


@needs_ray
def test_the_bits_are_those_of_this_process(own: RayExecutor) -> None:
    generator = torch.Generator().manual_seed(0)
    units = [torch.randn(300, 65, generator=generator)[:, 1:] for _ in range(4)]
    shared = torch.randn(64, 200, generator=generator)
    ours = InProcess().map(ray_units.forward, units, shared=shared)
    theirs = own.map(ray_units.forward, units, shared=shared)
    assert [tensor.numpy().tobytes() for tensor in ours] == [tensor.numpy().tobytes() for tensor in theirs]


@needs_ray
def test_a_worker_has_one_thread_no_gpu_and_a_process_of_its_own(own: RayExecutor) -> None:
    for seen in own.map(ray_units.seen, [0, 1]):
        assert seen.pop("pid") != os.getpid()
        assert seen == {
            "threads": 1,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
    (node,) = own.nodes.values()
    assert node["torch"] == torch.__version__.partition("+")[0] or node["torch"] == torch.__version__
    assert node["cpu capability"] == torch.backends.cpu.get_cpu_capability()


@needs_ray
def test_all_that_an_own_cluster_starts_listens_on_the_loopback_interface(own: RayExecutor) -> None:
    own.map(abs, [1])
    me = psutil.Process()
    addresses = {
        connection.laddr.ip
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses and addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@needs_ray
def test_the_token_is_for_this_user_alone(own: RayExecutor) -> None:
    own.map(abs, [1])
    tokens = list(Path(scratch._place()).glob(f"{scratch.PREFIX}*/token"))
    assert tokens and "RAY_AUTH_TOKEN" not in os.environ
    for token in tokens:
        assert stat.S_IMODE(token.stat().st_mode) == 0o600 and stat.S_IMODE(token.parent.stat().st_mode) == 0o700
        assert len(token.read_text()) == 64


@needs_ray
@pytest.mark.parametrize(("kind", "fault"), [("raises", "unit_raised"), ("dies", "worker_died")])
def test_a_unit_that_fails_once_is_run_again(kind: str, fault: str, own: RayExecutor, tmp_path: Path) -> None:
    before = own.faults[fault]
    units = [(0, kind, None), (1, kind, str(tmp_path / "flag")), (2, kind, None)]
    assert own.map(ray_units.once, units) == [0, 1, 4]
    print(f"{time.monotonic() - float((tmp_path / 'flag').read_text()):.1f} s from the {kind} to the end of the map")
    assert own.faults[fault] == before + 1


@needs_ray
def test_a_stopped_actor_is_replaced_at_its_deadline(own: RayExecutor, tmp_path: Path) -> None:
    own.map(abs, [1, 2])
    before = own.faults["worker_hung"]
    assert own.map(ray_units.once, [(3, "hangs", str(tmp_path / "flag"))]) == [9]
    assert own.faults["worker_hung"] == before + 1


@needs_ray
def test_a_class_that_a_worker_cannot_import_is_told_at_once(
    own: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path that the cluster has started with does not lead to it."""
    (tmp_path / "only_for_us.py").write_text("class Unit:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    unit = importlib.import_module("only_for_us").Unit()
    before = dict(own.faults)
    with pytest.raises(WorkerError, match=r"cannot import what it needs \(ModuleNotFoundError: .*--allow"):
        own.map(type, [unit])
    assert own.faults == before


@needs_ray
def test_an_interrupt_stops_promptly_and_no_late_result_reaches_the_next_map(own: RayExecutor) -> None:
    own.map(abs, [1, 2])
    started = time.monotonic()

    def interrupt() -> None:
        if time.monotonic() > started + 0.5:
            raise Interrupted(signal.SIGTERM)

    own.interrupt = interrupt
    with pytest.raises(Interrupted):
        own.map(ray_units.square_after, [(number, 60.0) for number in range(4)])
    own.interrupt = None
    assert own.map(ray_units.square_after, [(number, 0.0) for number in range(3)]) == [0, 1, 4]


# Several nodes


def run_on_nodes(code: str, tmp_path: Path, *, seconds: float = 600) -> str:
    """The output of a program that begins with a cluster of one node."""
    path = tmp_path / "program.py"
    body = "\n".join(f"    {line}" for line in (ray_units.CLUSTER + code).splitlines())
    path.write_text(f'if __name__ == "__main__":\n{body}\n')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])}
    done = subprocess.run(
        [sys.executable, path, tmp_path / "token"], env=environment, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_ray
def test_a_node_that_is_lost_in_the_middle_changes_no_result_and_costs_one_restart(tmp_path: Path) -> None:
    code = """
second = nodes.add_node(num_cpus=2)
nodes.wait_for_nodes()
cluster = Cluster(nodes.address, 0)
with RayActors(cluster, cluster.cpus, timeout_s=300, retries=3, restarts=1) as executor:
    executor.map(ray_units.square_after, [(number, 1.0) for number in range(6)])
    while len(executor.nodes) < 2:
        executor.map(ray_units.square_after, [(number, 1.0) for number in range(6)])
    time.sleep(1.0)
    threading.Timer(2.0, nodes.remove_node, (second, False)).start()
    units = [(number, 1.5) for number in range(12)]
    print(executor.workers, executor.map(ray_units.square_after, units), executor.faults)
nodes.shutdown()
"""
    expected = [number**2 for number in range(12)]
    output = run_on_nodes(code, tmp_path).splitlines()[-1]  # Ray tells of the node before
    assert output.startswith(f"3 {expected} {{'worker_died': "), output
    assert int(output.split("'worker_died': ")[1][0]) in (1, 2)


@needs_ray
def test_a_wrong_token_is_named_first_and_ends_in_exit_code_5(tmp_path: Path) -> None:
    code = """
import subprocess
other = token.with_name("other")
other.write_text("cd" * 32)
command = [sys.executable, "-m", "metarl", "train", "maml_trpo_point", "iterations=1", "wandb.mode=disabled",
           "sampler.executor=ray", f"sampler.ray_address={nodes.address}", f"run_dir={token.parent}/runs"]
done = subprocess.run(command, env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(other)}, capture_output=True, text=True)
print(done.returncode, (token.parent / "runs").exists(), done.stderr)
nodes.shutdown()
"""
    output = run_on_nodes(code, tmp_path)
    assert "5 False " in output, output
    error = next(line for line in output.splitlines() if line.startswith("error: cannot"))
    assert error.startswith("error: cannot join the Ray cluster at 127.0.0.1:") and "Is its token" in error


# Configuration


def problems(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loading.load("maml_trpo_point", overrides)
    return str(caught.value)


def test_an_address_without_ray_and_ray_without_its_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sampler.ray_address = auto: expected sampler.executor = ray" in problems("sampler.ray_address=auto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'metarl[ray]'" in problems("sampler.executor=ray")
    assert "expected host:port or auto" in problems("sampler.executor=ray", "sampler.ray_address=ray://here:10001")
