"""`metarl sweep`: grids of tiny runs, stopped at any moment and gone on with by the same command."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_runs
from tiny_runs import metarl, only_run

from metarl.agents.maml_trpo import MAMLTRPO
from metarl.errors import ConfigError
from metarl.monitor import wandb_sink
from metarl.run import checkpoint, listing, run_dir
from metarl.studies import jobs, side_by_side, sweep
from metarl.studies.launcher import Launcher

pytestmark = pytest.mark.usefixtures("children_find_metarl")
SIZE = [word for word in tiny_runs.overrides(Path("unused"), "iterations=3") if not word.startswith("run_dir")]
GRID = ["maml_trpo_point", "seed=0..1", "agent.inner_lr=0.1,0.2", *SIZE]
NAMES = ["agent.inner_lr=0.1/s0", "agent.inner_lr=0.2/s0", "agent.inner_lr=0.1/s1", "agent.inner_lr=0.2/s1"]
KEYS = ("iqm", "iqm_low", "iqm_high", "mean", "seed_min", "seed_max")
DIVERGES = "agent.inner_lr=1000000"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep whose runs have been made by its printed commands, in this process. Tests must leave it as
    it is."""
    out = tmp_path_factory.mktemp("printed")
    for line in sweep.commands(sweep.make_plan(GRID[0], GRID[1:], out=out)):
        program, *arguments = shlex.split(line)
        assert (program, metarl(*arguments)) == ("metarl", 0)
    return out


@pytest.fixture
def finished(printed: Path, tmp_path: Path) -> Path:
    """A finished sweep to play with."""
    return Path(shutil.copytree(printed, tmp_path / "finished"))


def run_of(out: Path, name: str) -> Path:
    return only_run(out / name)


def states(out: Path, *words: str) -> list[str]:
    return [job.state for job in sweep.make_plan(GRID[0], [*words, *SIZE], out=out).jobs]


