"""``metarl check-env``: whether a task family keeps the promises that meta-learning and its measurement rest on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from metarl.errors import MetarlError, WorkerError
from metarl.faults import PASSES, RaisedBelowError
from metarl.tasks.checks import env_checks, episode_checks
from metarl.tasks.checks.env_probe import CheckFailed, NotJudged, make_env, probing, random_actions
from metarl.tasks.checks.leakage import check_leakage
from metarl.tasks.checks.watchdog import HungError
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.families import explain

SPEED_LANES = 20  # of one task: a usual rollout unit
SPEED_SECONDS = 0.5


@dataclass(frozen=True)
class Check:
    """A check, and those that must have passed for its answer to mean anything."""

    name: str
    run: Callable[[TaskDistribution, np.random.Generator], str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """What came out; ``detail`` has the numbers, the reason of a failure, or why nothing could be judged."""

    name: str
    result: Literal["passed", "failed", "not judged"]
    detail: str


CHECKS = (
    Check("config", env_checks.check_config),
    Check("spaces", env_checks.check_spaces),
    Check("splits", env_checks.check_splits),
    Check("json", env_checks.check_json),
    Check("interface", env_checks.check_interface),
    Check("seeding", env_checks.check_seeding, ("interface",)),
    Check("rebuild", env_checks.check_rebuild, ("json", "seeding")),
    Check("reset", env_checks.check_reset, ("seeding",)),
    Check("lanes", env_checks.check_lanes, ("seeding",)),
    Check("reset mask", env_checks.check_reset_mask, ("lanes",)),
    Check("stationarity", env_checks.check_stationarity, ("seeding",)),
    Check("effect", env_checks.check_effect, ("lanes",)),
    Check("leakage", check_leakage, ("interface",)),
    Check("reveal", env_checks.check_reveal, ("seeding",)),
    Check("horizon", episode_checks.check_horizon, ("interface",)),
    Check("flags", episode_checks.check_flags, ("interface",)),
    Check("ended lanes", episode_checks.check_ended_lanes, ("interface",)),
    Check("finite", episode_checks.check_finite, ("interface",)),
    Check("bounds", episode_checks.check_bounds, ("interface",)),
)


def check_family(distribution: TaskDistribution, seed: int = 0) -> list[CheckResult]:
    """Run all checks, in order. Each has a generator of its own, so that equal seeds give equal results.

    Raises:
        WorkerError: no vector environment can be made.
    """
    try:
        with probing():
            make_env(distribution, 1)
    except HungError:
        raise
    except PASSES:
        raise
    except BaseException as error:
        raise WorkerError(f"{type(distribution).__name__}.make_vector failed: {explain(error)}") from error
    results: dict[str, CheckResult] = {}
    hung = False
    for number, check in enumerate(CHECKS):
        missing = [name for name in check.needs if results[name].result != "passed"]
        if hung or missing:
            reason = "an environment hung before" if hung else f"needs: {', '.join(missing)}"
            results[check.name] = CheckResult(check.name, "not judged", reason)
            continue
        try:
            results[check.name] = _run(check, distribution, np.random.default_rng([seed, number]))
        except HungError as error:
            hung, results[check.name] = True, CheckResult(check.name, "failed", str(error))
    return list(results.values())


def speed(distribution: TaskDistribution, seed: int = 0) -> dict[str, float]:
    """How fast ``SPEED_LANES`` lanes of one task are under random actions: ``lane_steps_per_s`` of ``step`` alone, and
    ``reset_ms`` per lane."""
    with probing():
        return _speed(distribution, np.random.default_rng(seed))


def _speed(distribution: TaskDistribution, rng: np.random.Generator) -> dict[str, float]:
    env = make_env(distribution, SPEED_LANES)
    env.set_tasks(distribution.sample(1, split="train", rng=rng) * SPEED_LANES)
    steps, stepping, resets, resetting = 0, 0.0, 0, 0.0
    while stepping + resetting < SPEED_SECONDS or resets < 2:
        actions = random_actions(distribution, rng, min(distribution.horizon, 100), SPEED_LANES)
        start = time.perf_counter()
        env.reset(seed=rng.integers(2**31, size=SPEED_LANES).tolist())
        begin = time.perf_counter()
        live = SPEED_LANES
        for action in actions:
            steps += live
            _, _, terminated, truncated, _ = env.step(action)
            live = SPEED_LANES - int((terminated | truncated).sum())
        end = time.perf_counter()
        if resets:  # the first round warms up
            resetting, stepping = resetting + begin - start, stepping + end - begin
        else:
            steps = 0
        resets += 1
    return {
        "lanes": SPEED_LANES,
        "lane_steps_per_s": steps / stepping,
        "reset_ms": 1000 * resetting / (resets - 1) / SPEED_LANES,
    }


def report(distribution: TaskDistribution, seed: int = 0) -> dict[str, Any]:
    """All results as JSON data: ``task`` (its config), ``passed``, ``checks``, ``speed`` if passed."""
    results = check_family(distribution, seed)
    passed = all(result.result != "failed" for result in results)
    return {
        "task": distribution.config.model_dump(mode="json"),
        "passed": passed,
        "checks": [asdict(result) for result in results],
        "speed": speed(distribution, seed) if passed else None,
    }


def _run(check: Check, distribution: TaskDistribution, rng: np.random.Generator) -> CheckResult:
    try:
        with probing():
            return CheckResult(check.name, "passed", check.run(distribution, rng))
    except HungError:
        raise
    except CheckFailed as reason:
        return CheckResult(check.name, "failed", str(reason))
    except NotJudged as reason:
        return CheckResult(check.name, "not judged", str(reason))
    except PASSES:
        raise
    except BaseException as error:  # whatever the family's own code raises
        says_all = isinstance(error, MetarlError | RaisedBelowError)
        return CheckResult(check.name, "failed", explain(error) if says_all else f"raised {explain(error)}")
