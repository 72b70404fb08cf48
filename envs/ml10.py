"""Meta-World ML10: ten classes of manipulation task to train on, five others to adapt to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from metarl.config.schema import Lineage
from metarl.tasks import Split

from ._meta_world import MetaWorldConfig, MetaWorldDistribution, metaworldplus2025
from ._meta_world_tasks import ML10_TEST, ML10_TRAIN


class ML10Config(MetaWorldConfig):
    """Keys of ML10."""

    lineages: ClassVar[Mapping[str, Lineage]] = metaworldplus2025(num_test_goals=40)


class ML10Distribution(MetaWorldDistribution):
    """The goals of ``metaworld.ML10(seed=goals_seed)``."""

    config_class = ML10Config
    official_goals = 4

    def classes(self, split: Split) -> Sequence[str]:
        return ML10_TRAIN if split == "train" else ML10_TEST
