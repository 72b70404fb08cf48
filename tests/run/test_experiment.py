"""What a run takes from the process that it runs in, and gives back."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_runs
import torch

from metarl.config import loading
from metarl.run.experiment import build, resolve
from metarl.sampling import rollout


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
