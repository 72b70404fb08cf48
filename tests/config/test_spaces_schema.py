"""Spaces and configuration types: strict, immutable, complete."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from probe_envs import ProbeConfig, ProbeDistribution
from pydantic import ValidationError

from metarl.config import schema
from metarl.config.schema import AgentConfig, EvalConfig, Frozen, LearnerConfig, RunConfig, SamplerConfig, TaskConfig
from metarl.spaces import Space, SpaceSpec

SECTIONS = [
    value
    for value in vars(schema).values()
    if isinstance(value, type) and issubclass(value, Frozen) and value is not Frozen
]
SMALLEST: dict[str, Any] = {"iterations": 1, "meta_batch_size": 2, "rollouts_per_task": 3}


def run_config(**kwargs: Any) -> RunConfig:
    return RunConfig(**{**SMALLEST, "task": ProbeConfig(), "agent": AgentConfig(name="none"), **kwargs})


def test_spaces_are_values() -> None:
    """Equal by content, hashable, immutable: they travel to workers and compare across processes."""
    space = Space("box", 2, (-1.0, -1.0), (1.0, 1.0))
    assert space == Space("box", 2, (-1.0, -1.0), (1.0, 1.0)) != Space("box", 2, (-1.0, -1.0), (1.0, 2.0))
    assert hash(SpaceSpec(space, space)) == hash(SpaceSpec(space, space))
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.size = 3  # type: ignore[misc]


def test_a_family_describes_its_spaces() -> None:
    box, discrete = (ProbeDistribution(ProbeConfig(action=kind, reveal=True)).spaces for kind in ("box", "discrete"))
    assert box.action == Space("box", 1, (-1.0,), (1.0,))
    assert discrete.action == Space("discrete", 3)
    assert box.observation.size == len(box.observation.low) == len(box.observation.high) == 5  # with the task


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_every_section_is_described(section: type[Frozen]) -> None:
    for name, field in section.model_fields.items():
        assert field.description or field.annotation in SECTIONS, f"{section.__name__}.{name}"


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_refuse_unknown_keys_and_changes(section: type[Frozen]) -> None:
    assert section.model_config["extra"] == "forbid"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        section(nonsense=1)
    made = section.model_construct()
    with pytest.raises(ValidationError, match="Instance is frozen"):
        setattr(made, next(iter(section.model_fields)), 1)


def test_what_is_not_given_has_the_documented_defaults() -> None:
    config = run_config()
    assert config.model_dump(exclude={"task", "agent"}) == {
        **SMALLEST,
        "seed": 0,
        "env_steps": None,
        "device": "auto",
        "time_limit_s": None,
        "run_dir": "runs",
        "name": None,
        "init_from": None,
        "sampler": {
            "executor": "processes",
            "workers": "auto",
            "ray_address": None,
            "tasks_per_unit": "auto",
            "unit_timeout_s": 300.0,
            "unit_retries": 1,
            "worker_restarts": 10,
            "rank_timeout_s": 1800.0,
            "max_diverged": 0.01,
        },
        "learner": {
            **{"threads": "auto", "shares": "auto", "tasks_per_chunk": "auto"},
            **{"tf32": False, "deterministic": False},
        },
        "eval": {
            "every": 10,
            "num_tasks": 40,
            "adapt_steps": 3,
            "score_every": 1,
            "adapt_episodes": 20,
            "adapt_env_steps": None,
            "score_episodes": 20,
            "restored_episodes": 3,
            "deterministic": False,
        },
        "checkpoint": {"every": 10, "keep": 3},
        "tensorboard": False,
        "wandb": {
            **{"mode": "auto", "project": "metarl", "entity": None, "group": None, "tags": []},
            **{"job_type": "train", "checkpoint": False},
        },
    }


def test_a_familys_own_keys_survive_in_the_run() -> None:
    """``task`` is declared as the base class; what it holds is the family's."""
    config = run_config(task=ProbeConfig(ends="random"))
    assert isinstance(config.task, ProbeConfig)
    assert config.task.ends == "random"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 2**32),
        ("seed", 1.0),
        ("seed", True),
        ("iterations", 0),
        ("iterations", "10"),
        ("meta_batch_size", 0),
        ("rollouts_per_task", 2.5),
        ("time_limit_s", 0.0),
        ("time_limit_s", math.inf),
        ("device", "tpu"),
        ("run_dir", ""),
    ],
)
def test_a_run_refuses(key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        run_config(**{key: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {key}


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (SamplerConfig, {"workers": -1}),
        (SamplerConfig, {"workers": "many"}),
        (SamplerConfig, {"executor": "fork"}),
        (SamplerConfig, {"tasks_per_unit": 0}),
        (SamplerConfig, {"unit_timeout_s": math.nan}),
        (SamplerConfig, {"unit_retries": -1}),
        (LearnerConfig, {"threads": 0}),
        (LearnerConfig, {"tasks_per_chunk": "all"}),
        (EvalConfig, {"every": 0}),
        (EvalConfig, {"adapt_steps": -1}),
        (EvalConfig, {"score_episodes": 0}),
        (EvalConfig, {"deterministic": "yes"}),
        (TaskConfig, {"name": "x", "horizon": 0}),
        (TaskConfig, {"name": "x", "horizon": 5, "action_scale": 0.0}),
        (TaskConfig, {"name": "x", "horizon": 5, "action_scale": math.inf}),
        (TaskConfig, {"name": "x", "horizon": 5, "reveal": 1}),
    ],
)
def test_a_section_refuses(section: type[Frozen], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section(**values)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (SamplerConfig, {"workers": 0}),
        (SamplerConfig, {"workers": 64}),
        (LearnerConfig, {"threads": 1, "tasks_per_chunk": 8}),
        (EvalConfig, {"every": None, "adapt_steps": 0}),
        (TaskConfig, {"name": "x", "horizon": 1, "action_scale": 10}),
    ],
)
def test_a_section_takes(section: type[Frozen], values: dict[str, Any]) -> None:
    made = section(**values)
    assert {key: getattr(made, key) for key in values} == values


def test_the_largest_seed_is_good() -> None:
    assert run_config(seed=2**32 - 1).seed == 2**32 - 1
