"""The checks of ``metarl check-env``: each looks at one promise of a task family, in environments of its own.

A check is a function of a task distribution and a random generator. It returns in words what it found, and raises
:class:`CheckFailed` with the reason where the promise is broken, or :class:`NotJudged` where it could not tell.
"""

from __future__ import annotations

import json
import pickle

import numpy as np
from gymnasium.vector import AutoresetMode
from pydantic import ValidationError

from metarl.spaces import Space
from metarl.tasks.checks.env_probe import (
    EPISODES,
    LANES,
    LONG,
    CheckFailed,
    NotJudged,
    Plan,
    Played,
    difference,
    make_env,
    make_plan,
    play,
    task_key,
    variant,
)
from metarl.tasks.distribution import Split, TaskDistribution, draw_tasks
from metarl.tasks.families import describe_space

MAX_LISTED = 5000  # tasks of a finite split
SPLITS: tuple[Split, ...] = ("train", "test")


# --- the family on its own


def check_config(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """The config is the same after JSON, every key is described, every lineage can be built."""
    config = distribution.config
    if variant(distribution).config != config:
        raise CheckFailed("the config is another one after a JSON round trip")
    bare = [name for name, field in type(config).model_fields.items() if not field.description]
    if bare:
        raise CheckFailed(f"keys without a description: {', '.join(bare)}")
    for name, lineage in config.lineages.items():
        try:
            variant(distribution, **{**lineage.pins, "lineage": name})
        except ValidationError as error:
            details = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise CheckFailed(f"lineage {name} pins what the config refuses: {details}") from error
        if not lineage.why:
            raise CheckFailed(f"lineage {name} does not say where it comes from (why)")
    return f"{len(type(config).model_fields)} keys; lineages: {', '.join(config.lineages) or 'none'}"


def check_spaces(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """Sizes and bounds make sense, and distribution and environment agree on them."""
    spaces = distribution.spaces
    for name, space in (("observation", spaces.observation), ("action", spaces.action)):
        _check_space(name, space)
    if spaces.observation.kind != "box":
        raise CheckFailed(f"expected box observations (one-hot for states), got {spaces.observation.kind}")
    if spaces.action.kind == "box" and not np.isfinite([spaces.action.low, spaces.action.high]).all():
        raise CheckFailed("expected finite bounds of the action: they are the control range that actions are scaled to")
    env = make_env(distribution, LANES)
    wrong = [
        f"{name} {got!r} instead of {expected!r}"
        for name, expected, got in (
            ("num_envs", LANES, env.num_envs),
            ("spaces", spaces, env.spaces),
            ("horizon", distribution.horizon, env.horizon),
            ("autoreset_mode", AutoresetMode.DISABLED, env.metadata.get("autoreset_mode")),
            ("single_observation_space of shape", (spaces.observation.size,), env.single_observation_space.shape),
        )
        if expected != got
    ]
    if wrong:
        raise CheckFailed(f"the environment has {'; '.join(wrong)}")
    return f"observation {describe_space(spaces.observation)}, action {describe_space(spaces.action)}"


def _check_space(name: str, space: Space) -> None:
    if space.size < 1:
        raise CheckFailed(f"expected at least one number of {name}, got size {space.size}")
    if space.kind == "box":
        low, high = np.array(space.low), np.array(space.high)
        if low.shape != (space.size,) or high.shape != (space.size,):
            raise CheckFailed(f"{name}: expected {space.size} bounds, got {low.size} low and {high.size} high")
        bad = np.flatnonzero(~(low < high) if name == "action" else ~(low <= high))
        if bad.size:
            raise CheckFailed(f"{name}: expected low < high, got {low[bad[0]]} and {high[bad[0]]} in place {bad[0]}")


def check_splits(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """Both splits sample from their generator alone; a finite one gives each task once before any comes twice."""
    found: dict[Split, set[str]] = {}
    words = []
    for split in SPLITS:
        size = distribution.size(split)
        if size is not None and size < 1:
            raise CheckFailed(f"expected size({split!r}) to be None or at least 1, got {size}")
        words.append(f"{split} {'continuous' if size is None else size}")
        num_tasks, seed = LANES + 3, rng.integers(2**31)
        first, again = (
            draw_tasks(distribution, num_tasks, split=split, rng=np.random.default_rng(seed)) for _ in range(2)
        )
        if [task_key(task) for task in first] != [task_key(task) for task in again]:
            raise CheckFailed(f"equal generators draw different {split} tasks: the tasks have another random source")
        if size is not None and size <= MAX_LISTED:
            found[split] = {task_key(task) for task in draw_tasks(distribution, size, split=split, rng=rng)}
            if len(found[split]) != size:
                raise CheckFailed(f"split {split} has size {size}, but {size} draws gave {len(found[split])} tasks")
    if len(found) == 2:
        shared = len(found["train"] & found["test"])
        if shared and found["train"] != found["test"]:
            raise CheckFailed(f"{shared} of {len(found['test'])} test tasks are training tasks: share all or none")
        words.append("the same tasks" if shared else "disjoint")
    return ", ".join(words)


def check_json(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """Tasks are the same after JSON."""
    for split in SPLITS:
        for task in draw_tasks(distribution, LANES, split=split, rng=rng):
            try:
                again = json.loads(json.dumps(task, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise CheckFailed(f"a {split} task is not JSON: {error}; task {task!r}") from error
            if again != task:
                raise CheckFailed(f"a {split} task is another one after JSON: {task!r} became {again!r}")
    text = json.dumps(task)
    return f"e.g. {text if len(text) <= 60 else text[:59] + '…'}"


def check_interface(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """``reset`` and ``step`` answer with arrays of the right shapes and kinds."""
    plan = make_plan(distribution, rng)
    env = make_env(distribution, LANES)
    env.set_tasks(plan.tasks)
    start = env.reset(seed=plan.seeds[0].tolist())[0]
    obs, reward, terminated, truncated, info = env.step(plan.actions[0, 0])
    shape = (LANES, distribution.spaces.observation.size)
    flags = {f'info["{name}"]': info[name] for name in ("success", "diverged") if name in info}
    for name, got, expected, kind in (
        ("reset's observation", start, shape, "f"),
        ("observation", obs, shape, "f"),
        ("reward", reward, (LANES,), "f"),
        *((name, value, (LANES,), "b") for name, value in (("terminated", terminated), ("truncated", truncated))),
        *((name, value, (LANES,), "b") for name, value in flags.items()),
    ):
        array = np.asarray(got)
        if array.shape != expected or array.dtype.kind != kind:
            wanted = {"f": "floats", "b": "bools"}[kind]
            raise CheckFailed(f"{name}: expected {wanted} of shape {expected}, got {array.dtype} of {array.shape}")
    return f"{LANES} lanes, observations of {start.dtype}{', success' * ('success' in info)}"


# --- what an episode depends on


def check_seeding(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """Two new environments give equal bits for equal tasks, seeds and actions."""
    plan = make_plan(distribution, rng)
    first, second = (play(make_env(distribution, LANES), plan) for _ in range(2))
    found = difference(first, second)
    if found:
        raise CheckFailed(
            f"equal tasks, seeds and actions gave {found}: randomness must come from the generators that a reset gets"
        )
    other = play(make_env(distribution, LANES), Plan(plan.tasks, plan.seeds + 1, plan.actions))
    return f"equal seeds, equal bits; other seeds change {'something' if difference(first, other) else 'nothing'}"


def check_rebuild(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """A worker gets equal bits: the distribution can be sent there, and JSON holds all of config and task."""
    try:
        pickle.dumps(distribution)
    except Exception as error:
        raise CheckFailed(f"the distribution cannot be sent to a worker process: {error}") from error
    plan = make_plan(distribution, rng)
    there = Plan(json.loads(json.dumps(plan.tasks)), plan.seeds, plan.actions)
    here = play(make_env(distribution, LANES), plan)
    found = difference(here, play(make_env(variant(distribution), LANES), there))
    if found:
        raise CheckFailed(f"built from JSON, an environment gave {found}: something is neither in config nor in task")
    return "equal bits from JSON"


def check_reset(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """What a lane did before, in other tasks, leaves no trace in its episodes."""
    plan, between = make_plan(distribution, rng), make_plan(distribution, rng)
    env = make_env(distribution, LANES)
    before = play(env, plan)
    play(env, between)
    found = difference(before, play(env, plan))
    if found:
        raise CheckFailed(f"after other tasks, the same episodes gave {found}: set_tasks and reset leave something")
    return f"equal bits after {EPISODES} episodes in other tasks"


def check_lanes(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """A lane gives the same bits alone as among others."""
    plan = make_plan(distribution, rng)
    together = play(make_env(distribution, LANES), plan)
    for lane in range(LANES):
        found = difference(play(make_env(distribution, 1), plan.lane(lane)), together.lane(lane))
        if found:
            found = found.replace("lane 0", f"lane {lane}")
            raise CheckFailed(f"lanes are coupled: beside others there was {found} (that of the lane alone)")
    return f"each of {LANES} lanes as if alone"


def check_reset_mask(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """``reset_mask`` restarts its lanes and touches no other."""
    plan = make_plan(distribution, rng, episodes=1)
    seeds = rng.integers(2**31, size=LANES).tolist()
    env = make_env(distribution, LANES)
    undisturbed = play(env, plan)
    start = env.reset(seed=seeds)[0]
    env = make_env(distribution, LANES)
    env.set_tasks(plan.tasks)
    obs = [env.reset(seed=plan.seeds[0].tolist())[0]]
    answers = []
    steps = plan.actions.shape[1]
    for step, action in enumerate(plan.actions[0]):
        if step == steps // 2:
            obs[-1] = env.reset(seed=seeds, options={"reset_mask": np.arange(LANES) == 0})[0]
            if not np.array_equal(obs[-1][0], start[0], equal_nan=True):
                raise CheckFailed("a lane reset by mask starts differently than with all lanes, from an equal seed")
        observation, *answer, info = env.step(action)
        obs.append(observation)
        answers.append((*answer, info.get("diverged", np.zeros(LANES, np.bool_))))
    played = Played(np.array([obs]), *(np.array([values]) for values in zip(*answers, strict=True)))
    for lane in range(1, LANES):
        found = difference(undisturbed.lane(lane), played.lane(lane)).replace("lane 0", f"lane {lane}")
        if found:
            raise CheckFailed(f"reset_mask for lane 0 before step {steps // 2 + 1} disturbed others: {found}")
    return "other lanes go on undisturbed"


def check_stationarity(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """Within a trial, equal seeds and actions give equal episodes, first and last."""
    order = [0, *range(EPISODES), 0]  # the first episode again at once, and again after others
    played = play(make_env(distribution, LANES), make_plan(distribution, rng).episodes(order))
    for number in (1, len(order) - 1):
        found = difference(played.episode(0), played.episode(number))
        if found:
            found = found.replace("episode 1", f"episode {number + 1}")
            raise CheckFailed(f"the task drifts: with seeds and actions of the trial's episode 1 there was {found}")
    return f"episode {len(order)} of a trial repeats episode 1"


def check_effect(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """Different tasks differ in something: rewards, observations or ends."""
    plan = make_plan(distribution, rng, steps=LONG)
    alike = Plan(plan.tasks, plan.seeds[:, [0] * LANES], plan.actions[:, :, [0] * LANES])
    env = make_env(distribution, LANES)
    first = None
    for _ in range(8):
        tasks = distribution.sample(LANES, split="train", rng=rng)
        played = play(env, Plan(tasks, alike.seeds, alike.actions))
        first = first or played.lane(0)
        if any(difference(first, played.lane(lane)) for lane in range(LANES)):
            return "tasks differ under equal seeds and actions"
    raise NotJudged(f"no difference between {8 * LANES} tasks in {EPISODES} × {plan.actions.shape[1]} random steps")


def check_reveal(distribution: TaskDistribution, rng: np.random.Generator) -> str:
    """``reveal`` appends numbers that tell the task, and changes nothing else."""
    plain, oracle = variant(distribution, reveal=False), variant(distribution, reveal=True)
    size, full = plain.spaces.observation.size, oracle.spaces.observation.size
    if full <= size:
        raise CheckFailed(f"the observation has {full} numbers with reveal, {size} without: no room for a task")
    plan = make_plan(plain, rng)
    hidden, shown = play(make_env(plain, LANES), plan), play(make_env(oracle, LANES), plan)
    if shown.obs.shape[-1] != full:
        raise CheckFailed(f"the space with reveal has {full} numbers, observations have {shown.obs.shape[-1]}")
    rest = Played(shown.obs[..., :size], shown.reward, shown.terminated, shown.truncated, shown.diverged)
    found = difference(hidden, rest)
    if found:
        raise CheckFailed(f"reveal does more than append the task: {found}")
    vectors = shown.obs[..., size:]
    if (vectors != vectors[:1, :1]).any():
        raise CheckFailed("the appended numbers change within a trial")
    distinct = {task_key(plain.hidden_part(task)) for task in plan.tasks}
    if len(distinct) > 1 and (vectors[0, 0] == vectors[0, 0, 0]).all():
        raise CheckFailed(f"{len(distinct)} different tasks are all appended as {vectors[0, 0, 0].tolist()}")
    return f"{full - size} behind the observation's {size}"
