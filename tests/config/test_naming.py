"""What runs are called."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import short_chunks

from metarl.config import loading, lookup, naming
from metarl.errors import ConfigError
from metarl.run import runs


def test_a_run_is_called_after_what_the_command_line_changed() -> None:
    changes = {"agent.inner_lr": 0.05, "seed": 3, "wandb.mode": "disabled", "eval.every": None, "task.reveal": True}
    assert naming.suffix(changes) == "agent.inner_lr=0.05_task.reveal=true"
    assert naming.suffix(changes, "mine") == "mine_agent.inner_lr=0.05_task.reveal=true"
    assert naming.suffix({"seed": 1}) == naming.suffix({}) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {f"agent.some_longer_key_{n}": n for n in range(9)},
        {"agent.hidden_sizes": [64, 64]},
        {"task.lineage": "../../etc/passwd ; rm"},
        {"agent.name": "my.module:Ünicode"},
    ],
)
def test_a_suffix_is_short_and_can_name_a_folder(changes: dict[str, object]) -> None:
    """What has no room is told apart by a hash."""
    name = naming.suffix(changes)
    assert 1 <= len(name) <= 80 and re.fullmatch(r"[A-Za-z0-9._=-]+", name) and not name.startswith(".")
    other = {key: f"{value}x" if isinstance(value, str) else [value] for key, value in changes.items()}
    assert naming.suffix(other) != name


def test_a_run_is_filed_under_its_configuration_and_titled_after_what_it_trains() -> None:
    own = loading.load("maml_trpo_point", ["seed=3"])
    assert (own.name, own.title, own.suffix) == ("maml_trpo_point", "maml_trpo_point", "")
    other = loading.load("maml_trpo_point", ["agent.name=rl2_ppo"])
    assert (other.name, other.title, other.suffix) == ("maml_trpo_point", "rl2_ppo_point", "agent.name=rl2_ppo")


def test_a_pair_is_its_configuration_where_there_is_one() -> None:
    pair, known = loading.load_pair("point", "maml_trpo", ["seed=4"]), loading.load("maml_trpo_point", ["seed=4"])
    assert replace(pair, name=known.name) == known and pair.name == "point/maml_trpo"
    assert loading.load_pair("point", "maml_trpo", ["task.name=grid_navi"]).name == "grid_navi/maml_trpo"


def test_other_pairs_have_the_defaults_of_both_and_a_notice() -> None:
    pair = loading.load_pair("grid_navi", "reptile")
    assert (pair.name, pair.title) == ("grid_navi/reptile", "reptile_grid_navi")
    assert "untuned: there is no configuration for reptile on grid_navi" in pair.notices[0]
    with pytest.raises(ConfigError, match="did you mean reptile"):
        loading.load_pair("grid_navi", "reptil")


REQUIRED = {"ml1": ["task.env=reach-v3"], "ml25": ["task.drop_shared_class=true"]}  # what nobody can guess
FAMILIES = [name for name in lookup.available("envs") if name not in ("gymnasium_env", "ml_custom")]  # any task at all


@pytest.mark.parametrize("task", FAMILIES)
def test_every_pair_can_be_loaded(task: str) -> None:
    for agent in lookup.available("agents"):
        assert loading.load_pair(task, agent, REQUIRED.get(task, [])).config.task.name == task


@pytest.mark.parametrize(
    "task", [pytest.param(name, marks=() if name == "point" else pytest.mark.slow) for name in FAMILIES]
)
def test_every_pair_does_an_iteration(task: str, tmp_path: Path) -> None:
    small = ["iterations=1", "meta_batch_size=2", "rollouts_per_task=2", "eval.num_tasks=2", "eval.score_episodes=1"]
    small += ["sampler.workers=0", "wandb.mode=disabled", f"run_dir={tmp_path}", "task.horizon=6"]
    for agent in lookup.available("agents"):
        known = f"{agent}_{task}"
        chunks = short_chunks(known) if known in lookup.available("configs") else []
        loaded = loading.load_pair(task, agent, [*REQUIRED.get(task, []), *small, *chunks])
        assert (runs.train(loaded) / "checkpoints" / "1").is_dir()


@pytest.mark.parametrize(
    ("section", "shown"),
    [
        ({"name": "point", "horizon": 100}, "point"),
        ({"name": "gymnasium_env", "env_id": "Pendulum-v1"}, "gymnasium_env Pendulum-v1"),
        ({"name": "ml1", "env": "reach-v3"}, "ml1 reach-v3"),
        ({"name": "mine:Mine", "env": {"a": 1}}, "mine:Mine"),
    ],
)
def test_a_task_is_called_after_its_family_and_the_environment_within_it(section: dict[str, Any], shown: str) -> None:
    assert naming.task_in_words(section) == shown
