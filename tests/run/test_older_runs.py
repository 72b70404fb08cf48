"""Runs that metarl 0.1.0 made before its modules lay in folders load, evaluate and go on."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from metarl.run import runs

RUNS = Path(__file__).resolve().parents[1] / "data" / "made_by_0_1_0"


@pytest.fixture(params=["maml_trpo_point", "rl2_ppo_half_cheetah_dir"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a run of two iterations; ``expected.jsonl`` beside it is what the same version went on with."""
    return Path(shutil.copytree(RUNS / request.param, tmp_path / request.param)) / "run"


def test_an_older_run_goes_on_as_the_version_that_made_it(run: Path) -> None:
    runs.resume(run, ["iterations=4"])
    expected = tiny_runs.lines(run.parent / "expected.jsonl")
    found = tiny_runs.training(run)[2:]
    assert [line["iteration"] for line in found] == [line["iteration"] for line in expected] == [3, 4]
    # another processor rounds otherwise, and an update magnifies it
    for ours, theirs, near in zip(found, expected, (1e-3, 0.2), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=near, abs=near / 10) or math.isnan(value), name


def test_an_older_run_is_evaluated(run: Path) -> None:
    """Restored episodes of agents with a memory have other streams now; all else is as it was written then."""
    record = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    found = runs.evaluate(run)
    for name in ("iteration", "env_steps", "steps", "unit"):
        assert found[name] == record[name]
    assert "interval" not in record and "over tasks" in found["interval"]
    for name in ("mean", "returns"):
        assert np.array(found[name]) == pytest.approx(np.array(record[name]), rel=1e-3, abs=1e-4)
