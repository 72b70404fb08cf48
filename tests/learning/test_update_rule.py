"""The learned rule: it reads an episode from its end, and sees what it is to see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.learning.update_rule import Targets, UpdateRule, divergence, entropy, from_the_end

RULE, GAMMA = UpdateRule(size=5, predictions=3), 0.9
LENGTHS = torch.tensor([[4, 2], [1, 3]])  # of two lifetimes' two episodes
STEPS = 4
ETA = RULE.initial(np.random.default_rng(0)).double()


def inputs(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    valid = torch.arange(STEPS) < LENGTHS[..., None]
    return {
        "reward": torch.from_numpy(rng.normal(size=(2, 2, STEPS))) * valid,
        "terminated": torch.zeros(2, 2, STEPS, dtype=torch.bool),
        "valid": valid,
        "gamma": GAMMA,
        "chosen": torch.from_numpy(rng.uniform(0.1, 0.9, (2, 2, STEPS))),
        "y": torch.from_numpy(rng.normal(size=(2, 2, STEPS + 1, 3))).softmax(-1),
    }


def naive(eta: Tensor, given: dict[str, Any], task: int, lane: int) -> list[tuple[Tensor, Tensor]]:
    """(π̂, ŷ) of an episode's steps, by torch's own GRU cell, one step at a time from the last one."""
    parts, start = {}, 0
    for name, shape in RULE.shapes().items():
        parts[name] = eta[start : start + math.prod(shape)].view(shape)
        start += math.prod(shape)
    cell = torch.nn.GRUCell(6, 5, dtype=torch.float64)
    for ours, theirs in (("weight_ih", cell.weight_ih), ("weight_hh", cell.weight_hh)):
        theirs.data = parts[f"gru.layer0.{ours}"].mT
    cell.bias_ih.data, cell.bias_hh.data = parts["gru.layer0.bias_ih"], parts["gru.layer0.bias_hh"]

    def embedded(y: Tensor) -> Tensor:
        hidden = torch.relu(y @ parts["embedding0.weight"] + parts["embedding0.bias"])
        return (hidden @ parts["embedding1.weight"] + parts["embedding1.bias"])[0]

    h, said = torch.zeros(1, 5, dtype=torch.float64), []
    for t in reversed(range(int(LENGTHS[task, lane]))):
        reward, chosen, y = (given[name][task, lane] for name in ("reward", "chosen", "y"))
        ended = bool(given["terminated"][task, lane, t])
        after = torch.zeros((), dtype=torch.float64) if ended else embedded(y[t + 1])
        signals = [reward[t], torch.tensor(float(ended)), torch.tensor(GAMMA), chosen[t], embedded(y[t]), after]
        h = cell(torch.stack([signal.double() for signal in signals])[None], h)
        read = torch.relu(h[0])
        policy = (read @ parts["policy.weight"] + parts["policy.bias"])[0]
        said.append((policy, (read @ parts["prediction.weight"] + parts["prediction.bias"]).softmax(-1)))
    return said[::-1]


def said(given: dict[str, Any]) -> Targets:
    return RULE(ETA, **given)


@pytest.mark.parametrize("ended", [False, True])
def test_it_is_a_gru_from_the_end_to_the_start(ended: bool) -> None:
    given = inputs()
    if ended:
        given["terminated"] = torch.arange(STEPS) == LENGTHS[..., None] - 1
    ours = said(given)
    assert ours.prediction is not None
    for task in range(2):
        for lane in range(2):
            for t, (policy, prediction) in enumerate(naive(ETA, given, task, lane)):
                torch.testing.assert_close(ours.policy[task, lane, t], policy)
                torch.testing.assert_close(ours.prediction[task, lane, t].exp(), prediction)


def test_a_step_depends_on_what_came_after_it_and_not_on_what_came_before() -> None:
    given = inputs()
    before = said(given)
    given["reward"] = given["reward"].clone()
    given["reward"][0, 0, 2] += 1.0
    changed = (said(given).policy != before.policy)[0, 0]
    assert changed.tolist() == [True, True, True, False]
    assert torch.equal(said(given).policy[1], before.policy[1])


def test_what_lies_behind_an_episode_changes_nothing() -> None:
    given = inputs()
    before = said(given)
    for name in ("reward", "chosen"):
        given[name] = torch.where(given["valid"], given[name], 7.0)
    y = given["y"].clone()
    y[0, 1, 3:] = y[0, 1, 3:].flip(-1)  # two steps: states 0, 1 and 2 count
    given["y"] = y
    assert torch.equal(said(given).policy[given["valid"]], before.policy[given["valid"]])


def test_reading_from_the_end_is_its_own_inverse() -> None:
    valid = torch.tensor([[True, True, True, False], [False] * 4])
    assert from_the_end(valid).tolist() == [[2, 1, 0, 3], [0, 1, 2, 3]]


def test_entropy_and_divergence_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert float(entropy(p)) == pytest.approx(math.log(2))
    assert float(divergence(p, q)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
