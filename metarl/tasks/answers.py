"""What a ``gymnasium.Env`` answers, compared with what it declared: nothing is broadcast, cut off or guessed.

Safe casts are taken: lists, numbers of any precision, NumPy's own scalars. Whether numbers are finite or within their
bounds is not looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from metarl.errors import EnvError
from metarl.tasks.vector_env import FLAGS, NUMBERS, Floats

RESET = "(observation, info)"
STEP = "(observation, reward, terminated, truncated, info)"
OLD_GYM = "; Gym before 0.26 answered so: its done is terminated, and truncated says that a time limit was reached"


class StepAnswer(NamedTuple):
    """What ``step`` returned; the observation as a vector."""

    observation: Floats
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


def read_reset(space: gymnasium.Space[Any], answer: Any) -> Floats:
    """The observation in what ``reset`` returned, as a vector. ``space`` is the observation space.

    Raises:
        EnvError: it is no pair, or the observation does not belong to its space.
    """
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
        hint = "; Gym before 0.26 returned the observation alone" if not isinstance(answer, tuple) else ""
        raise EnvError(f"expected reset to return {RESET}, got {_describe(answer)}{hint}")
    return flat(space, answer[0])


def read_step(space: gymnasium.Space[Any], answer: Any) -> StepAnswer:
    """What ``step`` returned. ``space`` is the observation space.

    Raises:
        EnvError: these are not five values, or one is not of its kind.
    """
    if not (isinstance(answer, tuple) and len(answer) == 5):
        old = isinstance(answer, tuple) and len(answer) == 4
        raise EnvError(f"expected step to return {STEP}, got {_describe(answer)}{OLD_GYM if old else ''}")
    observation, reward, terminated, truncated, info = answer
    if type(info) is not dict and not isinstance(info, Mapping):  # the first is quicker
        raise EnvError(f"expected step to return an info that maps names to values, got {_describe(info)}")
    return StepAnswer(
        flat(space, observation), _number(reward), _flag("terminated", terminated), _flag("truncated", truncated), info
    )


def flat(space: gymnasium.Space[Any], observation: Any) -> Floats:
    """An observation as a vector: a Box's numbers row by row, or a Discrete one as one-hot.

    Raises:
        EnvError: it has another shape or kind than its space, or is no state of it.
    """
    shape = space.shape or ()
    array = observation if type(observation) is np.ndarray else _array(f"observations of {space}", observation)
    if array.shape != shape or array.dtype.kind not in NUMBERS:
        raise EnvError(f"expected observations of shape {shape}, as {space} declares, got {_describe(observation)}")
    if isinstance(space, Discrete):
        one_hot = np.zeros(int(space.n))
        one_hot[_state(space, array)] = 1.0
        return one_hot
    return np.asarray(array, dtype=np.float64).reshape(-1)


def _state(space: Discrete[Any], observation: Any) -> int:
    """The place of a state, counted from 0."""
    place = float(observation) - int(space.start)
    if not (0 <= place < space.n and place.is_integer()):
        first, last = int(space.start), int(space.start) + int(space.n) - 1
        raise EnvError(f"expected a state from {first} to {last}, as {space} declares, got {observation}")
    return int(place)


def _array(what: str, value: Any) -> NDArray[Any]:
    """An array of what is none yet, such as a list.

    Raises:
        EnvError: it can be none, such as lists of unequal lengths; or some of its numbers are masked.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise EnvError(f"expected {what}, got {_describe(value)} ({error})") from None
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise EnvError(f"expected {what}, got masked numbers: fill them with what the policy is to see")
    return array


def read_success(info: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether one of the ``keys`` in a step's info says that it succeeded; False where none is there.

    Raises:
        EnvError: what is there is neither True nor False, 0 or 1.
    """
    succeeded = False
    for key in keys:
        if key in info:
            value = info[key]
            if value is True or value is False:
                succeeded |= value
                continue
            array = np.asarray(value)
            if array.shape != () or array.dtype.kind not in NUMBERS or array not in (0, 1):
                raise EnvError(f"expected info[{key!r}] to be True or False, got {_describe(value)}")
            succeeded |= bool(array)
    return succeeded


def _number(reward: Any) -> float:
    if isinstance(reward, float):  # NumPy's double precision, too
        return float(reward)
    array = _array("a reward", reward) if np.isscalar(reward) or isinstance(reward, np.ndarray) else None
    if array is None or array.shape != () or array.dtype.kind not in NUMBERS:
        raise EnvError(f"expected a reward that is one number, got {_describe(reward)}")
    return float(array)


def _flag(name: str, flag: Any) -> bool:
    if flag is True or flag is False:
        return bool(flag)
    if isinstance(flag, np.bool_):
        return bool(flag)
    if isinstance(flag, np.ndarray) and flag.shape == () and flag.dtype.kind in FLAGS:
        return bool(flag)
    raise EnvError(f"expected {name} to be True or False, got {_describe(flag)}")


def _describe(value: Any) -> str:
    """A value that was not expected, in a few words."""
    if isinstance(value, np.ndarray) and value.shape:
        return f"an array of {value.dtype} of shape {value.shape}"
    if isinstance(value, tuple):
        return f"{len(value)} values: ({', '.join(type(item).__name__ for item in value)})"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:59] + '…'}"
