"""Task distributions, one module per family; ``task.name`` in a config is the module's name.

Importing this package registers every family with Gymnasium, ``half_cheetah_vel`` as ``metarl/HalfCheetahVel-v0``. No
family is imported before it is made. ``import metarl`` imports this package as soon as there is a Gymnasium.
"""

import pkgutil
import re

import gymnasium


def environment_id(name: str) -> str:
    """A family's Gymnasium id: ``half_cheetah_vel`` → ``metarl/HalfCheetahVel-v0``, ``ml10`` → ``metarl/ML10-v0``."""
    words = (word.upper() if re.fullmatch("[a-z]{2}[0-9]+", word) else word.capitalize() for word in name.split("_"))
    return f"metarl/{''.join(words)}-v0"


for _name in (module.name for module in pkgutil.iter_modules(__path__)):
    if not _name.startswith("_") and environment_id(_name) not in gymnasium.registry:
        gymnasium.register(
            environment_id(_name),
            entry_point="metarl.tasks.registration:TaskEnv",
            vector_entry_point="metarl.tasks.registration:AutoresetTaskEnv",
            kwargs={"name": _name},
        )
