"""Uniformly random actions: their distribution, by numbers worked out by hand, and a run of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import torch

from metarl.agents.uniform import UniformPolicy
from metarl.spaces import Space
from metarl.types import PolicyInput


def act(action: Space, noise: list[list[float]] | None) -> Any:
    rows = 1 if noise is None else len(noise)
    step = PolicyInput(torch.zeros(rows, 3), torch.zeros(rows), *[torch.zeros(rows)] * 4)
    return UniformPolicy(action).act(torch.zeros(1, 1), step, None, None if noise is None else torch.tensor(noise))


def test_actions_span_the_control_range() -> None:
    box = Space("box", 2, (-1.0, -3.0), (1.0, 3.0))  # policies act in ±1, whatever it stands for
    drawn, outputs, _ = act(box, [[0.0, 0.5], [0.75, 1.0]])
    assert drawn.tolist() == [[-1.0, 0.0], [0.5, 1.0]]
    assert act(box, None)[0].tolist() == [[0.0, 0.0]]
    density = UniformPolicy(box).log_prob(torch.zeros(1, 1), outputs[None], drawn[None])
    assert density.numpy() == pytest.approx(np.log([[0.25, 0.25]]))


def test_every_choice_has_its_share() -> None:
    choices = Space("discrete", 4)
    drawn, outputs, _ = act(choices, [[0.0], [0.24], [0.25], [0.99]])
    assert drawn.tolist() == [0, 0, 1, 3]
    assert UniformPolicy(choices).log_prob(torch.zeros(1, 1), outputs[None], drawn[None])[0, 0] == -np.log(4.0).astype(
        "f"
    )


def test_a_run_tells_what_chance_is_paid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bernoulli arms: the mean of a task's probabilities, and adaptation changes nothing."""
    words = ["iterations=1", "meta_batch_size=1", "rollouts_per_task=1", "eval.num_tasks=400", "eval.adapt_steps=1"]
    words += ["eval.adapt_episodes=1", "eval.score_episodes=20", "sampler.workers=0", "wandb.mode=disabled"]
    assert tiny_runs.metarl("train", "bernoulli_bandit", "uniform", *words, f"run_dir={tmp_path}") == 0
    (run,) = tmp_path.glob("*/*/*")
    (line,) = map(json.loads, (run / "evaluations.jsonl").read_text().splitlines())
    expected = np.mean([task["p"] for task in line["tasks"]])
    assert line["mean"] == pytest.approx([expected, expected], abs=4 * np.sqrt(0.25 / (400 * 20)))
    capsys.readouterr()
    assert tiny_runs.metarl("evaluate", run, "eval.deterministic=true") == 2
    assert "eval.deterministic = true: expected false with agent.name = uniform" in capsys.readouterr().err
    assert tiny_runs.metarl("train", "point", "uniform", "task.action_scale=10") == 2
    assert "task.action_scale = 10.0: expected 1 with agent.name = uniform" in capsys.readouterr().err