def no_children(patch: pytest.MonkeyPatch) -> None:
    """From here on, starting a run is an error."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"started {args}")

    patch.setattr(subprocess, "Popen", refuse)


# What is to be run


def test_runs_by_printed_commands_are_found_and_their_table_is_shown(
    printed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_children(monkeypatch)
    capsys.readouterr()
    assert metarl("sweep", *GRID, "--out", printed) == 0
    output, errors = capsys.readouterr()
    heads, first, second, note = output.splitlines()
    assert re.split("  +", heads) == ["inner_lr", "runs", "before: IQM [95 %]", "after: IQM [95 %]", "mean", "seeds"]
    assert note == "intervals are over tasks within these seeds (percentile bootstrap)"
    # the figures of `metarl compare`
    assert metarl("compare", printed, "--by", "agent.inner_lr", "--csv") == 0
    points = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row, rate in ((first, "0.1"), (second, "0.2")):
        those = [point for point in points if point["method"] == f"inner_lr={rate}"]
        before, after = ([float(point[key]) for key in KEYS] for point in those)
        ends = [f"{value:.3g} [{low:.3g}, {high:.3g}]" for value, low, high, *_ in (before, after)]
        mean, lowest, highest = after[3:]
        assert re.split("  +", row) == [rate, "2", *ends, f"{mean:.3g}", f"{lowest:.3g} … {highest:.3g}"]
        lines = [tiny_runs.evaluations(run_of(printed, f"agent.inner_lr={rate}/s{seed}"))[-1] for seed in (0, 1)]
        assert mean == pytest.approx(sum(line["mean"][1] for line in lines) / 2)
    assert errors.splitlines()[-2:] == [f"sweep  {printed}", "runs   4: 4 finished"]
    assert all(len(line) <= 80 for line in output.splitlines())


def test_a_report_starts_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run_of(finished, NAMES[3]))
    jobs.keep_failure(finished / NAMES[3], jobs.Failure(5, "it raised"))
    shutil.rmtree(finished / NAMES[2])
    before = tiny_runs.tree(finished)
    no_children(monkeypatch)
    assert metarl("sweep", *GRID, "--out", finished, "--report-only") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[1:3]] == [["0.1", "1", "of", "2"], ["0.2", "1", "of", "2"]]
    assert lines[-1].split() == [NAMES[3], "5", "it", "raised"]
    assert tiny_runs.tree(finished) == before


def test_runs_of_sweeps_are_listed_where_all_runs_are(printed: Path, tmp_path: Path) -> None:
    shutil.copytree(printed, tmp_path / "sweeps" / "name")
    assert [run.state for run in listing.runs_below(tmp_path)] == ["finished"] * 4
    pair = tmp_path / "sweeps" / "other" / NAMES[0] / "point" / "maml_trpo"
    shutil.copytree(run_of(printed, NAMES[0]), pair / "run")
    assert len(listing.runs_below(tmp_path)) == 5


def test_a_grid_that_has_grown_finds_the_runs_that_there_are(printed: Path) -> None:
    found = states(printed, "seed=0..2", "agent.inner_lr=0.1,0.2")
    assert found == ["finished"] * 4 + ["new"] * 2
    assert states(printed, "agent.inner_lr=0.2,0.3", "seed=1,0") == ["finished", "new"] * 2


def test_commands_go_on_with_what_was_stopped(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = run_of(finished, NAMES[1])
    (stopped / "evaluations.jsonl").unlink()
    shutil.rmtree(finished / NAMES[2])
    before = tiny_runs.tree(tmp_path)
    no_children(monkeypatch)
    assert metarl("sweep", *GRID, "--out", finished, "--print-commands") == 0
    resume, train = capsys.readouterr().out.splitlines()
    assert shlex.split(resume)[:3] == ["metarl", "resume", str(stopped)]
    assert {"sampler.workers=0", "checkpoint.every=2"} <= {*shlex.split(resume)} and "learner.shares" not in resume
    assert train.startswith("metarl train maml_trpo_point ") and f"run_dir={finished / NAMES[2]}" in train
    assert tiny_runs.tree(tmp_path) == before


def plan_of(*words: str, out: Path = Path("nowhere")) -> sweep.Plan:
    return sweep.make_plan(words[0], words[1:], out=out)


def words_of(plan: sweep.Plan, **how: Any) -> list[set[str]]:
    return [{*shlex.split(line)} for line in sweep.commands(plan, **how)]


def test_cores_are_shared_out_and_what_is_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "available_cores", lambda: 6)
    plan = plan_of("maml_trpo_point", "seed=0..3")
    assert all({"sampler.workers=3", "learner.threads=3"} <= words for words in words_of(plan, side_by_side=2))
    assert all({"sampler.workers=1", "learner.threads=1"} <= words for words in words_of(plan, side_by_side=8))
    assert not any("sampler.workers" in word or "learner." in word for words in words_of(plan) for word in words)
    given = plan_of("maml_trpo_point", "seed=0,1", "sampler.workers=5", "learner.threads=2")
    for words in words_of(given, side_by_side=2):
        assert {"sampler.workers=5", "learner.threads=2"} <= words
        assert not {"sampler.workers=3", "learner.threads=3"} & words
    alone = words_of(plan_of("maml_trpo_point", "seed=0,1", "sampler.executor=in_process"), side_by_side=2)
    assert not any("sampler.workers" in word for words in alone for word in words)
    assert side_by_side.share(plan.jobs[0].config, 3, 4) == ["sampler.workers=1", "learner.threads=1"]
    assert side_by_side.share(plan.jobs[0].config, 1, 4) == ["sampler.workers=2", "learner.threads=2"]


def test_agents_whose_bits_depend_on_threads_learn_on_one_whatever_runs_beside_them() -> None:
    plan = plan_of("rl2_ppo_bernoulli_bandit", "seed=0,1")
    for how in ({}, {"side_by_side": 1}, {"side_by_side": 2}):
        assert all("learner.threads=1" in words for words in words_of(plan, **how))
    assert all("learner.threads=4" in w for w in words_of(plan_of("rl2_ppo_bernoulli_bandit", "learner.threads=4")))


def test_as_many_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "available_cores", lambda: 8)
    plan = plan_of("maml_trpo_point", "seed=0..9", "device=cpu")
    for free, places, why in ((1e12, 8, "8 cores"), (3.7e9, 3, "3.7 GB of memory are free"), (1e8, 1, "0.1 GB of")):
        monkeypatch.setattr(sweep.memory, "machine_memory", lambda free=free: (free, free))
        chosen, reason = sweep.usual_side_by_side(plan.jobs)
        assert chosen == places and reason.startswith(why)
    monkeypatch.setattr(sweep.memory, "machine_memory", lambda: (1e12, 1e12))
    assert sweep.usual_side_by_side(plan.jobs[:3])[0] == 3


def test_runs_of_a_sweep_share_a_group_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    both = words_of(plan_of("maml_trpo_point", "seed=0,1", "iterations=3"))
    assert all("wandb.group=maml_trpo_point_iterations=3" in words for words in both)
    for more in ("wandb.group=mine", "wandb.mode=disabled"):
        assert "wandb.group=maml_trpo_point" not in " ".join(*words_of(plan_of("maml_trpo_point", more)))
    monkeypatch.setenv("WANDB_RUN_GROUP", "theirs")
    assert "wandb.group" not in " ".join(*words_of(plan_of("maml_trpo_point", "seed=0")))


def test_a_sweep_is_filed_under_its_configuration_and_what_all_runs_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, folder in (
        (["maml_trpo_point", "seed=0,1"], "runs/sweeps/maml_trpo_point"),
        (["maml_trpo_point", "iterations=3,4", "meta_batch_size=7"], "runs/sweeps/maml_trpo_point_meta_batch_size=7"),
        (["point", "maml_vpg", "name=mine", "seed=3"], "runs/sweeps/point_maml_vpg_mine"),
        (["maml_trpo_point", "run_dir=elsewhere"], "elsewhere/sweeps/maml_trpo_point"),
    ):
        assert str(sweep.make_plan(words[0], words[1:]).out) == folder
    (entry,) = (job.entry for job in plan_of("maml_trpo_point", "run_dir=elsewhere", out=Path("a b/é")).jobs)
    assert entry.arguments(Path())[-1] == 'run_dir="a b/é/run"'


# What cannot be run


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["agent.inner_lr=0.1,-1", "seed=0,1"], ["agent.inner_lr=-1: agent.inner_lr = -1: expected a number > 0"]),
        (["agent.inner_lr=0.1,0.2", "sead=1"], ["in every setting: unknown key sead = 1: did you mean seed?"]),
        (["sead=1"], ["unknown key sead = 1: did you mean seed?"]),
        (
            ["agent.inner_lr=-1,x", "iterations=1,0"],
            [
                "agent.inner_lr=-1: agent.inner_lr = -1: expected",
                "iterations=0: iterations = 0: expected",
                'agent.inner_lr=x: agent.inner_lr = "x": expected',
            ],
        ),
        (["agent.name=maml_trpo,mamel"], ['agent.name=mamel: agent.name = "mamel": no such agent']),
        (["seed=1,"], ["seed=1,: expected a value before and behind every comma"]),
        (["--jobs", "0"], ["--jobs 0: expected at least 1"]),
        (["--slurm-time", "60"], ["--slurm-time: expected --slurm, too"]),
        (["--report-only", "--print-commands"], ["argument --print-commands: not allowed with argument --report-only"]),
        (["--slurm", "--print-commands"], ["argument --print-commands: not allowed with argument --slurm"]),
        (["seed=0..9", "--most", "5"], ["seed=0..9: expected at most 5 runs, got 10 values; --most 10 allows them"]),
    ],
)
def test_everything_is_told_before_anything_is_made(
    words: list[str],
    messages: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    no_children(monkeypatch)
    assert metarl("sweep", "maml_trpo_point", *words) == 2
    output, errors = capsys.readouterr()
    assert output == "" and "Traceback" not in errors
    lines = [line for line in errors.splitlines() if not line.startswith("error: usage")]
    assert len([line for line in lines if line.startswith("error: ")]) >= len(messages)
    for message in messages:
        assert any(line.startswith(f"error: {message}") or message in line for line in lines), errors
    assert list(tmp_path.iterdir()) == []


def test_runs_of_other_settings_are_not_mixed_in(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_children(monkeypatch)
    other = [word.replace("task.horizon=10", "task.horizon=9") for word in GRID]
    for more in ([], ["--print-commands"]):
        assert metarl("sweep", *other, "--out", finished, *more) == 2
        error = capsys.readouterr().err
        assert f"{run_of(finished, NAMES[0])} was made with task.horizon = 10, not 9: move it away" in error
        assert error.count("\n") == 4


def test_one_sweep_at_a_time_in_a_folder(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_children(monkeypatch)
    with run_dir.lock(finished):
        assert metarl("sweep", *GRID, "--out", finished) == 2
    assert f"{finished} is in use by process {os.getpid()}" in capsys.readouterr().err
    (finished / "file").write_text("in the way")
    assert metarl("sweep", *GRID, "--out", finished / "file" / "runs") == 6


# Running


def test_a_stopped_run_goes_on_to_the_same_bits_beside_one_that_diverges(
    printed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another number of workers; a run that diverged is left alone until somebody wants it to be tried again."""
    size = [word for word in SIZE if not word.startswith("sampler.workers")]
    command = ["sweep", "maml_trpo_point", "seed=0", f"{DIVERGES},0.2", *size, "--out", str(tmp_path), "--jobs", "2"]
    (stopped,) = sweep.commands(
        sweep.make_plan("maml_trpo_point", ["seed=0", "agent.inner_lr=0.2,0.3", *size], out=tmp_path)
    )[:1]
    with monkeypatch.context() as patch:
        tiny_runs.on_call(patch, MAMLTRPO, "meta_update", 3, tiny_runs.send_self(signal.SIGTERM))
        assert metarl(*shlex.split(stopped)[1:]) == 143
    run = run_of(tmp_path, NAMES[1])
    assert tiny_runs.saved_state(run)["counters"]["iteration"] == 2
    capsys.readouterr()
    assert metarl(*command) == 1
    output, errors = capsys.readouterr()
    assert run_of(tmp_path, NAMES[1]) == run and tiny_runs.outcome(run) == tiny_runs.outcome(run_of(printed, NAMES[1]))
    assert "runs   2: 1 new, 1 to be gone on with\njobs   2 side by side" in errors
    assert "[1/2] started  agent.inner_lr=1000000/s0\n[2/2] resumed  agent.inner_lr=0.2/s0\n" in errors
    assert "[1/2] failed   agent.inner_lr=1000000/s0  exit code 4  " in errors
    assert "    | error: expected finite actions" in errors and "error: 1 of 2 runs failed; " in errors
    rows = output.splitlines()
    assert rows[0].split()[:2] == ["inner_lr", "runs"] and rows[1].split() == ["1000000", "0", "of", "1", *"––––"]
    assert rows[-1].split()[:2] == ["agent.inner_lr=1000000/s0", "4"] and "expected finite actions" in rows[-1]
    assert "metarl train" in (tmp_path / "agent.inner_lr=1000000" / "s0" / "log.txt").read_text("utf-8").splitlines()[0]

    no_children(monkeypatch)
    assert metarl(*command) == 1
    output, errors = capsys.readouterr()
    assert "runs   2: 1 that failed, 1 finished\n" in errors and "[1/2]" not in errors
    assert "leaves them alone; --retry-failed goes on with 1 run that diverged" in errors
    assert output.splitlines() == rows
    plan = sweep.make_plan(command[1], command[2:-4], out=tmp_path)
    assert (plan.todo(), [str(job.entry) for job in plan.todo(retry_failed=True)]) == (
        [],
        ["agent.inner_lr=1000000/s0"],
    )


