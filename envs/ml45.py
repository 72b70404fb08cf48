"""Meta-World ML45: 45 classes of manipulation task to train on, five others to adapt to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from metarl.config.schema import Lineage
from metarl.tasks import Split

from ._meta_world import MetaWorldConfig, MetaWorldDistribution, metaworldplus2025
from ._meta_world_tasks import ML45_TEST, ML45_TRAIN


class ML45Config(MetaWorldConfig):
    """Keys of ML45."""

    lineages: ClassVar[Mapping[str, Lineage]] = metaworldplus2025(num_test_goals=45)


class ML45Distribution(MetaWorldDistribution):
    """The goals of ``metaworld.ML45(seed=goals_seed)``."""

    config_class = ML45Config
    official_goals = 9

    def classes(self, split: Split) -> Sequence[str]:
        return ML45_TRAIN if split == "train" else ML45_TEST
