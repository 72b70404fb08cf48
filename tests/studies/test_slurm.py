"""Runs of a sweep as jobs: by submitit's stand-in for Slurm, and really in jobs of its local executor."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import submitit
import tiny_runs
from submitit.slurm.test_slurm import mocked_slurm
from tiny_runs import metarl, only_run

from metarl.errors import ConfigError
from metarl.run import run_dir
from metarl.studies import jobs, side_by_side, slurm, sweep
from metarl.studies.slurm import Options

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("children_find_metarl")
SIZE = [word for word in tiny_runs.overrides(Path("unused"), "iterations=3") if not word.startswith("run_dir")]
GRID = ["maml_trpo_point", "seed=0..1", *SIZE]
# Half a second per iteration on an idle machine: a part of a run is done within LIMIT, and not all of it.
LONGER = {"iterations": "4", "meta_batch_size": "10", "rollouts_per_task": "200", "task.horizon": "40"}
LIMIT = "time_limit_s=0.6"
OPTIONS = ["--slurm", "--slurm-time", "4:00:00", "--slurm-partition", "long", "--slurm-cpus", "8"]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """What submitit's own tests have for Slurm: sbatch gives numbers, and every job runs."""
    with mocked_slurm() as mock:
        yield mock


def test_a_grid_becomes_an_array_and_is_submitted_once(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--slurm-option", "account=lab", "--slurm-option", "mem=8G", "--jobs", "1", "--out", str(tmp_path)]
    assert metarl("sweep", *GRID, *OPTIONS, *more) == 0
    output, errors = capsys.readouterr()
    assert errors.splitlines()[-1] == f"submitted 2 jobs, 0 in the queue before: {tmp_path}"
    assert output.splitlines()[1].split() == ["0", "of", "2", *"––––"]
    text = (tmp_path / "slurm" / "12_submission.sh").read_text()
    for flag in ("time=240", "partition=long", "cpus-per-task=8", "account=lab", "mem=8G", "array=0-1%1"):
        assert f"#SBATCH --{flag}\n" in text
    assert "#SBATCH --signal=USR2@120\n" in text and " --cpus-per-task=8 " in text and " -P -u -m submitit" in text
    assert [tiny_runs.strict_json(tmp_path / f"s{seed}" / "slurm.json")["job_id"] for seed in (0, 1)] == [
        "12_0",
        "12_1",
    ]

    assert metarl("sweep", *GRID, *OPTIONS, *more) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"submitted 0 jobs, 2 in the queue before: {tmp_path}"
    cluster.set_job_state("12", "FAILED", 2)
    submitit.SlurmJob.watcher.clear()
    assert metarl("sweep", *GRID, *OPTIONS, *more) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"submitted 2 jobs, 0 in the queue before: {tmp_path}"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:30", 5430), ("4:00:00", 14400), ("1-12", 129_600), ("2-0:30", 174_600), ("0-1:02:03", 3723)],
)
def test_times_are_as_sbatch_takes_them(text: str, seconds: int) -> None:
    assert Options(text).seconds() == seconds


def test_a_run_stops_before_its_job_does() -> None:
    assert [slurm.spare(seconds) for seconds in (600, 3000, 14_400)] == [120, 600, 600]
    assert Options("10").parameters()["slurm_signal_delay_s"] == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--slurm without --slurm-time: expected the time of a job, as minutes, HH:MM:SS"),
        (["--slurm-time", "soon"], "--slurm-time soon: expected the time of a job"),
        (["--slurm-time", "1"], "--slurm-time 1: expected at least 2 minutes"),
        (["--slurm-time", "60", "--slurm-cpus", "0"], "--slurm-cpus 0: expected at least 1"),
        (["--slurm-time", "60", "--slurm-option", "mem"], "--slurm-option mem: expected KEY=VALUE"),
        (["--slurm-time", "60", "time_limit_s=3600"], "time_limit_s = 3600: expected less than --slurm-time 60"),
    ],
)
def test_options_that_make_no_job(
    options: list[str], message: str, tmp_path: Path, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metarl("sweep", *GRID, "--slurm", *options, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = sweep.make_plan(GRID[0], GRID[1:], out=tmp_path / "out")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"expected a machine from which jobs are submitted: .*srun"):
        slurm.submit(plan, Options("60"))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"--slurm needs submitit .*: pip install 'metarl\[slurm\]'"):
        slurm.submit(plan, Options("60"))
    assert not (tmp_path / "out").exists()


