"""Policies: one row per lane, parameters per task, numbers against the naive policy."""

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from synthetic import naive_policy, random_params, small_policy, spaces

from metarl.nn.distributions import Categorical, DiagonalGaussian
from metarl.nn.policies import init_parameters, make_policy
from metarl.types import PolicyInput

KINDS = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
TASKS, LANES = 3, 4


def observe(obs: torch.Tensor) -> PolicyInput:
    """Rows [rows, obs] with everything else as at the start of a trial."""
    zeros = torch.zeros(len(obs))
    return PolicyInput(obs, torch.zeros(len(obs), 1), zeros, zeros, zeros, zeros + 1)


def rows(policy, seed=0):
    """Observations and noise of TASKS × LANES lanes, float64."""
    rng = np.random.default_rng(seed)
    noise = rng.normal if policy.noise_kind == "normal" else rng.random
    obs = rng.normal(size=(TASKS * LANES, policy.mlp.sizes[0]))
    return torch.from_numpy(obs), torch.from_numpy(noise(size=(TASKS * LANES, policy.noise_size)))


def act_in_another_process(policy, params, obs, noise):
    return policy.act(policy.unpack(params), observe(obs), None, noise)[0]


@KINDS
def test_lanes_use_the_parameters_of_their_own_task(kind):
    policy = small_policy(kind)
    params, (obs, noise) = random_params(policy, TASKS), rows(policy)
    action, outputs, state = policy.act(policy.unpack(params), observe(obs), policy.initial_state(len(obs)), noise)
    assert state is None and outputs.shape == (TASKS * LANES, policy.distribution.num_outputs)
    grouped = action.unflatten(0, (TASKS, LANES))
    outputs = outputs.unflatten(0, (TASKS, LANES))
    log_prob = policy.log_prob(policy.unpack(params), outputs, grouped)
    for task in range(TASKS):
        expected = naive_policy(policy, params[task], obs[task * LANES : (task + 1) * LANES])
        torch.testing.assert_close(log_prob[task], expected.log_prob(grouped[task]))
        if kind == "gaussian":
            own_noise = noise[task * LANES : (task + 1) * LANES]
            torch.testing.assert_close(grouped[task], expected.mean + expected.stddev * own_noise)
            torch.testing.assert_close(outputs[task], expected.mean)
        else:
            torch.testing.assert_close(outputs[task].softmax(-1), expected.probs)


@KINDS
def test_learning_sees_features_first_what_acting_saw_by_rows(kind):
    policy = small_policy(kind)
    params, (obs, _) = random_params(policy, TASKS), rows(policy)
    _, acted, _ = policy.act(policy.unpack(params), observe(obs), None, None)
    outputs, extra = policy.outputs(params, obs.view(TASKS, LANES, -1).mT)
    torch.testing.assert_close(outputs.mT, acted.view(TASKS, LANES, -1))
    assert torch.equal(extra, params[:, policy.mlp.num_parameters :])


@KINDS
def test_without_noise_the_policy_takes_its_mode(kind):
    policy = small_policy(kind)
    params, (obs, _) = random_params(policy, TASKS), rows(policy)
    action = policy.act(policy.unpack(params), observe(obs), None, None)[0].unflatten(0, (TASKS, LANES))
    for task in range(TASKS):
        expected = naive_policy(policy, params[task], obs[task * LANES : (task + 1) * LANES]).mode
        torch.testing.assert_close(action[task], expected)


@KINDS
def test_a_task_acts_alone_as_in_company(kind):
    policy = small_policy(kind, (64, 64))
    params, (obs, noise) = random_params(policy, TASKS, scale=0.2).float(), rows(policy)
    obs, noise = obs.float(), noise.float()
    together = policy.act(policy.unpack(params), observe(obs), None, noise)[0]
    alone = [
        policy.act(
            policy.unpack(params[i : i + 1]), observe(obs[i * LANES :][:LANES]), None, noise[i * LANES :][:LANES]
        )[0]
        for i in range(TASKS)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_a_policy_goes_to_another_process():
    policy = small_policy()
    params, (obs, noise) = random_params(policy, TASKS), rows(policy)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(act_in_another_process, policy, params, obs, noise).result()
    torch.testing.assert_close(there, act_in_another_process(policy, params, obs, noise))


def test_make_policy_fits_the_spaces():
    gaussian = make_policy(spaces("gaussian", obs=5, size=2), (8, 7), "relu", min_std=0.1)
    assert gaussian.mlp.sizes == (5, 8, 7, 2) and gaussian.mlp.activation == "relu"
    assert gaussian.distribution == DiagonalGaussian(2, math.log(0.1))
    assert gaussian.num_parameters == 5 * 8 + 8 + 8 * 7 + 7 + 7 * 2 + 2 + 2
    assert list(gaussian.shapes())[-2:] == ["layer2.bias", "log_std"] and gaussian.shapes()["log_std"] == (2,)
    categorical = make_policy(spaces("categorical", obs=5, size=4), (), "tanh", min_std=0.1)
    assert categorical.distribution == Categorical(4) and categorical.num_parameters == 5 * 4 + 4
    assert list(categorical.shapes()) == ["layer0.weight", "layer0.bias"]


def test_initial_parameters_are_glorot_uniform_with_zero_biases():
    policy = make_policy(spaces("gaussian", obs=30, size=10), (50,), "tanh", min_std=1e-6)
    flat = init_parameters(policy, 0.5, np.random.default_rng(3))
    assert flat.dtype == torch.float32 and flat.shape == (policy.num_parameters,)
    first, first_bias, second, second_bias, log_std = flat.split([30 * 50, 50, 50 * 10, 10, 10])
    for weight, fans in ((first, 30 + 50), (second, 50 + 10)):
        limit = math.sqrt(6 / fans)
        assert 0.98 * limit < float(weight.abs().max()) <= limit
        assert float(weight.std()) == pytest.approx(limit / math.sqrt(3), rel=0.06)  # 500 draws: 2 % standard error
        assert abs(float(weight.mean())) < 0.1 * limit
    assert not first_bias.any() and not second_bias.any()
    assert log_std.tolist() == pytest.approx([math.log(0.5)] * 10)
    assert torch.equal(flat, init_parameters(policy, 0.5, np.random.default_rng(3)))
    assert not torch.equal(flat, init_parameters(policy, 0.5, np.random.default_rng(4)))
