"""`metarl compare` over three agents with three seeds each, in one command, has the figures of the study."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import records
from tiny_runs import metarl

from metarl.studies.comparison.plan import METHODS, make_plan
from metarl.studies.study import Result

AGENTS = ["maml_trpo", "promp", "reptile"]
POINTS, TASKS = 4, 40


@pytest.mark.parametrize("rounds", [1, 20], ids=["sampled-tasks", "two-tasks-in-rounds"])
def test_three_agents_with_three_seeds_have_the_same_figures(
    rounds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the last digit, whether tasks are a sample or come several times; returns are of long tails."""
    plan = make_plan(["point"], AGENTS, 3)
    rng = np.random.default_rng(0)
    tasks = [{"goal": [float(place % (TASKS // rounds)), 0.5]} for place in range(TASKS)]
    results = []
    for cell in plan.cells():
        line = records.evaluation(rng.lognormal(size=(POINTS, TASKS)).tolist(), tasks=tasks)
        settings = records.config(METHODS[cell.method].agent, seed=cell.seed, eval__num_tasks=TASKS)
        records.write(tmp_path / str(cell), settings, [line])
        results.append(Result(cell, [line], 5.0, settings, {}))
    study = plan.summarise(results)["tasks"]["point"]

    assert metarl("compare", tmp_path, "--by", "agent.name", "--baseline", "maml_trpo", "--csv") == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (len(rows), err) == (len(AGENTS) * POINTS, "")
    for row in rows:
        method, point = study["methods"][row["method"]], int(row["point"])
        found = [float(row[key]) for key in ("iqm", "iqm_low", "iqm_high", "mean", "seed_min", "seed_max", "seconds")]
        ends = method["iqm_by_seed"][point]
        ours = [method[key][point] for key in ("iqm", "low", "high", "mean")]
        assert found == [*ours, min(ends), max(ends), 5.0]
        if row["method"] != "maml_trpo":
            difference = study["differences"][row["method"]]
            found = [float(row[key]) for key in ("difference", "difference_low", "difference_high", "pairs")]
            assert found == [*(difference[key][point] for key in ("mean", "low", "high")), 3.0]
