"""R28 to R30: one digest for any number of workers, the same steps in any process, and on nodes that go."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scorecard import ALL_KINDS, KINDS, OTHER_KINDS, PATH, Kind, case

from metarl.envs._meta_world_tasks import NAMES, draw_tasks
from metarl.envs.ml1 import ML1Config, ML1Distribution
from metarl.run import run_dir
from metarl.sampling.executors.processes import Processes

pytestmark = pytest.mark.slow


@case(28)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_r28_one_digest(kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path) -> None:
    digests = set()
    for number, (workers, evaluation, saving) in enumerate(itertools.product((1, 2, 3), ("1", "null"), (1, 4))):
        changes = [f"sampler.workers={workers}", f"eval.every={evaluation}", f"checkpoint.every={saving}"]
        digests.add(run_dir.digest(kind.train(tmp_path / str(number), *changes)))
    assert digests == {run_dir.digest(clean(kind))}


@case(28)
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_r28_one_digest_of_other_agents(kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path) -> None:
    digests = {run_dir.digest(kind.train(tmp_path / str(n), f"sampler.workers={n}")) for n in (1, 2, 3)}
    assert digests == {run_dir.digest(clean(kind))}


def played(name: str) -> str:
    """A digest of 25 steps of two tasks of a class, in an environment that has just been made."""
    env = ML1Distribution(ML1Config(name="ml1", env=name, horizon=30)).make_vector(2)
    return played_in(env, draw_tasks([name], 3)[name][:2])


def played_behind_others(name: str) -> str:
    """The same, in an environment that has played the same tasks in another order, with other actions."""
    env = ML1Distribution(ML1Config(name="ml1", env=name, horizon=30)).make_vector(2)
    tasks = draw_tasks([name], 3)[name][:4]
    played_in(env, [tasks[3], tasks[1]], seed=1)
    return played_in(env, tasks[:2])


def played_in(env: object, tasks: list[dict[str, object]], seed: int = 0) -> str:
    rng, digest = np.random.default_rng(seed), hashlib.sha256()
    env.set_tasks(tasks)  # type: ignore[attr-defined]
    digest.update(env.reset()[0].tobytes())  # type: ignore[attr-defined]
    for action in rng.uniform(-1, 1, (25, 2, 4)):
        obs, reward, *_ = env.step(action)  # type: ignore[attr-defined]
        digest.update(obs.tobytes() + np.asarray(reward).tobytes())
    return digest.hexdigest()


@case(29)
def test_r29_meta_world() -> None:
    here = [played(name) for name in NAMES]
    assert len(set(here)) == len(NAMES) == 50
    assert [played_behind_others(name) for name in reversed(NAMES)] == here[::-1]
    with Processes(2, timeout_s=600, retries=0, restarts=0) as executor:
        assert executor.map(played, NAMES[::-1]) == here[::-1]


@case(30)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_r30_a_node_is_removed(
    kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two, with two cores each, so that some workers live on the second one."""
    from ray.cluster_utils import Cluster

    from metarl.run.trainer import Trainer

    monkeypatch.setenv("PYTHONPATH", PATH)  # of the nodes, where actors import the faulty environment
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=2)
    iterate = Trainer.iterate

    def without_a_node(self: Trainer) -> dict[str, float]:
        if self.iteration == 2:
            cluster.remove_node(lost, allow_graceful=False)
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", without_a_node)
    try:
        changes = ["sampler.executor=ray", f"sampler.ray_address={cluster.address}", "sampler.workers=3"]
        changes += ["sampler.unit_retries=5", "sampler.worker_restarts=20"]
        run = kind.train(tmp_path, *changes)
    finally:
        cluster.shutdown()
    assert run_dir.digest(run) == run_dir.digest(clean(kind))
