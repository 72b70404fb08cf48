"""What a run takes from the process that it runs in, and gives back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

from metarl.config import loading
from metarl.envs.point import PointDistribution
from metarl.errors import ConfigError
from metarl.run.experiment import build, resolve
from metarl.sampling import rollout
from metarl.spaces import Space, SpaceSpec


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_gives_back_torchs_threads_and_closes_its_environments(threads: int, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        config = resolve(loading.load(tiny_runs.POINT, tiny_runs.overrides(tmp_path)).config)
        with pytest.raises(ZeroDivisionError), build(config) as experiment:
            assert torch.get_num_threads() == 1
            agent, tasks = experiment.agent, [{"goal": [0.1, 0.2]}]
            experiment.sampler.collect(agent.policy(), agent.init_adapted(1), tasks, rollout.Stream(0, 0, 0), lanes=2)
            (env,) = rollout._environments.values()
            assert not env.closed
            raise ZeroDivisionError
        assert torch.get_num_threads() == threads
        assert env.closed and not rollout._environments
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: setattr(d, "transform", lambda x: x),
            "its PointDistribution cannot be sent to rollout workers .*lambda",
        ),
        (lambda d: _set_observation(d, Space("box", 0)), "expected at least one number of observation, got none; "),
        (
            lambda d: _set_observation(d, Space("box", 2, (0.0,), (1.0,))),
            "expected 2 bounds .* got 1 low and 1 high ones",
        ),
        (
            lambda d: setattr(d, "spaces", SpaceSpec(d.spaces.observation, Space("discrete", 0))),
            "number of action, got",
        ),
    ],
)
def test_a_family_that_cannot_be_used_is_told_why(
    change: Callable[[Any], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = PointDistribution.__init__

    def init(self: Any, config: Any) -> None:
        built(self, config)
        change(self)

    monkeypatch.setattr(PointDistribution, "__init__", init)
    config = resolve(loading.load(tiny_runs.POINT, tiny_runs.overrides(tmp_path)).config)
    with pytest.raises(ConfigError, match=f"point: .*{message}"), build(config):
        pass


def _set_observation(distribution: Any, space: Space) -> None:
    distribution.spaces = SpaceSpec(space, distribution.spaces.action)
