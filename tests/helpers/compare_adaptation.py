"""Adaptation by written-out derivatives beside the same by autograd: differences, lines of code, time.

    python tests/helpers/compare_adaptation.py

Largest difference, relative to the largest number, of the adapted parameters, the meta-gradient and a Fisher product,
in float64; time of each on 4 tasks × 2000 samples, two layers of 64, float32, one thread.
"""

from __future__ import annotations

import ast
import sys
import time
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from metarl.learning.adaptation import analytic, autograd
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import INNER_LOSSES, Samples
from metarl.learning.meta_objective import TaskObjective
from metarl.nn.derivatives import Scratch
from metarl.nn.policies import make_policy
from metarl.spaces import Space, SpaceSpec

TASKS = 4
WAYS = {"analytic": analytic, "autograd": autograd}


def objectives(
    loss: str, kind: str, activation: str, dtype: torch.dtype, samples: int, hidden: tuple[int, ...] = (64, 64)
) -> tuple[list[TaskObjective], Tensor]:
    """The objective of a trial with one step by both ways, on random data, and a direction."""
    action = Space("box", 6, (-1.0,) * 6, (1.0,) * 6) if kind == "gaussian" else Space("discrete", 6)
    policy = make_policy(SpaceSpec(Space("box", 17), action), hidden, activation, 1e-6)
    rng = torch.Generator().manual_seed(0)
    phases = [random_samples(kind, samples, dtype, rng) for _ in range(2)]
    psi = 0.1 * torch.randn(policy.num_parameters, dtype=dtype, generator=rng)
    loop, coefs = InnerLoop(policy, 0.1, loss=INNER_LOSSES[loss]), {1: phases[1].loss_coef}
    made = [
        TaskObjective(loop, psi, phases, coefs, Scratch(), constrained=[1], adapt=way.adapt) for way in WAYS.values()
    ]
    return made, torch.randn(len(psi), dtype=dtype, generator=rng)


def random_samples(kind: str, size: int, dtype: torch.dtype, rng: torch.Generator) -> Samples:
    """Samples of episodes of ten steps."""
    action = (
        torch.randn(TASKS, 6, size, dtype=dtype, generator=rng)
        if kind == "gaussian"
        else torch.multinomial(torch.ones(6), TASKS * size, replacement=True, generator=rng).view(TASKS, size)
    )
    return Samples(
        torch.randn(TASKS, 17, size, dtype=dtype, generator=rng),
        action,
        torch.randn(TASKS, size, dtype=dtype, generator=rng),
        torch.full((TASKS, size), 1 / size, dtype=dtype),
        (torch.arange(size) % 10 == 0).expand(TASKS, size),
    )


def difference(fast: Tensor, short: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((fast - short).abs().max() / fast.abs().max())


def seconds(objective: TaskObjective, v: Tensor) -> list[float]:
    """Of the meta-gradient, and of a Fisher product."""
    started = time.perf_counter()
    objective.gradient()
    middle = time.perf_counter()
    objective.fisher_product()(v)
    return [middle - started, time.perf_counter() - middle]


def code_lines(module: object) -> int:
    """Lines of a module without docstrings, comments and blank lines."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return len(ast.unparse(tree).splitlines())


def main(samples: int = 2000, rounds: int = 7) -> None:
    """Print the tables."""
    print(f"{'loss':9}{'distribution':13}{'activation':11}{'parameters':>11}{'gradient':>10}{'Fisher':>10}")
    for loss, kind, activation in product(INNER_LOSSES, ("gaussian", "categorical"), ("tanh", "relu")):
        (fast, short), v = objectives(loss, kind, activation, torch.float64, 50, hidden=(16, 16))
        found = [
            difference(fast._adaptation.parameters[-1], short._adaptation.parameters[-1].detach()),
            difference(fast.gradient(), short.gradient()),
            difference(fast.fisher_product()(v), short.fisher_product()(v)),
        ]
        print(f"{loss:9}{kind:13}{activation:11}{found[0]:>11.0e}{found[1]:>10.0e}{found[2]:>10.0e}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (fast, short), v = objectives("log_prob", "gaussian", "tanh", torch.float32, samples)
    taken = [[seconds(objective, v) for objective in (fast, short)] for _ in range(rounds + 1)][1:]
    for part, name in enumerate(("meta-gradient", "Fisher product")):
        by_way = [1e3 * median(round_[way][part] for round_ in taken) for way in range(2)]
        print(f"{name}: analytic {by_way[0]:.1f} ms, autograd {by_way[1]:.1f} ms, {by_way[1] / by_way[0]:.1f} times")
    print("lines of code: " + ", ".join(f"{name} {code_lines(way)}" for name, way in WAYS.items()))
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
