"""docs/own_robot.md is true: its commands run as documented, its code is the example's, the arm moves as in MuJoCo."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from metarl import cli

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "own_robot.md").read_text(encoding="utf-8")
SMALL = ["meta_batch_size=2", "rollouts_per_task=3", "task.horizon=5", "sampler.workers=1"]
SMALL_RUN = [*SMALL, "iterations=2", "wandb.mode=disabled", "eval.num_tasks=2", "eval.adapt_episodes=2"]


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("arm")


def make(arm: Any, *tasks: dict[str, Any], **keys: Any) -> Any:
    env = arm.ArmDistribution(arm.ArmConfig(name="arm:ArmDistribution", **keys)).make_vector(len(tasks))
    env.set_tasks(list(tasks))
    return env


def documented(name: str, *more: str) -> subprocess.CompletedProcess[str]:
    """The page's command of that name, with more overrides, in a process of its own as a shell would run it."""
    (line,) = re.findall(rf"```bash\n(.*metarl {name} .*)\n```", PAGE)
    variable, program, *arguments = shlex.split(line)
    assert (variable, program) == ("PYTHONPATH=docs/examples", "metarl")
    return subprocess.run(
        [sys.executable, "-c", "from metarl.cli import main; raise SystemExit(main())", *arguments, *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "docs/examples"},
        capture_output=True,
        text=True,
    )


@pytest.mark.pages
def test_the_documented_command_trains_and_evaluates(tmp_path: Path) -> None:
    done = documented("train", *SMALL_RUN, f"run_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((Path(done.stdout.splitlines()[-1]) / "evaluations.jsonl").read_text().splitlines()[-1])
    assert evaluation["steps"] == [0, 1, 2]


@pytest.mark.slow
def test_the_documented_benchmark_compares_with_bare_physics() -> None:
    done = documented("bench", *SMALL)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["config"] == "arm:ArmDistribution" and result["raw_steps_per_s"] > 0


def test_nothing_of_the_example_runs_without_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", str(EXAMPLES / "maml_trpo_arm.yaml"), f"run_dir={tmp_path}"]) == 2
    assert "--allow arm:ArmDistribution" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_pages_code_is_the_examples() -> None:
    source = (EXAMPLES / "arm.py").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert block in source


def test_the_methods_named_on_the_page_exist(arm: Any) -> None:
    for name in re.findall(r"^\| `(_\w+)\(", PAGE, flags=re.MULTILINE):
        assert callable(getattr(arm.ArmEnv, name))


def test_reward_by_hand(arm: Any) -> None:
    """Stretched along x the hand is at (0.4, 0): 0.3 from (0.4, 0.3), 0.5 from (0, 0.3). Controls cost 0.01 Σ u²."""
    env = make(arm, {"goal": [0.4, 0.3], "load": 0.1}, {"goal": [0.0, 0.3], "load": 0.1})
    env.reset(seed=[1, 2])
    env.qpos[:], env.qvel[:] = 0.0, 0.0
    np.testing.assert_allclose(env.step(np.zeros((2, 2)))[1], [-0.3, -0.5], atol=1e-9)
    env.qpos[:], env.qvel[:] = 0.0, 0.0
    assert env.step(np.array([[0.5, -2.0], [0.0, 0.0]]))[1][0] == pytest.approx(-0.3 - 0.01 * 1.25, abs=2e-3)


def test_the_load_is_in_the_hand_and_lanes_move_as_in_plain_mujoco(arm: Any) -> None:
    loads = [0.05, 0.5]
    env = make(arm, *({"goal": [0.0, 0.2], "load": load} for load in loads))
    env.reset(seed=[3, 3])
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    (qpos, _), (qvel, _) = env.start_states()
    path = []
    for action in actions:
        observation = env.step(np.array([action, action]))[0]
        path.append(np.concatenate([env.qpos, env.qvel, observation[:, 4:6]], axis=1))
    for lane, load in enumerate(loads):
        spec = mujoco.MjSpec.from_file(str(EXAMPLES / "arm.xml"))
        model = spec.compile()
        sphere = 500 * 4 / 3 * np.pi * 0.03**3
        assert env.models[lane].body("hand").mass[0] == pytest.approx(sphere + load)
        model.body("hand").mass[0] += load
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        for action, state in zip(actions, path, strict=True):
            data.ctrl[:] = action
            mujoco.mj_step(model, data, 4)
            assert np.array_equal(state[lane], [*data.qpos, *data.qvel, *data.body("hand").xpos[:2]])
    assert np.abs(path[-1][0] - path[-1][1]).max() > 0.01


def test_reveal_appends_goal_and_load_and_the_observation_has_the_announced_size(arm: Any) -> None:
    task = {"goal": [0.1, -0.2], "load": 0.3}
    obs = make(arm, task, reveal=True).reset(seed=[1])[0]
    assert obs.shape == (1, 9) and obs[0, 6:].tolist() == [0.1, -0.2, 0.3]
    assert make(arm, task).reset(seed=[1])[0].shape == (1, 6)


def test_tasks_fill_their_ranges(arm: Any) -> None:
    distribution = arm.ArmDistribution(arm.ArmConfig(name="arm:ArmDistribution", max_load=0.4))
    tasks = distribution.sample(1000, split="test", rng=np.random.default_rng(0))
    assert json.loads(json.dumps(tasks)) == tasks
    goals, loads = np.array([task["goal"] for task in tasks]), np.array([task["load"] for task in tasks])
    assert -0.25 <= goals.min() < -0.245 and 0.245 < goals.max() <= 0.25
    assert 0.05 <= loads.min() < 0.052 and 0.398 < loads.max() <= 0.4
