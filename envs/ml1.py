"""Meta-World ML1: one class of manipulation task, whose goal only the reward tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from metarl.config.schema import Lineage
from metarl.tasks import Split

from ._meta_world import MetaWorldConfig, MetaWorldDistribution, check_class, metaworldplus2025


class ML1Config(MetaWorldConfig):
    """Keys of ML1."""

    lineages: ClassVar[Mapping[str, Lineage]] = metaworldplus2025(
        num_test_goals=50,
        differs='it makes "Meta-World/ML1-train", for which Meta-World 3.0 to 3.1.1 give the test goals: its agents '
        "train on what they are tested on; ",
    )

    env: str = Field(description="the class, such as reach-v3")

    @field_validator("env")
    @classmethod
    def _known(cls, value: str) -> str:
        return check_class(value)


class ML1Distribution(MetaWorldDistribution):
    """The goals of ``metaworld.ML1(env, seed=goals_seed)``: 50 to train, 50 others, from the next seed, to test."""

    config_class = ML1Config
    official_goals = 10
    config: ML1Config

    def classes(self, split: Split) -> Sequence[str]:
        return (self.config.env,)

    def goals_seed(self, split: Split) -> int:
        return self.config.goals_seed + (1 if split == "test" else 0)
