"""What a run's policy sees and does, apart from any environment: kept in every checkpoint, so that a trained agent can
be used where its task family is not installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metarl.errors import CheckpointError
from metarl.run.checkpoint import require_format
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import TaskDistribution
from metarl.tasks.wrappers import Wrappers

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Interface:
    """Between a policy and an environment of its task family."""

    spaces: SpaceSpec  # as the policy has them: with the task in the observation where it is revealed
    horizon: int  # steps after which an episode is truncated
    action_scale: float  # policy outputs in ±action_scale span the control range ``spaces.action``
    reveal: bool  # the observation ends with the task's numbers
    wrappers: Wrappers  # what stood around the environment

    @staticmethod
    def of(distribution: TaskDistribution) -> Interface:
        """That of a task family."""
        config = distribution.config
        return Interface(
            distribution.spaces, distribution.horizon, config.action_scale, config.reveal, distribution.wrappers
        )

    def state(self) -> dict[str, Any]:
        """Itself as JSON data."""
        return {
            "format_version": FORMAT_VERSION,
            "observation": _space_data(self.spaces.observation),
            "action": _space_data(self.spaces.action),
            "horizon": self.horizon,
            "action_scale": self.action_scale,
            "reveal": self.reveal,
            "wrappers": [[name, dict(arguments)] for name, arguments in self.wrappers.wrappers],
            "observation_keys": self.wrappers.observation_keys and list(self.wrappers.observation_keys),
        }

    @staticmethod
    def from_state(state: Mapping[str, Any], where: str) -> Interface:
        """The inverse of :meth:`state`; ``where`` it was found, for errors.

        Raises:
            CheckpointError: a newer format, or none at all.
        """
        if not isinstance(state, Mapping):
            raise CheckpointError(f"{where}: expected an interface, got {state!r:.60}")
        require_format(state.get("format_version"), FORMAT_VERSION, f"{where}, interface")
        try:
            keys = state["observation_keys"]
            return Interface(
                SpaceSpec(_space(state["observation"]), _space(state["action"])),
                _positive(state["horizon"]),
                float(state["action_scale"]),
                bool(state["reveal"]),
                Wrappers(
                    tuple((name, dict(arguments)) for name, arguments in state["wrappers"]),
                    None if keys is None else tuple(keys),
                ),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{where}: expected an interface, got {dict(state)!r:.200} ({error!r:.200})"
            ) from error


def _space_data(space: Space) -> dict[str, Any]:
    """JSON has no infinities: null stands for no bound."""
    return {"kind": space.kind, "size": space.size, "low": _bounds_data(space.low), "high": _bounds_data(space.high)}


def _bounds_data(bounds: Sequence[float]) -> list[float | None]:
    return [bound if math.isfinite(bound) else None for bound in bounds]


def _space(data: Mapping[str, Any]) -> Space:
    low, high = (
        tuple(none if bound is None else float(bound) for bound in data[side])
        for side, none in (("low", -math.inf), ("high", math.inf))
    )
    kind, size = data["kind"], _positive(data["size"])
    if kind not in ("box", "discrete"):
        raise ValueError(f"expected a box or a discrete space, got {kind!r:.60}")
    if not {len(low), len(high)} <= {0, size}:
        raise ValueError(f"expected {size} bounds, or none, got {len(low)} and {len(high)}")
    return Space(kind, size, low, high)


def _positive(value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"expected a whole number > 0, got {value!r:.60}")
    return value
