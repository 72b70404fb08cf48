"""A family whose observations leave the bounds that it declares, as Gymnasium's own LunarLander does."""

from __future__ import annotations

from probe_envs import ProbeConfig, ProbeDistribution

from metarl.spaces import Space, SpaceSpec


class BoundedDist(ProbeDistribution):
    """The probe family, bounded: its first number is the task, 0 to 11."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__(config)
        size = self.spaces.observation.size
        infinite = (float("inf"),) * (size - 1)
        bounds = Space("box", size, (0.0, *(-bound for bound in infinite)), (0.5, *infinite))
        self.spaces = SpaceSpec(bounds, self.spaces.action)
