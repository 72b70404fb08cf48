"""What the numpy-batched classics have in common; the definition of each one is tested in a file of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import ROOT, evaluations, lines, metarl, train

from metarl.config import lookup
from metarl.tasks import TaskDistribution, VectorTaskEnv

FAMILIES = ["bernoulli_bandit", "tabular_mdp", "grid_navi", "point_semicircle"]
REVEALED = {"bernoulli_bandit": 5, "tabular_mdp": 10 * 5 * 10 + 10 * 5, "grid_navi": 2, "point_semicircle": 2}


def family(name: str, **config: Any) -> TaskDistribution:
    cls = lookup.task_distribution(name)
    return cls(cls.config_class(name=name, **config))


def actions(distribution: TaskDistribution, steps: int, lanes: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    action = distribution.spaces.action
    return (
        rng.integers(action.size, size=(steps, lanes))
        if action.kind == "discrete"
        else rng.normal(size=(steps, lanes, 2))
    )


def record(env: VectorTaskEnv, chosen: np.ndarray, seeds: list[int], *, again: int | None = None) -> list[list[Any]]:
    """Observations, rewards, flags and success per step; lane ``again`` starts anew after three steps."""
    rows = [[env.reset(seed=seeds)[0]]]
    for step, action in enumerate(chosen, start=1):
        *row, info = env.step(action)
        if step == 3 and again is not None:
            mask = np.arange(env.num_envs) == again
            row[0], _ = env.reset(seed=[99] * env.num_envs, options={"reset_mask": mask})
        rows.append([*row, *info.values()])
    return rows


@pytest.mark.parametrize("name", FAMILIES)
def test_a_lane_has_the_same_bits_in_any_company(name: str) -> None:
    distribution = family(name, horizon=6)
    tasks = distribution.sample(5, split="train", rng=np.random.default_rng(0))
    chosen, seeds = actions(distribution, 8, 5), [7, 8, 9, 10, 11]
    together = distribution.make_vector(5)
    together.set_tasks(tasks)
    rows = record(together, chosen, seeds, again=2)
    for lane in (0, 1, 3, 4):
        alone = distribution.make_vector(1)
        alone.set_tasks(tasks[lane : lane + 1])
        for ours, theirs in zip(rows, record(alone, chosen[:, lane : lane + 1], seeds[lane : lane + 1]), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert np.array_equal(a[lane], b[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_environments_work_from_tasks_that_went_through_json(name: str) -> None:
    distribution = family(name)
    tasks = distribution.sample(3, split="test", rng=np.random.default_rng(1))
    copies = json.loads(json.dumps(tasks))
    assert copies == tasks == distribution.sample(3, split="test", rng=np.random.default_rng(1))
    assert tasks != distribution.sample(3, split="test", rng=np.random.default_rng(2))
    chosen = actions(distribution, 3, 3)
    found = []
    for given in (tasks, copies):
        env = distribution.make_vector(3)
        env.set_tasks(given)
        found.append(record(env, chosen, [1, 2, 3]))
    for ours, theirs in zip(*found, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_reveal_appends_the_tasks_numbers(name: str) -> None:
    hidden, revealed = family(name), family(name, reveal=True)
    tasks = hidden.sample(3, split="train", rng=np.random.default_rng(2))
    numbers = [np.concatenate([np.ravel(value) for value in task.values()]) for task in tasks]
    assert len(numbers[0]) == REVEALED[name]
    assert revealed.spaces.observation.size == hidden.spaces.observation.size + REVEALED[name]
    rows = []
    for distribution in (hidden, revealed):
        env = distribution.make_vector(3)
        env.set_tasks(tasks)
        rows.append(record(env, actions(hidden, 6, 3), [1, 2, 3]))
        assert all(row[0] in env.observation_space for row in rows[-1])
    for without, with_task in zip(*rows, strict=True):
        assert np.array_equal(with_task[0], np.concatenate([without[0], numbers], axis=1))


def test_nothing_of_it_imports_mujoco_or_torch() -> None:
    code = f"""
import sys
sys.path.append({str(ROOT)!r})
import numpy as np
from metarl.config import lookup
for name in {FAMILIES}:
    cls = lookup.task_distribution(name)
    distribution = cls(cls.config_class(name=name))
    env = distribution.make_vector(2)
    env.set_tasks(distribution.sample(2, split="train", rng=np.random.default_rng(0)))
    env.reset(seed=[0, 1])
    env.step(env.action_space.sample())
print(*sorted({{"mujoco", "metaworld", "torch"}} & sys.modules.keys()), "nothing else")
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["nothing", "else"]
    assert shown.stderr == ""


@pytest.mark.parametrize("name", FAMILIES)
def test_maml_trpo_trains_on_it(name: str, tmp_path: Path) -> None:
    run = train(tmp_path, "iterations=2", name=f"maml_trpo_{name}")
    metrics = lines(run / "metrics.jsonl")
    assert [line["env_steps"] for line in metrics] == [300, 600]  # 5 tasks × 2 phases × 3 episodes × 10 steps
    assert all(np.isfinite(line["train/return/1"]) for line in metrics)
    assert metrics[0]["loss/meta_gradient_norm"] > 0 or name == "point_semicircle"  # where 30 steps find no reward
    assert np.isfinite(evaluations(run)[-1]["mean"]).all()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("bernoulli_bandit", "num_arms=1"),
        ("bernoulli_bandit", "action_scale=2.0"),
        ("tabular_mdp", "num_states=0"),
        ("tabular_mdp", "num_actions=1"),
        ("grid_navi", "num_cells=2"),
        ("grid_navi", "observation=pixels"),
        ("point_semicircle", "goal_radius=0"),
        ("point_semicircle", "goals=everywhere"),
        ("point_semicircle", "reward=1"),
    ],
)
def test_a_bad_key_is_reported_before_anything_starts(
    name: str, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert metarl("train", f"maml_trpo_{name}", f"task.{wrong}", f"run_dir={runs}") == 2
    assert f"task.{wrong.partition('=')[0]}" in capsys.readouterr().err
    assert not runs.exists()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_page_has_every_key_and_lineage(name: str) -> None:
    page = (ROOT / "docs" / "classics.md").read_text(encoding="utf-8")
    config_class = lookup.task_distribution(name).config_class
    shared = {"name", "lineage", "reveal"}
    for word in {name, *config_class.lineages, *(config_class.model_fields.keys() - shared)}:
        assert f"`{word}`" in page
    for lineage in config_class.lineages.values():
        config_class.model_validate_json(json.dumps({"name": name, **lineage.pins}))
