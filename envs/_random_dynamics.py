"""What the random-dynamics families share: tasks that scale a robot's mass, inertia, joint damping and friction.

The reference is ``RandomEnv`` of github.com/dennisl88/rand_param_envs (``rand_param_envs/base.py``), which Rothfuss et
al. 2019 (ProMP) and Rakelly et al. 2019 (PEARL) used with Walker2d and Hopper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field, PositiveFloat, model_validator

from metarl.config.schema import Lineage, TaskConfig
from metarl.spaces import SpaceSpec
from metarl.tasks import Floats, Split, Task
from metarl.tasks.mujoco_batch import MujocoBatchEnv

from ._locomotion import RobotDistribution

if TYPE_CHECKING:
    import mujoco

PARAMETERS = ("body_mass", "body_inertia", "dof_damping", "geom_friction")  # arrays of mujoco.MjModel
Base = Annotated[float, Field(gt=1)] | None


class ModelSizes(NamedTuple):
    """How many bodies (the world is the first), degrees of freedom and geoms (with the floor) a model has."""

    bodies: int
    dofs: int
    geoms: int


class RandomDynamicsConfig(TaskConfig):
    """Keys of every random-dynamics family: a factor is ``base ** uniform(-log_scale_limit, log_scale_limit)``."""

    log_scale_limit: PositiveFloat = Field(3.0, description="exponents are uniform in ±log_scale_limit")
    body_mass_base: Base = Field(
        1.5, description="base of the factors of the bodies' masses; null = masses do not vary"
    )
    body_inertia_base: Base = Field(
        1.5, description="base of the factors of the bodies' three principal moments; null = they do not vary"
    )
    dof_damping_base: Base = Field(1.3, description="base of the factors of the joints' damping; null = does not vary")
    geom_friction_base: Base = Field(
        1.5, description="base of the factors of the geoms' three friction coefficients; null = they do not vary"
    )

    @model_validator(mode="after")
    def _something_varies(self) -> RandomDynamicsConfig:
        if not self.bases():
            raise ValueError(f"expected a base for at least one of {', '.join(PARAMETERS)}, got null for all")
        return self

    def bases(self) -> dict[str, float]:
        """Parameter → base, for those that vary."""
        bases = {name: getattr(self, f"{name}_base") for name in PARAMETERS}
        return {name: base for name, base in bases.items() if base is not None}


def lineages(robot: str, frame_skip: int, **reward: Any) -> dict[str, Lineage]:
    """The published definitions of ``walker2d`` and ``hopper``; ``reward`` pins the robot's own keys."""
    pins = {
        "log_scale_limit": 3.0,
        "body_mass_base": 1.5,
        "body_inertia_base": 1.5,
        "dof_damping_base": 1.3,
        "geom_friction_base": 1.5,
        "horizon": 200,
        "frame_skip": frame_skip,
        "action_scale": 1.0,
        **reward,
    }
    differs = (
        "MuJoCo 1.31; there, the constants that MuJoCo derives from mass and inertia stay those of the unscaled robot, "
        "here they are refreshed (mj_setConst)"
    )
    return {
        "promp2018": Lineage(
            pins={**pins, "action_scale": 10.0},
            why=f"dennisl88/rand_param_envs: rand_param_envs/base.py, {robot}_rand_params.py; jonasrothfuss/ProMP: "
            "meta_policy_search/envs/normalized_env.py, experiments/all_envs_eval/trpo_run_all.py for the horizon",
            differs=differs,
        ),
        "pearl2019": Lineage(
            pins=pins,
            why="katerakelly/oyster: configs/{walker,hopper}_rand_params.json, configs/default.py, with the same "
            "dennisl88/rand_param_envs",
            differs=f"{differs}; 40 training and 10 test tasks are drawn once, here every task is a new one",
        ),
        "varibad2020": Lineage(
            pins={**pins, "frame_skip": 4},
            why="lmzintgraf/varibad: environments/mujoco/rand_param_envs/ (base.py has frame_skip 4 for every robot)",
            differs=f"{differs}; the cost is that of the control before MuJoCo clips it",
        ),
    }


class RandomDynamicsDistribution(RobotDistribution):
    """Factors for every entry of a robot's arrays, drawn anew for every task, the same distribution in both splits.

    A task has one list per parameter that varies, shaped as in ``mujoco.MjModel``: ``body_mass`` [bodies],
    ``body_inertia`` [bodies, 3], ``dof_damping`` [dofs], ``geom_friction`` [geoms, 3]. What is not in a task stays as
    it is. With ``reveal``, the natural logarithms of the factors follow the observation, in this order.

    A family derives from this class and, behind it, from its robot's distribution, and sets ``model_sizes``.
    """

    model_sizes: ClassVar[ModelSizes]
    config: RandomDynamicsConfig

    def _task_size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self._shapes().values())

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        bodies, dofs, geoms = self.model_sizes
        shapes = {
            "body_mass": (bodies,),
            "body_inertia": (bodies, 3),
            "dof_damping": (dofs,),
            "geom_friction": (geoms, 3),
        }
        return {name: shapes[name] for name in self.config.bases()}

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        limit, bases, shapes = self.config.log_scale_limit, self.config.bases(), self._shapes()
        return [
            {name: (base ** rng.uniform(-limit, limit, shapes[name])).tolist() for name, base in bases.items()}
            for _ in range(num_tasks)
        ]


class RandomDynamicsEnv(MujocoBatchEnv):
    """The part of an environment that takes over the tasks; derive from it and, behind it, from the robot's."""

    _log_factors: Floats

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: RandomDynamicsConfig) -> None:
        self._varying = tuple(config.bases())
        super().__init__(num_lanes, spaces, config)  # type: ignore[call-arg]  # the robot's signature, not the batch's

    def _assign(self, tasks: Sequence[Task]) -> None:
        self._assign_models(tasks)
        if self.reveal:
            self._log_factors = np.array([self._revealed(task) for task in tasks])

    def _edit_model(self, model: mujoco.MjModel, task: Task) -> None:
        for name, factors in task.items():
            if name not in PARAMETERS:
                raise ValueError(f"expected tasks with factors of {', '.join(PARAMETERS)}, got {name}")
            array, scale = getattr(model, name), np.array(factors, dtype=np.float64)
            if scale.shape != array.shape or not (np.isfinite(scale) & (scale > 0)).all():
                raise ValueError(f"expected {name} to be positive factors of shape {array.shape}, got {factors}")
            array *= scale

    def _revealed(self, task: Task) -> Floats:
        ones = {name: np.ones(getattr(self.model, name).shape) for name in self._varying if name not in task}
        return np.concatenate([np.log(ones[name] if name in ones else task[name]).ravel() for name in self._varying])

    def _task_vectors(self) -> Floats:
        return self._log_factors
