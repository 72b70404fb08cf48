"""A key that is said to have no effect has none: two values of it give one digest."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_runs

from metarl.config import loading
from metarl.run import run_dir, runs

pytestmark = pytest.mark.mistakes

MEMORY = {key: value for key, value in tiny_runs.TINY.items() if key.partition(".")[0] not in ("agent", "task")}
MEMORY |= {"agent.memory_size": "4", "agent.episodes_per_trial": "2", "iterations": "2"}
GRADIENT = {**tiny_runs.TINY, "iterations": "2"}


@pytest.mark.parametrize(
    ("name", "common", "key", "values"),
    [
        ("maml_trpo_point", {}, "agent.outer_phases", ("last", "all")),
        ("maml_trpo_point", {"eval.adapt_steps": "1"}, "agent.later_step_lr_scale", ("0.1", "1.0")),
        ("promp_point", {"agent.epochs": "1"}, "agent.clip", ("0.01", "0.9")),
        ("reptile_point", {"agent.inner": "vpg"}, "agent.inner_epochs", ("1", "7")),
        ("reptile_point", {"agent.inner": "vpg"}, "agent.inner_clip", ("0.01", "0.9")),
        ("reptile_point", {"agent.inner": "ppo", "agent.inner_epochs": "1"}, "agent.inner_clip", ("0.01", "0.9")),
        ("rl2_ppo_bernoulli_bandit", {"agent.critic": "linear"}, "agent.value_coef", ("0.1", "9.0")),
        ("rl2_ppo_bernoulli_bandit", {"agent.memory": "lstm"}, "agent.memory_context", ("3", "300")),
        ("rl2_ppo_bernoulli_bandit", {}, "agent.activation", ("tanh", "relu")),
        ("rl2_ppo_bernoulli_bandit", {}, "agent.init_std", ("0.5", "5.0")),
        ("rl2_ppo_bernoulli_bandit", {}, "learner.tasks_per_chunk", ("1", "5")),
        ("rl2_ppo_bernoulli_bandit", {}, "eval.adapt_steps", ("0", "3")),
        ("maml_trpo_point", {}, "eval.restored_episodes", ("1", "5")),
    ],
)
def test_two_values_give_one_digest(
    name: str, common: dict[str, str], key: str, values: tuple[str, str], tmp_path: Path
) -> None:
    digests, said = set(), []
    for number, value in enumerate(values):
        sizes = {**(MEMORY if name.startswith("rl2") else GRADIENT), **common, key: value}
        if name.startswith("reptile"):
            sizes = {other: size for other, size in sizes.items() if other != "agent.num_adapt_steps"}
        loaded = loading.load(name, tiny_runs.overrides(tmp_path / str(number), size=sizes))
        said.append([notice for notice in loaded.notices if notice.startswith(f"{key} has no effect: ")])
        run = runs.train(loaded)
        digests.add((run_dir.digest(run), (run / "evaluations.jsonl").read_text(encoding="utf-8")))
    assert len(digests) == 1
    assert [len(lines) for lines in said] == [1, 1]
