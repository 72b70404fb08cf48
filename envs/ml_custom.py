"""Meta-World with training and test classes of one's own choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from metarl.tasks import Split

from ._meta_world import MetaWorldConfig, MetaWorldDistribution, check_class

ClassName = Annotated[str, AfterValidator(check_class)]


class MLCustomConfig(MetaWorldConfig):
    """Keys of a custom split."""

    train_envs: list[ClassName] = Field(min_length=1, description="training classes, such as [reach-v3, push-v3]")
    test_envs: list[ClassName] = Field(min_length=1, description="test classes, none of them among train_envs")

    @field_validator("train_envs", "test_envs")
    @classmethod
    def _named_once(cls, value: list[str]) -> list[str]:
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"expected each class once, got {', '.join(twice)} more often")
        return value

    @field_validator("test_envs")
    @classmethod
    def _held_out(cls, value: list[str], info: ValidationInfo) -> list[str]:
        shared = [name for name in value if name in info.data.get("train_envs", ())]
        if shared:
            raise ValueError(f"expected classes that are not trained on, but {', '.join(shared)} is in train_envs too")
        return value


class MLCustomDistribution(MetaWorldDistribution):
    """The goals of ``metaworld.CustomML(train_envs, test_envs, seed=goals_seed)``."""

    config_class = MLCustomConfig
    config: MLCustomConfig

    def classes(self, split: Split) -> Sequence[str]:
        return self.config.train_envs if split == "train" else self.config.test_envs
