"""`metarl check-env` passes every shipped family, and fails families that break one promise each, saying which."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import broken_envs
import faulty_envs
import numpy as np
import pytest
from broken_envs import Walk, WalkConfig

from metarl import cli
from metarl.config import lookup
from metarl.config.schema import Lineage
from metarl.errors import ConfigError, WorkerError
from metarl.spaces import Space
from metarl.tasks import families
from metarl.tasks.checks import check_env, watchdog
from metarl.tasks.checks.env_probe import Plan, Played, difference, make_plan, play, random_actions
from metarl.tasks.checks.leakage import held_out_r2

NEEDED = {  # by families without defaults for every key
    "gymnasium_env": [
        "task.env_id=CartPole-v1",
        "task.horizon=50",
        "task.parameters.length={range: [0.25, 1.5], set: [{attribute: length}]}",
    ],
    "ml1": ["task.env=push-v3"],
    "ml25": ["task.drop_shared_class=true"],
    "ml_custom": ["task.train_envs=[reach-v3, push-v3]", "task.test_envs=[door-open-v3]"],
}
SLOW = ("ml1", "ml10", "ml25", "ml45")  # seconds to build; ml_custom has the same code


def failed(distribution, seed: int = 0) -> dict[str, str]:
    """Failed check → its reason."""
    results = check_env.check_family(distribution, seed)
    return {result.name: result.detail for result in results if result.result == "failed"}


def broken(name: str):
    family = getattr(broken_envs, name)
    return family(family.config_class(name=name))


# --- shipped families


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in lookup.available("envs")],
)
def test_every_shipped_family_passes(name):
    results = check_env.check_family(families.build(name, NEEDED.get(name, [])))
    assert {result.name: result.detail for result in results if result.result == "failed"} == {}
    not_judged = {result.name for result in results if result.result == "not judged"}
    assert not_judged <= {"effect"}  # a sparse reward may show no task to a few random steps


@pytest.mark.slow
def test_what_meta_worlds_observation_shows_is_found_among_its_39_numbers(monkeypatch):
    """Once the object, which is seen, were it hidden; once the goal, were it not zeroed."""
    distribution = families.build("ml1", ["task.env=push-v3"])
    with monkeypatch.context() as patch:
        patch.setattr(type(distribution), "hidden_part", lambda self, task: {"rand_vec": task["rand_vec"]})
        assert failed(distribution).keys() == {"leakage"}
    env_class = type(distribution.make_vector(1))
    observe = env_class._observe

    def with_goal(self):
        goals = np.array([task["rand_vec"][3:] for task in self._tasks])
        return np.concatenate([observe(self)[:, :36], goals], axis=1)

    monkeypatch.setattr(env_class, "_observe", with_goal)
    assert failed(distribution).keys() == {"leakage"}


# --- broken families: which checks fail, and what the reason says

BROKEN = {
    "Leaking": ("leakage", "the reset's observation tells the task: it predicts goal of unseen tasks with R² = 1.000"),
    "BentLeak": ("leakage", "it predicts the square of goal of unseen tasks"),
    "LateLeak": ("leakage", "the observation after one step tells the task: it predicts goal"),
    "TwoLeakingTasks": ("leakage", "the reset's observation tells the task: it predicts goal"),
    "LeakingClass": ("leakage", "it predicts goal of unseen tasks with R² = 1.000"),
    "UndeclaredOpenPart": ("leakage", "it predicts slope of unseen tasks with R² = 1.000"),
    "Drifting": ("stationarity", "the task drifts: with seeds and actions of the trial's episode 1 there was reward"),
    "Unseeded": ("seeding", "equal tasks, seeds and actions gave observation"),
    "UnseededTasks": ("splits", "equal generators draw different train tasks"),
    "Leftover": ("reset", "after other tasks, the same episodes gave reward"),
    "Coupled": ("lanes", "lanes are coupled: beside others there was reward"),
    "RudeReset": ("reset mask", "reset_mask for lane 0 before step 4 disturbed others: observation"),
    "Unpicklable": ("rebuild", "the distribution cannot be sent to a worker process"),
    "NaNReward": ("finite", "reward nan at step"),
    "HugeReward": ("finite", "e+299, more than float32 can hold, at step 1 of episode 1, lane 0, split train"),
    "NaNObservation": ("finite", "observation nan at step"),
    "TerminatedAtHorizon": ("flags", "(3 and 5 and 6 were tried) is terminated as well as truncated"),
    "DoneTwice": ("flags", "is truncated as well, before the horizon of 6"),
    "OnlyDone": ("flags", "an episode that reached the horizon of 3 is terminated, but not truncated"),
    "Short": ("horizon", "an episode was truncated at step 2, before the horizon of 3"),
    "Long": ("horizon", "an episode still runs after step 3, the horizon"),
    "Autoreset": ("ended lanes", "it runs again without a reset"),
    "PaidAfterEnd": ("ended lanes", "it had the reward -1.0 instead of 0"),
    "OutOfBounds": ("bounds", "outside [-1.0, 1.0], at step"),
    "AnnouncedAutoreset": ("spaces", "autoreset_mode"),
    "NumpyTasks": ("json", "a train task is not JSON: Object of type float32"),
    "TupleTasks": ("json", "a train task is another one after JSON"),
    "SharedTasks": ("splits", "1 of 2 test tasks are training tasks"),
    "WrongSize": ("splits", "split train has size 3, but 3 draws gave 2 tasks"),
    "BlankReveal": ("reveal", "different tasks are all appended as [0.0]"),
    "Undescribed": ("config", "keys without a description: speed"),
    "BadLineage": ("config", "lineage nobody1999 pins what the config refuses: horizon"),
    "ColumnReward": ("interface", "reward: expected floats of shape (4,), got float64 of (4, 1)"),
    "Dividing": ("interface", "raised ZeroDivisionError: no step (broken_envs.py:"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_fault_fails_one_check_with_its_reason(name):
    check, reason = BROKEN[name]
    found = failed(broken(name))
    assert found.keys() == {check}
    assert reason in found[check]


@pytest.mark.parametrize("name", ["Walk", "TwoTasks", "DeclaredOpenPart", "Classes"])
@pytest.mark.parametrize("seed", range(3))
def test_sound_families_pass(name, seed):
    assert {result.result for result in check_env.check_family(broken(name), seed)} == {"passed"}


def test_a_generator_of_the_environments_own_is_found_although_new_environments_agree():
    assert failed(broken("OwnGenerator")).keys() == {"reset", "lanes", "stationarity"}


def test_what_is_neither_in_config_nor_in_task_is_lost_in_a_worker():
    assert "something is neither in config nor in task" in failed(broken("OutsideConfig"))["rebuild"]


def test_checks_that_need_another_are_not_judged_without_it():
    results = {result.name: result for result in check_env.check_family(broken("Unseeded"))}
    assert results["seeding"].result == "failed"
    assert (results["stationarity"].result, results["stationarity"].detail) == ("not judged", "needs: seeding")
    assert results["reset mask"].detail == "needs: lanes"
    assert results["horizon"].result == "passed"


def test_tasks_that_change_nothing_are_pointed_out():
    results = {result.name: result for result in check_env.check_family(broken("Discarding"))}
    assert results["effect"].result == "not judged"
    assert results["effect"].detail == "no difference between 32 tasks in 3 × 6 random steps"


def test_what_is_too_long_to_be_seen_is_not_judged():
    results = {result.name: result for result in check_env.check_family(broken("FixedHorizon"))}
    assert [results[name].result for name in ("horizon", "flags", "ended lanes")] == ["not judged"] * 3
    assert results["flags"].detail == "the horizon is fixed above 2000 steps"
    assert "failed" not in {result.result for result in results.values()}


def test_an_error_in_the_middle_of_an_episode_is_a_failure_like_others(capsys):
    assert cli.main(["check-env", "broken_envs:LateError"]) == 5
    out, err = capsys.readouterr()
    assert "error: seeding: raised ZeroDivisionError: no sixth step (broken_envs.py:" in err
    assert "lane-steps/s" not in out


def test_a_bandit_may_terminate_at_its_horizon():
    distribution = families.build("bernoulli_bandit", ["task.horizon=4"])
    ends = play(distribution.make_vector(4), make_plan(distribution, np.random.default_rng(0)))
    assert ends.terminated[:, -1].all() and ends.truncated[:, -1].all()
    assert failed(distribution) == {}


def test_equal_seeds_give_equal_results():
    assert check_env.check_family(broken("Walk"), 3) == check_env.check_family(broken("Walk"), 3)


# --- the parts


def test_prediction_of_copies_mixtures_and_noise():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 30))
    targets = np.stack(
        [
            3 - inputs[:, 7],  # a copy
            inputs[:, :4].sum(axis=1) / 2,  # a mixture: single inputs have R² = 1/4
            inputs[:, 3] + rng.normal(size=200),  # half signal, half noise: R² = 1/2
            rng.normal(size=200),  # nothing
        ],
        axis=1,
    )
    copy, mixture, half, nothing = held_out_r2(inputs, targets)
    assert copy == pytest.approx(1.0)
    assert mixture > 0.95
    assert 0.35 < half < 0.65
    assert nothing < 0.15
    bent = held_out_r2(inputs[:, :1], np.cos(2 * inputs[:, :1]))
    assert bent[0] > 0.95  # the correlation with the input is 0
    assert held_out_r2(np.ones((200, 3)), targets).tolist() == [0, 0, 0, 0]


def played(reward: list[float]) -> Played:
    steps = len(reward)
    flags = np.zeros((1, steps, 1), np.bool_)
    rewards = np.array(reward, dtype=np.float64).reshape(1, steps, 1)
    return Played(np.zeros((1, steps + 1, 1, 2)), rewards, flags, flags, flags)


def test_the_first_difference_is_named():
    assert difference(played([1, 2]), played([1, 2])) == ""
    assert difference(played([1, np.nan]), played([1, np.nan])) == ""
    assert difference(played([1, 2]), played([1, 2.5])) == "reward 2.5 instead of 2.0 in episode 1, step 2, lane 0"
    assert difference(played([1, 2]), played([1, np.nan])).startswith("reward nan instead of 2.0")
    assert difference(played([1, 2]), played([1, 2, 3])) == "observation of shape (1, 4, 1, 2) instead of (1, 3, 1, 2)"


def test_a_plan_is_played_as_it_says():
    distribution = broken("Walk")
    actions = np.array([[[0.4]], [[-9.0]]])[None].repeat(2, axis=0)  # two episodes of two steps in one lane
    plan = Plan([{"goal": 0.25}], np.array([[3], [3]]), actions)
    got = play(distribution.make_vector(1), plan)
    start = np.random.default_rng(3).uniform(-1, 1)
    np.testing.assert_allclose(got.obs[1, :, 0, 0], [start, start + 0.2, start - 0.3])  # ±1 spans ±0.5, and clips
    np.testing.assert_allclose(got.reward[1, :, 0], [-abs(start - 0.05), -abs(start - 0.55)])
    assert difference(got.episode(0), got.episode(1)) == ""


def test_random_actions_go_beyond_the_scale():
    distribution = Walk(WalkConfig(name="walk", action_scale=10.0))
    actions = random_actions(distribution, np.random.default_rng(0), 50, 4)
    assert actions.shape == (50, 4, 1) and 10 < np.abs(actions).max() <= 11


def test_spaces_in_words():
    assert families.describe_space(Space("box", 2, (-1.0, -1.0), (1.0, 1.0))) == "2 in [-1, 1]"
    assert families.describe_space(Space("box", 17, (-np.inf,) * 17, (np.inf,) * 17)) == "17"
    assert families.describe_space(Space("discrete", 5)) == "5 choices"


# --- families by name


def test_overrides_and_lineages_make_the_config():
    config = families.build("half_cheetah_vel", ["task.lineage=promp2018", "task.horizon=7"]).config
    assert (config.horizon, config.action_scale, config.velocity_range) == (7, 10.0, (0.0, 3.0))
    assert families.build("broken_envs:Walk", allow=["broken_envs:Walk"]).config == WalkConfig(name="broken_envs:Walk")


@pytest.mark.parametrize(
    ("name", "overrides", "start"),
    [
        ("pointt", [], "'pointt': no such task: did you mean point"),
        ("point", ["horizon=3"], "horizon cannot change in `metarl check-env`; what can: task.*"),
        ("point", ["task.horizn=3"], "unknown key task.horizn = 3: did you mean task.horizon?"),
        ("point", ["task.horizon=0"], "task.horizon = 0: expected an integer > 0"),
        ("point", ["task.name=grid_navi"], 'task.name = "grid_navi": the family is point, given by name'),
        ("point", ["task.lineage=finn2018"], 'task.lineage = "finn2018": did you mean finn2017?'),
        ("ml1", [], "missing key task.env: expected"),
        ("broken_envs:Walk", [], "'broken_envs:Walk': a class from outside metarl is only imported if"),
        ("broken_envs:WalkEnv", [], "'broken_envs:WalkEnv': a class from outside"),
    ],
)
def test_a_family_that_cannot_be_configured_is_a_config_error(name, overrides, start):
    with pytest.raises(ConfigError) as caught:
        families.build(name, overrides)
    assert str(caught.value).startswith(start)


def test_the_overview_has_a_row_for_every_family():
    rows = {row["name"]: row for row in families.overview()}
    assert list(rows) == lookup.available("envs")
    assert not [row for row in rows.values() if "problem" in row]
    point = {key: value for key, value in rows["point"].items() if key not in ("lineages", "summary")}
    assert point == {
        "name": "point",
        "needs": [],
        "horizon": 100,
        "observation": "2",
        "action": "2 in [-0.1, 0.1]",
        "train": None,
        "test": None,
    }
    assert rows["point"]["lineages"]["finn2017"]["pins"] == {"horizon": 100, "action_scale": 1.0}
    assert rows["half_cheetah_dir"]["train"] == 2
    assert {name for name, row in rows.items() if row["needs"]} == set(NEEDED) & set(rows)


def test_a_broken_family_does_not_hide_the_others(monkeypatch):
    family = lookup.task_distribution("point")
    monkeypatch.setattr(family, "size", lambda self, split: 1 / 0)
    rows = {row["name"]: row for row in families.overview()}
    assert rows["point"]["problem"] == "division by zero"
    assert "horizon" in rows["grid_navi"]


# --- the commands


def test_a_sound_family_exits_0_with_a_table(capsys):
    assert cli.main(["check-env", "point", "task.horizon=20"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[0].split() == ["check", "result", "found"]
    assert "lane-steps/s" in lines[-1]
    for line, check in zip(lines[1:-1], check_env.CHECKS, strict=True):
        assert line.startswith(check.name) and line.removeprefix(check.name).split()[0] == "passed"


def test_json_has_config_checks_and_speed(capsys):
    assert cli.main(["check-env", "point", "task.lineage=finn2017", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"]["lineage"] == "finn2017" and found["passed"] is True
    assert {check["result"] for check in found["checks"]} == {"passed"}
    assert found["speed"]["lanes"] == 20 and found["speed"]["lane_steps_per_s"] > 0 and found["speed"]["reset_ms"] > 0


@pytest.mark.parametrize("extra", [[], ["--json"], ["--allow", "broken_envs:Leaking"]])
def test_a_failing_check_exits_5_and_is_named(extra, capsys):
    assert cli.main(["check-env", "broken_envs:Leaking", *extra]) == 5
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0] == f"error: 1 of {len(check_env.CHECKS)} checks of broken_envs:Leaking failed"
    assert lines[1].startswith("error: leakage: the reset's observation tells the task") and len(lines) == 2
    if "--json" in extra:
        assert json.loads(out)["passed"] is False
    else:
        assert "leakage       failed  the reset's" in out


def test_every_failed_check_is_named(capsys):
    assert cli.main(["check-env", "broken_envs:OwnGenerator"]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines[1:]] == ["reset", "lanes", "stationarity"]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("NoEnvironment", "NoEnvironment.make_vector failed: OSError: no such model (broken_envs.py:"),
        ("NoDistribution", "building NoDistribution failed: KeyError: 'goals' (broken_envs.py:"),
    ],
)
def test_an_environment_that_cannot_be_made_exits_5(name, start, capsys):
    assert cli.main(["check-env", f"broken_envs:{name}"]) == 5
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {start}")


def test_a_module_that_raises_on_import_exits_5(tmp_path, monkeypatch, capsys):
    (tmp_path / "raising_envs.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["check-env", "raising_envs:Walk"]) == 5
    assert (
        capsys.readouterr().err
        == "error: importing raising_envs:Walk failed: RuntimeError: no licence (raising_envs.py:1)\n"
    )


def test_a_class_that_is_no_task_family_exits_2(capsys):
    assert cli.main(["check-env", "broken_envs:WalkEnv"]) == 2
    assert "expected a concrete TaskDistribution with a config_class" in capsys.readouterr().err


def test_list_tasks_shows_families_without_the_physics_engine():
    code = (
        "import sys; from metarl.cli import main; code = main(['list', 'tasks']); "
        "print(*{'torch', 'mujoco', 'metaworld'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    paths = [str(Path(check_env.__file__).parents[3]), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path += {paths!r}; {code}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["name", "horizon", "observation", "action", "train", "test", "lineages", "needs"]
    assert "half_cheetah_dir" in done.stdout and "2 in [-0.1, 0.1]" in done.stdout and "finn2017" in done.stdout


def test_list_json_says_what_lineages_pin(capsys):
    assert cli.main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"tasks", "agents", "configs"}
    point = next(row for row in found["tasks"] if row["name"] == "point")
    assert Lineage(**point["lineages"]["finn2017"]).pins["horizon"] == 100
    assert {"name", "summary"} == set(found["agents"][0]) == set(found["configs"][0])


def test_a_terminal_gets_a_drawn_table(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["list", "tasks"]) == 0
    assert "┏" in capsys.readouterr().out


def test_no_environment_is_a_worker_error():
    with pytest.raises(WorkerError, match="no such model"):
        check_env.check_family(broken("NoEnvironment"))


# Environments that hang, end the program, print, or hold something


def test_an_environment_that_hangs_is_a_failure_that_names_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGALRM)
    monkeypatch.setattr(watchdog, "LIMIT_S", 0.5)
    assert cli.main(["check-env", "faulty_envs:HangsFamily", "task.horizon=5"]) == 5
    output = capsys.readouterr()
    assert f"interface: hangs: no answer within 0.5 s, at {faulty_envs.__file__}:" in output.err
    assert output.out.count("an environment hung before") == 14
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL)[1] == 0


def test_an_environment_that_ends_the_program_fails_its_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-env", "faulty_envs:ExitsFamily", "task.horizon=5"]) == 5
    said = capsys.readouterr().err
    assert re.search(
        r"interface: .* raised SystemExit: 0 \(.*\) at step 1 of .*, in lane 0 .* \(faulty_envs.py:\d+\)", said
    )


def test_every_environment_of_a_check_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faulty_envs.LOG, str(tmp_path / "log"))
    assert cli.main(["check-env", "faulty_envs:ResourceFamily", "task.horizon=5"]) == 0
    opened, closed = faulty_envs.opened_and_closed(tmp_path / "log")
    assert len(opened) > 50 and opened == closed


def test_what_an_environment_prints_does_not_come_between_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-env", "faulty_envs:PrintsFamily", "task.horizon=5", "--json"]) == 0
    output = capfd.readouterr()
    assert json.loads(output.out)["passed"]
    assert "hello from Python" in output.err and "hello from C" in output.err
