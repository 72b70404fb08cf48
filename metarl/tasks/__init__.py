"""Task families: what a family implements, and the environments that run its tasks. No torch: tasks need no learner."""

from metarl.tasks.distribution import Split, TaskDistribution, balanced_sample, held_out_tasks, hold_out
from metarl.tasks.vector_env import Bools, Floats, Task, VectorTaskEnv

__all__ = [
    "Bools",
    "Floats",
    "Split",
    "Task",
    "TaskDistribution",
    "VectorTaskEnv",
    "balanced_sample",
    "held_out_tasks",
    "hold_out",
]
