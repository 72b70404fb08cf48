"""Meta-World's names, benchmarks and task vectors, as ``metaworld.ML1``, ``ML10``, ``ML25``, ``ML45`` and ``CustomML``.

A Meta-World task is a class and a ``rand_vec``, the numbers that place its object and goal; here as JSON,
``{"env": "reach-v3", "rand_vec": [...]}``. Meta-World's own ``Task`` is a pickle, which nothing here reads or writes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from metarl.surroundings import import_without_graphics
from metarl.tasks import Task

OBSERVATION_SIZE = 39  # 18 numbers of now, 18 of the step before, 3 of the goal, which stay zero
MAX_STEPS = 500  # Meta-World refuses the next one
GOALS_PER_CLASS = 50  # metaworld draws as many; fewer are the first of these, as with its total_tasks_per_cls
MAX_REJECTED = 10_000  # vectors of a class in a row; the most demanding class rejects about every second vector

# (metaworld, mujoco) on which all 50 classes were compared: rewards and physics change between releases.
VERIFIED_VERSIONS = (("3.1.1", "3.3.0"),)

NAMES = (
    *("assembly-v3", "basketball-v3", "bin-picking-v3", "box-close-v3", "button-press-topdown-v3"),
    *("button-press-topdown-wall-v3", "button-press-v3", "button-press-wall-v3", "coffee-button-v3", "coffee-pull-v3"),
    *("coffee-push-v3", "dial-turn-v3", "disassemble-v3", "door-close-v3", "door-lock-v3"),
    *("door-open-v3", "door-unlock-v3", "hand-insert-v3", "drawer-close-v3", "drawer-open-v3"),
    *("faucet-open-v3", "faucet-close-v3", "hammer-v3", "handle-press-side-v3", "handle-press-v3"),
    *("handle-pull-side-v3", "handle-pull-v3", "lever-pull-v3", "pick-place-wall-v3", "pick-out-of-hole-v3"),
    *("pick-place-v3", "plate-slide-v3", "plate-slide-side-v3", "plate-slide-back-v3", "plate-slide-back-side-v3"),
    *("peg-insert-side-v3", "peg-unplug-side-v3", "soccer-v3", "stick-push-v3", "stick-pull-v3"),
    *("push-v3", "push-wall-v3", "push-back-v3", "reach-v3", "reach-wall-v3"),
    *("shelf-place-v3", "sweep-into-v3", "sweep-v3", "window-open-v3", "window-close-v3"),
)

# Train and test classes in metaworld.env_dict's order, which decides which random numbers a class gets.
ML10_TRAIN = (
    *("reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-close-v3"),
    *("button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "sweep-v3", "basketball-v3"),
)
ML10_TEST = ("drawer-open-v3", "door-close-v3", "shelf-place-v3", "sweep-into-v3", "lever-pull-v3")
ML25_TRAIN = (
    *("reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3"),
    *("button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3", "coffee-pull-v3"),
    *("pick-out-of-hole-v3", "disassemble-v3", "pick-place-wall-v3", "basketball-v3", "stick-pull-v3"),
    *("button-press-wall-v3", "faucet-open-v3", "door-lock-v3", "lever-pull-v3", "sweep-into-v3", "faucet-close-v3"),
    *("coffee-button-v3", "button-press-topdown-wall-v3", "dial-turn-v3"),
)
ML25_TEST = ("basketball-v3", "door-close-v3", "shelf-place-v3", "sweep-v3", "button-press-v3")
ML45_TEST = ("bin-picking-v3", "box-close-v3", "hand-insert-v3", "door-lock-v3", "door-unlock-v3")
ML45_TRAIN = (
    *("assembly-v3", "basketball-v3", "button-press-topdown-v3", "button-press-topdown-wall-v3", "button-press-v3"),
    *("button-press-wall-v3", "coffee-button-v3", "coffee-pull-v3", "coffee-push-v3", "dial-turn-v3"),
    *("disassemble-v3", "door-close-v3", "door-open-v3", "drawer-close-v3", "drawer-open-v3"),
    *("faucet-open-v3", "faucet-close-v3", "hammer-v3", "handle-press-side-v3", "handle-press-v3"),
    *("handle-pull-side-v3", "handle-pull-v3", "lever-pull-v3", "pick-place-wall-v3", "pick-out-of-hole-v3"),
    *("push-back-v3", "pick-place-v3", "plate-slide-v3", "plate-slide-side-v3", "plate-slide-back-v3"),
    *("plate-slide-back-side-v3", "peg-insert-side-v3", "peg-unplug-side-v3", "soccer-v3", "stick-push-v3"),
    *("stick-pull-v3", "push-wall-v3", "push-v3", "reach-wall-v3", "reach-v3"),
    *("shelf-place-v3", "sweep-into-v3", "sweep-v3", "window-open-v3", "window-close-v3"),
)


def draw_tasks(names: Sequence[str], seed: int) -> dict[str, list[Task]]:
    """The 50 tasks of each class that ``metaworld`` draws with a seed, in its order: class → tasks.

    Meta-World resets every class 50 times, a thousand simulation steps each, and keeps only the random numbers. They do
    not depend on the simulation, so here its code runs over a model without meshes and textures, and moves no hand.
    """
    # np.random.seed(seed) and what Meta-World then draws, but from a generator of our own
    uniform = _legacy_generator(seed).uniform
    tasks: dict[str, list[Task]] = {}
    for name in names:
        env = _light_environment(name)
        vectors = [_draw(env, uniform) for _ in range(GOALS_PER_CLASS)]
        if len({tuple(vector) for vector in vectors}) != GOALS_PER_CLASS:
            raise ValueError(f"{name}: expected {GOALS_PER_CLASS} different tasks from seed {seed}; use another")
        tasks[name] = [{"env": name, "rand_vec": vector} for vector in vectors]
    return tasks


def installed_versions() -> tuple[str, str]:
    """(metaworld, mujoco) from package metadata, without importing either."""
    return metadata.version("metaworld"), metadata.version("mujoco")


def _legacy_generator(seed: int) -> Any:
    from numpy.random import RandomState  # the algorithm behind numpy's global functions; its stream is frozen

    return RandomState(seed)


def _draw(env: Any, uniform: Callable[..., Any]) -> list[float]:
    space = env._random_reset_space
    drawn: list[Any] = []

    def next_vector() -> Any:
        if len(drawn) == MAX_REJECTED:
            raise RuntimeError(f"{env.task_name} rejected {MAX_REJECTED} vectors in a row")
        drawn.append(uniform(space.low, space.high, size=space.low.size))
        return drawn[-1]

    env._get_state_rand_vec = next_vector
    env.reset()
    vector: list[float] = drawn[-1].tolist()
    return vector


@functools.cache
def _light_class(name: str) -> Any:
    """A Meta-World class over a model whose meshes are spheres: built in 2 ms instead of 100."""
    mujoco = import_without_graphics("mujoco")
    import_without_graphics("metaworld.sawyer_xyz_env")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

    class Light(SawyerXYZEnv):
        def _initialize_simulation(self) -> tuple[Any, Any]:
            spec = mujoco.MjSpec.from_file(self.fullpath)
            for geom in spec.geoms:
                geom.material = ""
                if geom.type == mujoco.mjtGeom.mjGEOM_MESH:
                    geom.type, geom.size, geom.meshname = mujoco.mjtGeom.mjGEOM_SPHERE, [0.01] * 3, ""
            for asset in (*spec.meshes, *spec.textures, *spec.materials):
                asset.delete()
            model = spec.compile()
            return model, mujoco.MjData(model)

        def _reset_hand(self, steps: int = 50) -> None:
            mujoco.mj_forward(self.model, self.data)
            self.init_tcp = self.tcp_center

    return type(name, (ALL_V3_ENVIRONMENTS[name], Light), {"_reset_hand": Light._reset_hand})


def _light_environment(name: str) -> Any:
    env = _light_class(name)()
    env._set_task_called = True
    return env
