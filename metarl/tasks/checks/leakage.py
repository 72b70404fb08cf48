"""Whether what an agent sees first tells it the task: the check of ``metarl check-env`` for leaks.

An agent has to find out by acting what a family hides (``TaskDistribution.hidden_part``). Where first observations
under equal seeds are equal for all tasks, nothing leaks. Where they differ, as they may for the parts of a task that
are open to see, the hidden numbers must not be predictable from them in tasks that the predictor has not seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.tasks.checks.env_probe import LANES, CheckFailed, NotJudged, make_env, random_actions, task_key, variant
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.vector_env import Floats, Task

NUM_ALIKE = 32  # tasks compared under equal seeds, or
ALIKE_PER_CLASS = 8
MIN_TASKS = 40  # different tasks below which predicting held-out ones says nothing
MIN_DRAWS, MAX_DRAWS = 128, 600  # of tasks per class, from which hidden parts are predicted
# Largest share of a hidden number's variance that may be predicted from an observation. Dynamics may well depend on the
# task, so that one step can tell much of it: only what is there almost exactly counts as a leak then.
MAX_R2 = {"the reset's observation": 0.5, "the observation after one step": 0.99}
FOLDS = 5
RIDGES = (1e-2, 1.0)
ROUNDING = 1e-9


@dataclass(frozen=True)
class _Sample:
    tasks: list[Task]
    hidden: list[dict[str, float]]  # the numbers of each task's hidden part
    groups: list[list[int]]  # tasks that the text in their open part does not tell apart


def check_leakage(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """First observations do not tell the hidden part of the task."""
    distribution = variant(distribution, reveal=False)
    sample = _draw(distribution, rng, NUM_ALIKE)
    if not any(sample.hidden):
        return "the family hides nothing"
    if len(sample.groups) > 1:
        sample = _draw(distribution, rng, ALIKE_PER_CLASS * len(sample.groups))
    if _alike(distribution, rng, sample):
        return f"equal in {len(sample.tasks)} tasks under equal seeds, at the reset and after a step"
    num_draws = min(max(MIN_DRAWS, 4 * distribution.spaces.observation.size), MAX_DRAWS) * len(sample.groups)
    sample = _draw(distribution, rng, min(num_draws, max(distribution.size("train") or num_draws, MIN_DRAWS)))
    seen = _first_observations(
        distribution,
        sample.tasks,
        rng.integers(2**31, size=len(sample.tasks)).tolist(),
        random_actions(distribution, rng, len(sample.tasks)),
    )
    words = []
    for (name, limit), observations in zip(MAX_R2.items(), seen, strict=True):
        scores = [_best_r2(observations[rows], sample, rows) for rows in _judged(distribution, sample)]
        found = [score for score in scores if score is not None]
        if not found:
            raise NotJudged(f"observations depend on the task, but fewer than {MIN_TASKS} tasks differ in hidden parts")
        r2, number = max(found)
        words.append(f"R² {max(r2, 0.0):.2f} from {name}")
        if r2 > limit:
            raise CheckFailed(
                f"{name} tells the task: it predicts {number} of unseen tasks with R² = {r2:.3f}, more than {limit}; "
                "what tasks may show belongs outside hidden_part"
            )
    return f"at most {', '.join(words)}"


def _draw(distribution: TaskDistribution, rng: np.random.Generator, num_tasks: int) -> _Sample:
    tasks = distribution.sample(num_tasks, split="train", rng=rng)
    hidden = [distribution.hidden_part(task) for task in tasks]
    classes: dict[str, list[int]] = defaultdict(list)
    for number, (task, part) in enumerate(zip(tasks, hidden, strict=True)):
        text = {name: value for name, value in task.items() if isinstance(value, str) and name not in part}
        classes[task_key(text)].append(number)
    return _Sample(tasks, [dict(_numbers(part)) for part in hidden], list(classes.values()))


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in JSON data with where they are; text counts 1 in a place named after it."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _numbers(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _numbers(item, f"{path}[{place}]")
    elif isinstance(value, str):
        yield f"{path} = {value}", 1.0
    elif value is not None:
        yield path, float(value)


def _alike(distribution: TaskDistribution, rng: np.random.Generator, sample: _Sample) -> bool:
    """Whether equal seeds and actions give equal observations in all tasks of a class, and some tasks differ."""
    if all(sample.hidden[row] == sample.hidden[rows[0]] for rows in sample.groups for row in rows):
        return False
    num_tasks = len(sample.tasks)
    seeds = [int(rng.integers(2**31))] * num_tasks
    actions = random_actions(distribution, rng, 1).repeat(num_tasks, axis=0)
    seen = _first_observations(distribution, sample.tasks, seeds, actions)
    return all((obs[rows] == obs[rows[0]]).all() for obs in seen for rows in sample.groups)


def _first_observations(
    distribution: TaskDistribution, tasks: Sequence[Task], seeds: list[int], actions: Any
) -> tuple[Floats, Floats]:
    """The observations [tasks, size] at the reset and after one step."""
    env = make_env(distribution, LANES)
    reset, after = [], []
    for start in range(0, len(tasks), LANES):
        rows = [min(start + lane, len(tasks) - 1) for lane in range(LANES)]  # the last task fills the last batch
        env.set_tasks([tasks[row] for row in rows])
        reset.append(env.reset(seed=[seeds[row] for row in rows])[0])
        after.append(env.step(actions[rows])[0])
    return tuple(np.nan_to_num(np.concatenate(obs)[: len(tasks)]) for obs in (reset, after))  # type: ignore[return-value]


def _judged(distribution: TaskDistribution, sample: _Sample) -> Iterator[list[int]]:
    """Per class the tasks from which hidden parts are predicted: each once, so that none is known from training.

    Of few tasks that are hidden as a whole, such as two directions, draws with other seeds are new enough: an agent
    would meet no others either. Of few tasks that are hidden in part, the open part may happen to tell them apart.
    """
    for rows in sample.groups:
        distinct = list({task_key(sample.tasks[row]): row for row in rows}.values())
        if len(distinct) >= MIN_TASKS:
            yield distinct
        elif all(distribution.hidden_part(sample.tasks[row]) == sample.tasks[row] for row in distinct):
            yield rows


def _best_r2(observations: Floats, sample: _Sample, rows: Sequence[int]) -> tuple[float, str] | None:
    """The best predicted hidden number (or its square, which an observed distance tells) and its R²; None where none
    varies."""
    hidden = [sample.hidden[row] for row in rows]
    names = sorted({name for numbers in hidden for name in numbers})
    targets = np.array([[numbers.get(name, 0.0) for name in names] for numbers in hidden])
    names += [f"the square of {name}" for name in names]
    targets = np.concatenate([targets, np.square(targets - targets.mean(axis=0))], axis=1)
    varies = np.flatnonzero(_varies(targets))
    if not varies.size:
        return None
    r2 = held_out_r2(observations, targets[:, varies])
    return float(r2.max()), names[varies[r2.argmax()]]


def held_out_r2(inputs: Floats, targets: Floats) -> Floats:
    """The share of the variance of each of ``targets`` [n, m] that can be predicted from ``inputs`` [n, d].

    The best of three ways: the squared correlation with a single input, which finds a copied number among many inputs;
    and kernel ridge regression, linear and Gaussian, which finds mixtures, on held-out folds. About 0 (or negative)
    for unrelated numbers, 1 where inputs determine targets.
    """
    inputs = inputs[:, _varies(inputs)]
    if inputs.shape[1] == 0:
        return np.zeros(targets.shape[1])
    x = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    y = (targets - targets.mean(axis=0)) / targets.std(axis=0)
    best: Floats = np.square(x.T @ y / len(x)).max(axis=0)
    products = x @ x.T / x.shape[1]
    squares = np.diag(products)
    gaussian = np.exp(-(squares[:, None] + squares[None, :] - 2 * products) / 2)
    fold = np.arange(len(x)) % FOLDS
    for kernel in (products, gaussian):
        for ridge in RIDGES:
            predicted = np.zeros_like(y)
            for held_out in (fold == number for number in range(FOLDS)):
                rest = ~held_out
                weights = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge * np.eye(rest.sum()), y[rest])
                predicted[held_out] = kernel[np.ix_(held_out, rest)] @ weights
            best = np.maximum(best, 1 - np.square(y - predicted).mean(axis=0))
    return best


def _varies(values: Floats) -> NDArray[np.bool_]:
    """Which columns of ``values`` [n, d] differ in more than rounding."""
    varies: NDArray[np.bool_] = values.std(axis=0) > ROUNDING * np.maximum(1.0, np.abs(values).max(axis=0))
    return varies
