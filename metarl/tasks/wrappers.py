"""What stands around a Gymnasium environment: wrappers, and the choice of what is shown of dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from metarl.errors import ConfigError, nearest
from metarl.faults import PASSES
from metarl.tasks.loop_env import Env, not_numbers
from metarl.tasks.vector_env import Floats

_STATISTICS = "its running statistics outlive an episode, so results would depend on which worker ran which lane"
_FUNCTION = "it takes a function, which a configuration cannot hold"
_LIFETIME = "lanes are reset by metarl, never by themselves"
REFUSED_WRAPPERS = {
    "NormalizeObservation": _STATISTICS,
    "NormalizeReward": _STATISTICS,
    "TransformObservation": _FUNCTION,
    "TransformAction": _FUNCTION,
    "TransformReward": _FUNCTION,
    "Autoreset": _LIFETIME,
    "RecordVideo": "it writes files",
    "HumanRendering": "it opens a window",
}
WRAPPERS = sorted(set(gymnasium.wrappers.__all__) - {"vector"} - set(REFUSED_WRAPPERS))


def refusal(name: str) -> str | None:
    """Why a wrapper cannot be used; None: it can. Names come from configurations and checkpoints of others, too."""
    if name in REFUSED_WRAPPERS:
        return f"cannot be used here: {REFUSED_WRAPPERS[name]}"
    if name not in WRAPPERS:
        return f"no such wrapper: {nearest(name, WRAPPERS)}gymnasium.wrappers has {', '.join(WRAPPERS)}"
    return None


class Wrappers(NamedTuple):
    """Wrappers of ``gymnasium.wrappers`` as (name, keyword arguments), the innermost first, and then the entries of
    dictionary observations that are shown, flattened, in this order; None: observations are no dictionary."""

    wrappers: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    observation_keys: tuple[str, ...] | None = None

    def around(self, env: Env) -> Env:
        """``env`` in all of them. Lists among the arguments become tuples.

        Raises:
            ConfigError: a wrapper that cannot be used or does not go around it, or keys that do not go with its
                observations.
        """
        for name, arguments in self.wrappers:
            why_not = refusal(name)
            if why_not is not None:
                raise ConfigError(f"the wrapper {name}: {why_not}")
            given = {key: _tuples(value) for key, value in arguments.items()}
            try:
                env = getattr(gymnasium.wrappers, name)(env, **given)
            except PASSES:
                raise
            except BaseException as error:
                text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise ConfigError(
                    f"the wrapper {name} cannot be put around an environment with observations "
                    f"{env.observation_space} and actions {env.action_space} ({text})"
                    f"{_advice(env.observation_space, 'leave it out and ')}"
                ) from error
        space = env.observation_space
        if self.observation_keys is not None:
            return ChosenObservations(env, self.observation_keys)
        if isinstance(space, Dict):
            raise ConfigError(f"observations are a dictionary of {', '.join(space.spaces)}{_advice(space)}")
        return env


class ChosenObservations(gymnasium.ObservationWrapper[Floats, Any, Any]):
    """Some entries of dictionary observations as one vector: flattened, one behind the other in the order of ``keys``.

    Raises:
        ConfigError: observations are no dictionary, an entry does not exist, is named twice, or is no numbers.
    """

    def __init__(self, env: Env, keys: Sequence[str]) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, Dict):
            raise ConfigError(f"observation_keys = {list(keys)}: expected a dictionary of observations, got {space}")
        if len(set(keys)) < len(keys):
            raise ConfigError(f"observation_keys = {list(keys)}: expected each entry once")
        known = list(space.spaces)
        for key in keys:
            if key not in known:
                raise ConfigError(f"observation_keys: no entry {key}: {nearest(key, known)}one of {', '.join(known)}")
            if key in not_numbers(space):
                raise ConfigError(f"observation_keys: {key} is no numbers but {space[key]}: leave it out")
        self._entries = {key: space[key] for key in keys}
        boxes = [gymnasium.spaces.flatten_space(entry) for entry in self._entries.values()]
        low, high = (np.concatenate([getattr(box, side) for box in boxes]).astype(float) for side in ("low", "high"))
        self.observation_space = Box(low, high, dtype=np.float64)

    def observation(self, observation: Mapping[str, Any]) -> Floats:
        """See ``gymnasium.ObservationWrapper``."""
        parts = [gymnasium.spaces.flatten(entry, observation[key]) for key, entry in self._entries.items()]
        return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def _advice(space: gymnasium.Space[Any], before: str = "") -> str:
    """How to show a policy the entries of a dictionary that are numbers; nothing for other spaces."""
    if not isinstance(space, Dict):
        return ""
    numbers = [key for key in space.spaces if key not in not_numbers(space)]
    return f": {before}name the entries to be shown, such as task.observation_keys=[{', '.join(numbers)}]"


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
