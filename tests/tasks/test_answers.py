"""What a gymnasium.Env answers is compared with what it declared; safe casts are taken, nothing is guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from metarl.errors import EnvError
from metarl.tasks.answers import flat, read_reset, read_step, read_success

pytestmark = pytest.mark.mistakes

THREE = Box(-np.inf, np.inf, (3,), np.float64)
OBS = np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize("observation", [OBS, OBS.astype(np.float32), [1, 2, 3], (1.0, 2.0, 3.0), np.array([1, 2, 3])])
def test_safe_casts_of_an_observation_are_taken(observation: Any) -> None:
    seen = flat(THREE, observation)
    assert seen.dtype == np.float64
    assert seen.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (THREE, OBS[:1]),  # would be broadcast
        (THREE, OBS[:2]),
        (THREE, OBS[np.newaxis]),
        (THREE, 1.0),
        (THREE, None),
        (THREE, ["a", "b", "c"]),
        (THREE, [[1.0], [2.0, 3.0], []]),
        (THREE, {"position": OBS}),
        (Box(0, 255, (2, 3), np.uint8), np.zeros((3, 2), np.uint8)),  # as many numbers, in another order
        (Box(-1, 1, ()), np.zeros(1)),
        (THREE, np.ma.masked_array(OBS, [False, True, False])),  # its hidden number would be shown
        (THREE, torch.zeros(3, requires_grad=True)),
    ],
)
def test_an_observation_of_another_shape_or_kind_is_refused(space: Box[Any], observation: Any) -> None:
    with pytest.raises(EnvError, match=r"expected observations of .* got"):
        flat(space, observation)


def test_a_box_without_dimensions_is_one_number() -> None:
    assert flat(Box(-1, 1, ()), 0.5).tolist() == [0.5]


@pytest.mark.parametrize("state", [2, np.int64(2), np.array(2), 2.0])
def test_a_state_is_one_hot(state: Any) -> None:
    assert flat(Discrete(4, start=1), state).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("state", [0, 5, -1, 2.5, np.nan])
def test_a_state_outside_its_space_is_refused(state: Any) -> None:
    with pytest.raises(EnvError, match=r"expected a state from 1 to 4, as Discrete\(4, start=1\) declares, got"):
        flat(Discrete(4, start=1), state)


def test_a_state_as_a_vector_is_refused() -> None:
    with pytest.raises(EnvError, match="of shape \\(\\)"):
        flat(Discrete(4), np.array([2]))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (OBS, "Gym before 0.26"),
        ((OBS,), "1 values"),
        ((OBS, None), r"2 values: \(ndarray, NoneType\)"),
        ((1.0, 2.0), "2 values"),
        (None, "NoneType None"),
    ],
)
def test_a_reset_is_a_pair_of_observation_and_info(answer: Any, hint: str) -> None:
    with pytest.raises(EnvError, match=rf"expected reset to return \(observation, info\), got .*{hint}"):
        read_reset(THREE, answer)
    assert read_reset(THREE, (OBS, {})).tolist() == OBS.tolist()


@pytest.mark.parametrize("reward", [1, 1.0, np.float32(1), np.float64(1), np.array(1.0), True, np.int64(1)])
@pytest.mark.parametrize("flag", [True, np.bool_(True), np.array(True)])
def test_safe_casts_of_a_step_are_taken(reward: Any, flag: Any) -> None:
    answer = read_step(THREE, (OBS, reward, flag, False, {"success": 1.0}))
    assert type(answer.reward) is float
    assert (answer.reward, answer.terminated, answer.truncated) == (1.0, True, False)
    assert answer.info == {"success": 1.0}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((OBS, 0.0, False, {}), r"expected step to return .*, got 4 values: .* Gym before 0\.26"),
        ((OBS, 0.0, False, False, {}, 1), "got 6 values"),
        (None, "got NoneType None"),
        ([OBS, 0.0, False, False, {}], "expected step to return"),
        ((OBS, None, False, False, {}), "expected a reward that is one number, got NoneType None"),
        ((OBS, "1.0", False, False, {}), "expected a reward that is one number, got str '1.0'"),
        ((OBS, np.zeros(1), False, False, {}), r"one number, got an array of float64 of shape \(1,\)"),
        ((OBS, 1j, False, False, {}), "expected a reward that is one number"),
        ((OBS, [0.0], False, False, {}), "expected a reward that is one number"),
        ((OBS, 0.0, None, False, {}), "expected terminated to be True or False, got NoneType None"),
        ((OBS, 0.0, 1, False, {}), "expected terminated to be True or False, got int 1"),
        ((OBS, 0.0, False, {"distance": 1.0}, {}), "expected truncated to be True or False, got dict"),
        ((OBS, 0.0, False, np.array([True]), {}), "expected truncated to be True or False, got an array"),
        ((OBS, 0.0, False, False, None), "expected step to return an info that maps names to values"),
        ((OBS[:1], 0.0, False, False, {}), r"expected observations of shape \(3,\)"),
    ],
)
def test_a_step_that_is_none_is_refused(answer: Any, words: str) -> None:
    with pytest.raises(EnvError, match=words):
        read_step(THREE, answer)


@pytest.mark.parametrize("value", [True, np.bool_(True), 1, 1.0, np.float32(1), np.array(True)])
def test_success_is_a_flag_or_the_number_of_one(value: Any) -> None:
    assert read_success({"is_success": value}, ("success", "is_success"))
    assert not read_success({"is_success": 0 * value}, ("success", "is_success"))
    assert not read_success({"other": value}, ("success", "is_success"))


@pytest.mark.parametrize("value", [0.3, "False", np.nan, None, [True], np.array([1.0]), {}])
def test_a_success_that_is_no_flag_is_refused(value: Any) -> None:
    """A score of 0.3 or the text "False" would count as success."""
    with pytest.raises(EnvError, match=r"expected info\['success'\] to be True or False, got"):
        read_success({"success": value}, ("success", "is_success"))


def test_a_masked_reward_is_refused() -> None:
    with pytest.raises(EnvError, match="expected a reward, got masked numbers"):
        read_step(THREE, (OBS, np.ma.masked, False, False, {}))