# Really


def longer() -> list[str]:
    """Overrides of a run that takes seconds, those of LONGER first."""
    rest = [word for word in SIZE if word.partition("=")[0] not in LONGER]
    return [*(f"{key}={value}" for key, value in LONGER.items()), *rest]


@pytest.mark.slow
def test_jobs_are_requeued_at_their_time_limit_until_all_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of the runs diverges."""
    monkeypatch.setattr(slurm, "CLUSTER", "local")
    one = tiny_runs.train(tmp_path / "reference", "agent.inner_lr=0.2", *longer()[:4])
    words = [*longer(), "agent.inner_lr=0.2,1000000", LIMIT]
    plan = sweep.make_plan("maml_trpo_point", words, out=tmp_path / "out")
    assert [row.state for row in slurm.submit(plan, Options("30"))] == ["new", "new"]
    deadline = time.monotonic() + 250
    while {row.state for row in plan.rows()} != {"finished", "failed"} and time.monotonic() < deadline:
        time.sleep(0.5)
    good, bad = plan.rows()
    assert (good.state, bad.state) == ("finished", "failed")
    assert bad.failure is not None and bad.failure.exit_code == 4 and "finite actions" in bad.failure.reason
    assert run_dir.digest(only_run(tmp_path / "out" / "agent.inner_lr=0.2")) == run_dir.digest(one)
    log = (tmp_path / "out" / "agent.inner_lr=0.2" / "log.txt").read_text()
    assert log.count("stopped at the time limit") >= 1
    assert metarl("sweep", "maml_trpo_point", *words, "--out", plan.out) == 1
    assert "1 that failed, 1 finished" in capsys.readouterr().err


@pytest.mark.slow
def test_a_preempted_job_saves_its_run_before_it_is_requeued(tmp_path: Path) -> None:
    (job,) = sweep.make_plan("maml_trpo_point", [*SIZE, "iterations=100000"][1:], out=tmp_path).jobs
    node = slurm.RunOnNode(job.entry, tmp_path, 1000.0)  # type: ignore[arg-type]
    command = job.command(tmp_path)
    with side_by_side.open_log(node.folder) as log:
        node._process = slurm.start_process(command, log)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("run/*/*/checkpoints/2")) and time.monotonic() < deadline:
        time.sleep(0.05)
    again = node.checkpoint()
    assert node._process.returncode == 140 and isinstance(again.function, slurm.RunOnNode)
    assert jobs.find_job(job.entry, job.loaded, tmp_path).state == "started"


def test_a_job_in_which_no_iteration_fits_fails_in_place_of_coming_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = sweep.make_plan("maml_trpo_point", SIZE, out=tmp_path).jobs
    node = slurm.RunOnNode(job.entry, tmp_path, 1000.0)  # type: ignore[arg-type]
    monkeypatch.setattr(slurm, "start_process", lambda arguments, output: subprocess.Popen(["true"]))
    with pytest.raises(Exception, match="no iteration fits into time_limit_s; give --slurm-time more"):
        node()
    failure = jobs.read_failure(node.folder)
    assert failure is not None and failure.exit_code == 0
    assert [row.state for row in sweep.make_plan("maml_trpo_point", SIZE, out=tmp_path).rows()] == ["failed"]


@pytest.mark.pages
def test_the_documented_job_script_requeues_until_the_run_is_finished(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    assert "time_limit_s=13200" in script and " seed=0 " in script
    size = " ".join(f"'{word}'" for word in longer())
    (tmp_path / "job").write_text(script.replace("time_limit_s=13200", LIMIT).replace("seed=0", size))
    for name, text in (
        ("metarl", f'exec {sys.executable} -m metarl "$@"'),
        ("scontrol", 'echo "$@" >> requeued'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "PYTHONPATH": str(ROOT)}
    for jobs_done in range(1, 7):
        done = subprocess.run(["bash", "job"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if (tmp_path / "requeued").read_text().splitlines() != ["requeue 7"] * jobs_done:
            break
    assert 2 <= jobs_done <= 4
    one = tiny_runs.train(tmp_path / "reference", *longer()[:4])
    assert run_dir.digest(only_run(tmp_path / "point-7")) == run_dir.digest(one)
