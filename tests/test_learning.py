"""The shipped configurations learn: minutes each, so these run under ``make test-slow``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metarl import cli


def final_curve(config: str, iterations: int, run_dir: Path) -> dict[str, list[float]]:
    """The last evaluation of a shipped configuration trained for some iterations."""
    overrides = [f"iterations={iterations}", "eval.every=null", "wandb.mode=disabled", f"run_dir={run_dir}"]
    assert cli.main(["train", config, *overrides]) == 0
    evaluations = next(run_dir.rglob("evaluations.jsonl")).read_text(encoding="utf-8").splitlines()
    curve: dict[str, list[float]] = json.loads(evaluations[-1])
    return curve


@pytest.mark.slow
def test_half_cheetah_learns_to_adapt_to_its_direction(tmp_path: Path) -> None:
    """What ``make train`` runs, a third of it: after one step the cheetah runs the right way, before it cannot know."""
    curve = final_curve("maml_trpo_half_cheetah_dir_small", 35, tmp_path)
    assert curve["low"][1] > curve["high"][0], "the intervals before and after one step overlap"
    assert curve["mean"][1] > 30
    assert abs(curve["mean"][0]) < 10


@pytest.mark.slow
def test_the_point_learns_to_find_its_goal(tmp_path: Path) -> None:
    """20 of 100 iterations; standing still gives about −38, the published result after one step is −11.7."""
    curve = final_curve("maml_trpo_point", 20, tmp_path)
    assert curve["mean"][1] > -20
    assert curve["low"][1] > curve["high"][0]
