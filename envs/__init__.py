"""Task distributions, one module per family; ``task.name`` in a config is the module's name.

Importing this package registers every family with Gymnasium, ``half_cheetah_vel`` as ``metarl/HalfCheetahVel-v0``.
"""

from metarl.tasks.registration import register_families

register_families()
