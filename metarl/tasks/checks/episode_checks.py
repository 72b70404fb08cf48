"""The checks of ``metarl check-env`` that watch episodes: where they end, with which flags, and what numbers come.

They have the form of :mod:`metarl.tasks.checks.env_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from metarl.tasks.checks.env_probe import (
    EPISODES,
    LANES,
    LONG,
    MAX_STEPS,
    CheckFailed,
    NotJudged,
    Plan,
    Played,
    make_env,
    make_plan,
    play,
    random_actions,
    variant,
)
from metarl.tasks.distribution import Split, TaskDistribution

SHORT_HORIZONS = (3, 5)  # robots that soon fall get this far
MAX_DIVERGED = 0.1  # of episodes under random actions
BOUND_TOLERANCE = 1e-6  # relative: bounds may have been rounded to float32
STEPS_BEHIND = 3  # an episode's end


@dataclass(frozen=True)
class End:
    """How a lane's episode ended: at which step (1 = the first), with which flags. ``constant``: it never changed."""

    step: int
    terminated: bool
    truncated: bool
    diverged: bool
    constant: bool


def check_horizon(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """An episode that does not end by itself ends at the horizon, not before and not later."""
    reached = []
    for family in _to_the_end(distribution):
        horizon = family.horizon
        for end in _ends(family, rng):
            if end is None:
                raise CheckFailed(f"an episode still runs after step {horizon}, the horizon")
            if end.step < horizon and end.truncated and not (end.terminated or end.diverged):
                raise CheckFailed(f"an episode was truncated at step {end.step}, before the horizon of {horizon}")
            if end.step == horizon:
                reached.append(horizon)
    if not reached:
        raise NotJudged("no episode reached the horizon")
    return f"seen at {', '.join(map(str, sorted(set(reached))))}"


def check_flags(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """``truncated`` means the horizon, ``terminated`` an end of the task's own; neither stands for the other."""
    counts = {"terminated": 0, "truncated": 0}
    merged = []  # for each horizon that a lane reached: whether all that did were terminated there
    families = list(_to_the_end(distribution))
    for family in families:
        horizon = family.horizon
        every_end = _ends(family, rng)
        ends = [end for end in every_end if end is not None and not end.diverged]
        # A limit that comes too early or too late is for check_horizon to report.
        limits = {end.step for end in ends if end.truncated and not end.terminated}
        for end in ends:
            if end.step < horizon and end.truncated and end.terminated and end.step not in limits:
                raise CheckFailed(
                    f"an episode terminated at step {end.step} is truncated as well, before the horizon of {horizon}"
                )
            if end.step == horizon and end.terminated and not end.truncated and None not in every_end:
                raise CheckFailed(f"an episode that reached the horizon of {horizon} is terminated, but not truncated")
        at_horizon = [end for end in ends if end.step == horizon]
        if at_horizon:
            # A bandit may end its task there: where nothing ever changes, there is no future to cut off.
            merged.append(all(end.terminated and not end.constant for end in at_horizon))
        counts["terminated"] += sum(end.terminated for end in ends)
        counts["truncated"] += sum(end.truncated for end in ends)
    if not families:
        raise NotJudged(f"the horizon is fixed above {MAX_STEPS} steps")
    if len(merged) == len(families) and all(merged):
        horizons = " and ".join(str(family.horizon) for family in families)
        raise CheckFailed(
            f"every episode that reached the horizon ({horizons} were tried) is terminated as well as truncated: "
            "a time limit must not terminate"
        )
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def check_ended_lanes(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """A lane that has ended stays as it is, with reward 0, until it is reset."""
    ended = 0
    for family in _to_the_end(distribution):
        played = _play_to_the_end(family, rng, episodes=1, behind=STEPS_BEHIND)
        over = (played.terminated | played.truncated)[0]
        for lane in range(LANES):
            if not over[:, lane].any():
                continue
            ended += 1
            end = int(over[:, lane].argmax())
            for step in range(end + 1, len(over)):
                where = f"lane {lane} ended at step {end + 1}, and at step {step + 1}"
                if not (played.terminated[0, step, lane] or played.truncated[0, step, lane]):
                    raise CheckFailed(f"{where} it runs again without a reset")
                if not np.array_equal(played.obs[0, step + 1, lane], played.obs[0, end + 1, lane], equal_nan=True):
                    raise CheckFailed(f"{where} it had another observation: lanes must not move or reset themselves")
                if played.reward[0, step, lane] != 0:
                    raise CheckFailed(f"{where} it had the reward {played.reward[0, step, lane]} instead of 0")
                if any(
                    (flags[0, step, lane] != flags[0, end, lane]) for flags in (played.terminated, played.truncated)
                ):
                    raise CheckFailed(f"{where} it had other flags")
    if not ended:
        raise NotJudged("no episode ended")
    return f"{ended} ended lanes stayed as they were"


def check_finite(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """Observations and rewards are finite under random actions, also as the policy sees them, in single precision; and
    simulations seldom diverge."""
    diverged = []
    for played, where in _long_episodes(distribution, rng):
        for name, values in (("observation", played.obs), ("reward", played.reward)):
            with np.errstate(over="ignore"):
                bad = np.argwhere(~np.isfinite(values.astype(np.float32)))
            if bad.size:
                episode, step, lane = bad[0, :3] + (1, int(name == "reward"), 0)
                value = values[tuple(bad[0])]
                more = ", more than float32 can hold," if np.isfinite(value) else ""
                raise CheckFailed(f"{name} {value}{more} at step {step} of episode {episode}, lane {lane}, {where}")
        diverged.append(played.diverged.any(axis=1).mean())
    if np.mean(diverged) > MAX_DIVERGED:
        raise CheckFailed(f"{np.mean(diverged):.0%} of episodes diverged under random actions")
    return f"{len(diverged) * EPISODES * LANES} episodes of up to {played.reward.shape[1]} steps, " + (
        f"{np.mean(diverged):.0%} diverged" if np.any(diverged) else "none diverged"
    )


def check_bounds(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """Observations stay within the bounds of their space."""
    space = distribution.spaces.observation
    low, high = np.array(space.low), np.array(space.high)
    if not (np.isfinite(low) | np.isfinite(high)).any():
        return "none declared"
    for played, where in _long_episodes(distribution, rng):
        beyond = np.maximum(low - played.obs, played.obs - high)
        bad = np.argwhere(beyond > BOUND_TOLERANCE * np.maximum(1.0, np.abs(played.obs)))
        if bad.size:
            episode, step, lane, place = bad[0].tolist()
            raise CheckFailed(
                f"number {place} of the observation is {played.obs[episode, step, lane, place]}, outside "
                f"[{low[place]}, {high[place]}], at step {step} of episode {episode + 1}, lane {lane}, {where}"
            )
    return f"{int(np.isfinite(low).sum())} low and {int(np.isfinite(high).sum())} high bounds hold"


def _long_episodes(distribution: TaskDistribution, rng: np.random.Generator) -> Iterator[tuple[Played, str]]:
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        plan = make_plan(distribution, rng, split=split, steps=LONG)
        yield play(make_env(distribution, LANES), plan), f"split {split}"


def _to_the_end(distribution: TaskDistribution) -> Iterator[TaskDistribution]:
    """The family with short horizons, if its config takes them, and as it is, unless that takes too long."""
    for horizon in SHORT_HORIZONS:
        if horizon < distribution.horizon:
            try:
                short = variant(distribution, horizon=horizon)
            except ValidationError:  # the family fixes its horizon
                continue
            yield short
    if distribution.horizon <= MAX_STEPS:
        yield distribution


def _ends(distribution: TaskDistribution, rng: np.random.Generator) -> list[End | None]:
    """The ends of several episodes in every lane; None for one that goes on behind the horizon."""
    played = _play_to_the_end(distribution, rng, episodes=EPISODES)
    over = played.terminated | played.truncated
    ends: list[End | None] = []
    for episode, lane in np.ndindex(EPISODES, LANES):
        if not over[episode, :, lane].any():
            ends.append(None)
            continue
        step = int(over[episode, :, lane].argmax())
        seen = played.obs[episode, : step + 2, lane]
        ends.append(
            End(
                step + 1,
                terminated=bool(played.terminated[episode, step, lane]),
                truncated=bool(played.truncated[episode, step, lane]),
                diverged=bool(played.diverged[episode, step, lane]),
                constant=bool((seen == seen[0]).all()),
            )
        )
    return ends


def _play_to_the_end(
    distribution: TaskDistribution, rng: np.random.Generator, *, episodes: int, behind: int = 0
) -> Played:
    """Episodes of as many steps as the horizon and ``behind`` it."""
    plan = make_plan(distribution, rng, episodes=episodes, steps=distribution.horizon)
    more = random_actions(distribution, rng, episodes, behind, LANES)
    plan = Plan(plan.tasks, plan.seeds, np.concatenate([plan.actions, more], axis=1))
    return play(make_env(distribution, LANES), plan)
