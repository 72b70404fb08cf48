"""Acting in NumPy equals acting in torch, and no row depends on the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metarl.nn.numpy_policy import mode_of
from metarl.nn.policies import MLPPolicy, make_policy
from metarl.spaces import Space, SpaceSpec
from metarl.types import PolicyInput

BOX = Space("box", 3, (-1.0,) * 3, (1.0,) * 3)
SEEN = Space("box", 5, (-np.inf,) * 5, (np.inf,) * 5)
ROWS = 7


def case(action: Space, activation: str, hidden: tuple[int, ...], normalize: bool) -> tuple[MLPPolicy, torch.Tensor]:
    policy = make_policy(SpaceSpec(SEEN, action), hidden, activation, 1e-6, normalize)  # type: ignore[arg-type]
    params = torch.from_numpy(np.random.default_rng(0).normal(size=(1, policy.num_parameters)).astype(np.float32))
    if normalize:
        policy.moments(params)[1].abs_().add_(0.1)
    return policy, params


@pytest.mark.parametrize("action", [BOX, Space("discrete", 4)], ids=["box", "discrete"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (6,), (64, 64)], ids=str)
@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalized"])
def test_it_is_the_mode_of_the_policy(action: Space, activation: str, hidden: tuple[int, ...], normalize: bool) -> None:
    policy, params = case(action, activation, hidden, normalize)
    obs = (5 * np.random.default_rng(1).normal(size=(ROWS, 5))).astype(np.float32)
    obs[0] = 1e6  # beyond what normalisation lets through
    none = torch.zeros(ROWS)
    step = PolicyInput(torch.from_numpy(obs), none, none, none, none, none)
    expected = policy.act(policy.unpack(params), step, None, None)[0].numpy()
    mode = mode_of(policy, params)
    assert mode is not None
    found = mode(obs)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    for row in range(ROWS):
        assert np.array_equal(mode(obs[row : row + 1])[0], found[row])


def test_a_policy_of_another_class_is_left_to_torch() -> None:
    class Own(MLPPolicy):
        """May act otherwise."""

    policy, params = case(BOX, "tanh", (6,), False)
    assert mode_of(Own(policy.mlp, policy.distribution), params) is None