def test_a_run_that_another_process_trains_is_waited_for(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(finished, NAMES[3])
    record = (run / "evaluations.jsonl").read_bytes()
    (run / "evaluations.jsonl").unlink()
    plan = sweep.make_plan(GRID[0], GRID[1:], out=finished)
    assert [job.state for job in plan.jobs] == ["finished"] * 3 + ["started"]
    held = threading.Event()

    def train_elsewhere() -> None:
        with run_dir.lock(run):
            held.set()
            time.sleep(0.3)
            (run / "evaluations.jsonl").write_bytes(record)

    other = threading.Thread(target=train_elsewhere)
    other.start()
    assert held.wait(10)
    assert [row.state for row in sweep.run(plan, side_by_side=2)] == ["finished"] * 4
    other.join()
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[4/4]")]
    assert told[0] == f"[4/4] waiting  {NAMES[3]}  another process trains it"
    assert len(told) == 2 and told[1].startswith(f"[4/4] finished {NAMES[3]}  ")


def test_a_run_whose_log_cannot_be_written_fails_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(finished / NAMES[0])
    (finished / NAMES[0]).mkdir()
    (finished / NAMES[0] / "log.txt").symlink_to(finished / "elsewhere")
    rows = sweep.run(sweep.make_plan(GRID[0], GRID[1:], out=finished), side_by_side=1)
    assert [row.state for row in rows] == ["failed", "finished", "finished", "finished"]
    failure = rows[0].failure
    assert failure is not None and failure.exit_code == 6 and "expected a plain file, found a link" in failure.reason
    assert not (finished / "elsewhere").exists()


def test_a_damaged_run_fails_alone(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_of(finished, NAMES[2]) / "checkpoints" / "3" / "agent.safetensors").write_bytes(b"x" * 568)
    no_children(monkeypatch)
    assert metarl("sweep", *GRID, "--out", finished) == 1
    output, errors = capsys.readouterr()
    assert "runs   4: 1 damaged, 3 finished" in errors and f"[3/4] failed   {NAMES[2]}  exit code 3" in errors
    assert output.splitlines()[-1].split()[:2] == [NAMES[2], "3"]
    assert metarl("sweep", *GRID, "--out", finished, "--print-commands") == 0
    assert capsys.readouterr().out.strip() == ""


def test_a_run_that_stops_at_its_time_limit_has_not_failed(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_of(finished, NAMES[0]) / "evaluations.jsonl").unlink()
    monkeypatch.setattr(sweep, "start_process", lambda arguments, log: subprocess.Popen(["true"]))
    assert metarl("sweep", *GRID, "--out", finished) == 0
    output, errors = capsys.readouterr()
    assert f"[1/4] stopped  {NAMES[0]}  at its time_limit_s" in errors
    assert output.splitlines()[1].split()[:4] == ["0.1", "1", "of", "2"]


def test_what_is_recorded_of_a_failure_may_be_anything(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"exit_code": "x", "reason": ""}', '{"reason": "y"}'):
        (tmp_path / jobs.FAILURE).write_text(text)
        assert jobs.read_failure(tmp_path) is None
    jobs.keep_failure(tmp_path, jobs.Failure(4, "it was NaN"))
    assert jobs.read_failure(tmp_path) == jobs.Failure(4, "it was NaN")
    jobs.keep_failure(tmp_path, None)
    assert jobs.read_failure(tmp_path) is None and list(tmp_path.iterdir()) == []


def start(out: Path) -> subprocess.Popen[str]:
    command = ["sweep", *GRID, "--jobs", "2", "--out", str(out)]
    return tiny_runs.start("-c", f"import os; os.setpgrp(); from metarl.cli import main; exit(main({command!r}))")


def in_the_middle(process: subprocess.Popen[str], out: Path, seconds: float = 250) -> list[psutil.Process]:
    """The processes of runs, as soon as one is in the middle of it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if any(checkpoint.complete(path) for path in out.glob("*/*/*/*/checkpoints")):
            return psutil.Process(process.pid).children()
        time.sleep(0.005)
    raise AssertionError(f"expected a run within {seconds} s")


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["the sweep", "a run", "Ctrl-C"])
def test_stopped_anywhere_the_same_command_goes_on(killed: str, printed: Path, tmp_path: Path) -> None:
    process = start(tmp_path)
    children = in_the_middle(process, tmp_path)
    family = [*tiny_runs.family(process), *children]
    if killed == "a run":
        children[0].kill()
    elif killed == "the sweep":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == {"the sweep": -9, "a run": 1, "Ctrl-C": 130}[killed], errors
    assert tiny_runs.all_gone(family, seconds=60) and "Traceback" not in errors
    if killed == "a run":
        assert "signal 9" in errors and "1 of 4 runs failed; the same command tries again" in errors
    assert metarl("sweep", *GRID, "--jobs", "1", "--out", tmp_path) == 0
    for name in NAMES:
        run, *torn = sorted(
            (tmp_path / name).glob("*/*"), key=lambda run: not checkpoint.complete(run_dir.checkpoints(run))
        )
        assert not any(checkpoint.complete(run_dir.checkpoints(other)) for other in torn)
        assert run_dir.digest(run) == run_dir.digest(run_of(printed, name))


@pytest.mark.slow
def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    long = [word for word in GRID if not word.startswith("iterations")]
    command = ["sweep", *long, "iterations=100000", "--jobs", "2", "--out", str(tmp_path)]
    process = tiny_runs.start("-c", f"import os; os.setpgrp(); from metarl.cli import main; exit(main({command!r}))")
    family = in_the_middle(process, tmp_path)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped; the same command goes on" in errors
    assert tiny_runs.all_gone(family)


def test_an_error_in_the_sweep_itself_leaves_no_process(finished: Path) -> None:
    (run_of(finished, NAMES[0]) / "evaluations.jsonl").unlink()
    plan = sweep.make_plan(GRID[0], GRID[1:], out=finished)
    started: list[subprocess.Popen[bytes]] = []

    class Sleeps:
        def ready(self, job: jobs.Job) -> bool:
            return True

        def start(self, job: jobs.Job, place: int) -> subprocess.Popen[bytes]:
            if started:
                raise RuntimeError("a fault")
            started.append(subprocess.Popen(["sleep", "60"]))
            return started[0]

        def ended(self, job: jobs.Job, code: int, *, stopping: bool) -> None: ...
        def failed(self, job: jobs.Job, error: ConfigError) -> None: ...
        def elsewhere(self, job: jobs.Job) -> None: ...

    (run_of(finished, NAMES[1]) / "evaluations.jsonl").unlink()
    with pytest.raises(RuntimeError, match="a fault"):
        Launcher(plan.jobs[:2], finished, Sleeps(), side_by_side=2).run()  # type: ignore[arg-type]
    assert [process.poll() for process in started] == [-signal.SIGTERM]


def test_wandb_does_not_refuse_the_name_of_a_sweep_as_group() -> None:
    plan = plan_of("maml_trpo_point", "name=" + "n" * 40, "agent.hidden_sizes=[64,64]", "meta_batch_size=33")
    assert len(plan.name) <= 128 and wandb_sink.VARIABLES["group"] == "WANDB_RUN_GROUP"
