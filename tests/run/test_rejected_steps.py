"""Trust-region steps that are rejected again and again: first a notice, then the end of the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import metarl, only_run, overrides, saved_state, training

from metarl.errors import NumericError
from metarl.learning import trust_region
from metarl.run import rejected_steps
from metarl.run.rejected_steps import MOST, NOTICE, RejectedSteps


def test_a_notice_at_ten_in_a_row_and_again_only_after_one_was_accepted() -> None:
    told: list[str] = []
    steps = RejectedSteps(0, told.append)
    for accepted in [*[0.0] * 30, 1.0, *[0.0] * 9]:
        steps.count({"linesearch/accepted": accepted})
        steps.count({"loss/kl": 0.0})  # no line search: not counted
    assert len(told) == 1 and "rejected every step of the last 10 iterations" in told[0]
    steps.count({"linesearch/accepted": 0.0})
    assert len(told) == 2 and steps.in_a_row == NOTICE == 10


def test_fifty_in_a_row_end_the_run_and_so_does_the_next_one_after_a_resume() -> None:
    steps = RejectedSteps(MOST - 2, pytest.fail)
    steps.count({"linesearch/accepted": 0.0})
    for rejected in (MOST, MOST + 1):
        with pytest.raises(NumericError, match=f"of the last {rejected} iterations.*another agent.max_kl"):
            steps.count({"linesearch/accepted": 0.0})


def test_a_run_whose_steps_are_all_rejected_keeps_its_checkpoint_and_its_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With limits of 2 and 4; the first part of the run ends before."""
    monkeypatch.setattr(rejected_steps, "NOTICE", 2)
    monkeypatch.setattr(rejected_steps, "MOST", 4)
    monkeypatch.setattr(
        trust_region,
        "line_search",
        lambda evaluate, old, *args, **kwargs: trust_region.LineSearchResult(old, 0.0, 0.0, False, 15),
    )
    size = ["iterations=3", "eval.every=null", "meta_batch_size=2"]
    assert metarl("train", "maml_trpo_point", *overrides(tmp_path, *size)) == 0
    run, said = only_run(tmp_path), capsys.readouterr().err
    assert said.count("notice: the line search has rejected every step of the last 2 iterations") == 1
    assert saved_state(run)["rejected_steps"] == 3
    assert metarl("resume", run, "iterations=9") == 4
    said = capsys.readouterr().err
    assert "error: the line search has rejected every step of the last 4 iterations: nothing is learned" in said
    assert saved_state(run)["counters"]["iteration"] == len(training(run)) == 4
