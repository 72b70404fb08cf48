"""Meta-World ML25: 25 classes of manipulation task to train on, five to adapt to, one of which is in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from metarl.config.schema import Lineage
from metarl.tasks import Split

from ._meta_world import MetaWorldConfig, MetaWorldDistribution, metaworldplus2025
from ._meta_world_tasks import ML25_TEST, ML25_TRAIN


class ML25Config(MetaWorldConfig):
    """Keys of ML25."""

    lineages: ClassVar[Mapping[str, Lineage]] = metaworldplus2025(
        num_test_goals=40,
        differs="it has no ML25 script, 40 test goals and four at a time are Meta-World's defaults; "
        "drop_shared_class = false is Meta-World's; ",
    )

    drop_shared_class: bool = Field(
        description="Meta-World tests basketball-v3, on other goals, although it trains it: "
        "true leaves it out of the test classes, false keeps it as published"
    )


class ML25Distribution(MetaWorldDistribution):
    """The goals of ``metaworld.ML25(seed=goals_seed)``."""

    config_class = ML25Config
    config: ML25Config

    def __init__(self, config: ML25Config) -> None:
        super().__init__(config)
        if not config.drop_shared_class:  # Meta-World's evaluation has all five classes
            self.official_goals = 4

    def classes(self, split: Split) -> Sequence[str]:
        dropped = set(ML25_TRAIN) & set(ML25_TEST) if self.config.drop_shared_class else set()
        return ML25_TRAIN if split == "train" else [name for name in ML25_TEST if name not in dropped]

    def drawn_classes(self, split: Split) -> Sequence[str]:
        return ML25_TRAIN if split == "train" else ML25_TEST
