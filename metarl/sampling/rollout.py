"""The rollout unit: a pure function from policy, parameters, a few tasks and stream keys to trajectories."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from multiprocessing import util
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.errors import NumericError
from metarl.finite import surely_finite
from metarl.nn.policies import Policy
from metarl.sampling.trial_state import TrialState
from metarl.seeding import Stream
from metarl.spaces import Space
from metarl.tasks import Task, TaskDistribution, VectorTaskEnv
from metarl.tasks.closing import close_quietly
from metarl.tasks.distribution import make_lanes
from metarl.types import PolicyInput

BOUND_TOLERANCE = 1e-6  # relative: bounds may have been rounded to float32

Arrays = dict[str, NDArray[Any]]  # the fields of a Trajectory as arrays [n, E, …]


@dataclass(frozen=True)
class Lanes:
    """What to run: ``lanes`` rows for each of some tasks, ``episodes`` one behind the other in each row."""

    tasks: tuple[Task, ...]
    stream: Stream
    lanes: int
    episodes: int = 1
    deterministic: bool = False  # the policy's mode acts, and nothing is drawn
    first_slot: int = 0  # position of tasks[0] in the meta-batch: task slots key the random streams
    start: TrialState | None = None  # where the rows' trials stand; None: at their start
    return_state: bool = False  # also where they stand behind their last episode; for policies that remember


@dataclass(frozen=True)
class Shared:
    """What all units of a phase have in common: the distribution that environments are built from, and who acts."""

    distribution: TaskDistribution
    policy: Policy
    params: NDArray[np.float32] | None  # [1, P] for all tasks; None: units have their own


@dataclass(frozen=True)
class RolloutUnit:
    """Lanes of some tasks, and the parameters that act in these alone."""

    lanes: Lanes
    params: NDArray[np.float32] | None = None  # [n, P], one row per task

    def describe(self) -> str:
        """The unit in a few words, for error messages."""
        lanes, stream = self.lanes, self.lanes.stream
        last = lanes.first_slot + len(lanes.tasks) - 1
        return (
            f"tasks {lanes.first_slot}–{last} {[dict(task) for task in lanes.tasks]}, {lanes.lanes} lanes × "
            f"{lanes.episodes} episodes, {'evaluation, ' if stream.evaluation else ''}iteration {stream.iteration}, "
            f"phase {stream.phase}"
        )


class Rollout(NamedTuple):
    """What a unit came to."""

    arrays: Arrays
    state: TrialState | None  # [rows], where it was asked for
    notice: str | None = None  # what the user should know of the environment; it was run all the same

    def data(self) -> tuple[Any, ...]:
        """Itself as plain data with tensors and arrays in it."""
        state = self.state and (self.state.policy_state, self.state.action, self.state.outcome)
        return self.arrays, state, self.notice

    @staticmethod
    def of_data(data: tuple[Any, ...]) -> Rollout:
        """The inverse of :meth:`data`."""
        arrays, state, notice = data
        return Rollout(arrays, state and TrialState(*state), notice)


def rollout(unit: RolloutUnit, shared: Shared) -> Rollout:
    """:func:`record` in an environment that this process builds, or has built, from the distribution."""
    params, tasks = shared.params if unit.params is None else unit.params, len(unit.lanes.tasks)
    assert params is not None
    if len(params) < tasks and not shared.policy.remembers:
        params = params.repeat(tasks, axis=0)
    return record(_environment(shared.distribution, tasks * unit.lanes.lanes), shared.policy, params, unit.lanes)


def record(env: VectorTaskEnv, policy: Policy, params: NDArray[np.float32], lanes: Lanes) -> Rollout:
    """Run every lane for exactly ``episodes`` episodes, one behind the other, in an environment of as many rows.

    ``params`` [n, P] has one row per task; [1, P] for policies that remember.

    Rows keep their places from the first step to the last, ended ones are masked and not dropped: the policy always
    sees the same batch shape, so that no lane's numbers depend on when another one ends.

    Raises:
        NumericError: an observation, a reward or an action is not finite.
    """
    env.set_tasks([task for task in lanes.tasks for _ in range(lanes.lanes)])
    with torch.inference_mode():
        recorder = _Recorder(env, policy, params, lanes)
        recorder.run()
        notice = beyond_bounds(env.spaces.observation, recorder.obs, recorder.valid)
        return Rollout(recorder.arrays(), recorder.final_state, notice)


class _Recorder:
    """One pass through some lanes: the loop, and the arrays [T, rows, …] that it fills."""

    def __init__(self, env: VectorTaskEnv, policy: Policy, params: NDArray[np.float32], lanes: Lanes) -> None:
        self.env, self.policy, self.lanes, self.rows = env, policy, lanes, env.num_envs
        self.steps = lanes.episodes * env.horizon
        self.params = policy.unpack(torch.from_numpy(params))
        self.noise = None if lanes.deterministic else torch.from_numpy(self._draw_noise())
        self.seeds = draw_reset_seeds(lanes.stream, lanes.first_slot, len(lanes.tasks), lanes.lanes, lanes.episodes)
        action, obs_size, shape = env.spaces.action, env.spaces.observation.size, (self.steps, self.rows)
        self.bound = env.action_scale if action.kind == "box" else 0.0  # what lies beyond is not executed
        self.obs = np.zeros((*shape, obs_size), np.float32)
        self.action = np.zeros((*shape, action.size), np.float32) if action.kind == "box" else np.zeros(shape, np.int64)
        self.executed = np.zeros_like(self.action) if policy.remembers and action.kind == "box" else None
        self.reward = np.zeros(shape, np.float32)
        self.terminated, self.truncated, self.first, self.valid = (np.zeros(shape, np.bool_) for _ in range(4))
        self.success: NDArray[np.bool_] | None = None
        self.final_obs = np.zeros((self.rows, lanes.episodes, obs_size), np.float32)
        self.diverged = np.zeros((self.rows, lanes.episodes), np.bool_)
        self.outputs: list[torch.Tensor] = []
        self.final_state: TrialState | None = None

    def run(self) -> None:
        """The loop over steps, all rows together."""
        env, policy, episodes = self.env, self.policy, self.lanes.episodes
        episode = np.zeros(self.rows, np.int64)
        start = self.lanes.start  # stays as it is: others may start from it, too
        trial = start.rows(slice(None)) if start else TrialState.at_start(policy, env.spaces.action, self.rows)
        shown, outcome = trial.outcome.unbind(), trial.outcome.numpy()  # the same memory, looked at in two ways
        first = np.ones(self.rows, np.bool_)
        advance = torch.inference_mode(False)(env.step) if env.takes_gradients else env.step
        obs = self._reset(self.seeds[:, 0].tolist(), None, 0)
        for t in range(self.steps):
            live = episode < episodes
            # the policy acts
            step = PolicyInput(torch.from_numpy(obs), trial.action, *shown)
            noise = None if self.noise is None else self.noise[t]
            drawn, outputs, trial.policy_state = policy.act(self.params, step, trial.policy_state, noise)
            action = drawn.numpy()
            # the environments answer
            try:
                raw_obs, raw_reward, terminated, truncated, info = advance(action)
            except NumericError as error:
                raise self._with_place(error, action, t) from error
            next_obs = self._single("observations", raw_obs, t)
            reward = self._single("rewards", raw_reward, t)
            ended = live & (terminated | truncated)
            # the step is recorded
            self.outputs.append(outputs)
            self.obs[t], self.action[t], self.reward[t] = obs, action, reward
            self.terminated[t], self.truncated[t] = terminated & live, truncated & live
            self.first[t], self.valid[t] = first & live, live
            if info:
                self._record_info(info, live, episode, t)
            # what the policy is shown next: of an episode's last step, too
            trial.action = drawn.clamp(-self.bound, self.bound) / self.bound if self.bound else drawn
            outcome[0], outcome[1], outcome[2], outcome[3] = reward, self.terminated[t], self.truncated[t], ended
            if self.executed is not None:
                self.executed[t] = trial.action.numpy()
            # episodes that ended: the next one begins, or the lane is done
            if ended.any():
                rows = np.flatnonzero(ended)
                self.final_obs[rows, episode[rows]] = next_obs[rows]
                episode[rows] += 1
                if self.lanes.return_state:
                    done = torch.from_numpy(ended & (episode == episodes))
                    self.final_state = trial.where(done, self.final_state)
                again = ended & (episode < episodes)
                if again.any():
                    seeds = self.seeds[np.arange(self.rows), np.minimum(episode, episodes - 1)].tolist()
                    next_obs = self._reset(seeds, {"reset_mask": again}, t)
                elif not (episode < episodes).any():
                    break
            obs, first = next_obs, ended

    def arrays(self) -> Arrays:
        """The recorded fields as [n, E, T, …], zero behind a lane's last valid step; T ends with the longest lane."""
        n, lanes, steps = len(self.lanes.tasks), self.lanes.lanes, len(self.outputs)

        def by_task(values: NDArray[Any]) -> NDArray[Any]:  # [T or more, rows, …] → [n, E, T, …]
            return np.ascontiguousarray(values[:steps].swapaxes(0, 1)).reshape(n, lanes, steps, *values.shape[2:])

        names = ("obs", "action", "reward", "terminated", "truncated", "first", "valid", "executed", "success")
        recorded = {name: getattr(self, name) for name in names}
        result = {name: by_task(values) for name, values in recorded.items() if values is not None}
        outputs = torch.stack(self.outputs).movedim(0, 1).reshape(n, lanes * steps, -1)  # per task, as its actions
        action = torch.from_numpy(result["action"]).flatten(1, 2)
        log_prob = self.policy.log_prob(self.params, outputs, action)
        result["log_prob"] = log_prob.unflatten(1, (lanes, steps)).numpy().copy()
        padding = ~result["valid"]
        if padding.any():
            for name in ("obs", "action", "reward", "executed", "log_prob"):
                if name in result:
                    result[name][padding] = 0
        result["diverged"] = self.diverged.reshape(n, lanes, -1)
        result["final_obs"] = self.final_obs.reshape(n, lanes, *self.final_obs.shape[1:])
        return result

    def _record_info(self, info: dict[str, Any], live: NDArray[np.bool_], episode: NDArray[np.int64], t: int) -> None:
        if "diverged" in info:
            rows = np.flatnonzero(info["diverged"] & live)
            self.diverged[rows, episode[rows]] = True
        if "success" in info:
            if self.success is None:
                self.success = np.zeros((self.steps, self.rows), np.bool_)
            self.success[t] = info["success"] & live

    def _draw_noise(self) -> NDArray[np.float32]:
        """[T, rows, noise_size], one block per lane from the lane's own stream."""
        policy, lanes = self.policy, self.lanes
        noise = np.empty((self.rows, self.steps, policy.noise_size), np.float32)
        for row, rng in enumerate(lanes.stream.noise_of_lanes(lanes.first_slot, len(lanes.tasks), lanes.lanes)):
            if policy.noise_kind == "normal":
                rng.standard_normal(dtype=np.float32, out=noise[row])
            else:
                rng.random(dtype=np.float32, out=noise[row])
        return np.ascontiguousarray(noise.swapaxes(0, 1))

    def _reset(self, seeds: list[int], options: dict[str, Any] | None, t: int) -> NDArray[np.float32]:
        with torch.inference_mode(False):
            raw_obs = self.env.reset(seed=seeds, options=options)[0]
        return self._single("observations", raw_obs, t)

    def _single(self, what: str, values: NDArray[Any], t: int) -> NDArray[np.float32]:
        """``values`` as they are kept and shown to the policy, in which a large number may be an infinite one."""
        if surely_finite(values):
            return values.astype(np.float32)
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        if not np.isfinite(single).all():
            representable = " that float32 can hold" if np.isfinite(values).all() else ""
            raise self._not_finite(f"{what}{representable}", values, np.isfinite(single), t)
        return single

    def _with_place(self, error: NumericError, action: NDArray[Any], t: int) -> NumericError:
        """The environments' error; where they refused actions that are not finite, with lane and task."""
        finite = np.isfinite(action)
        return error if finite.all() else self._not_finite("actions", action, finite, t)

    def _not_finite(self, what: str, values: NDArray[Any], finite: NDArray[np.bool_], t: int) -> NumericError:
        """What to raise for the first of the rows of ``values`` [rows, …] that are not all ``finite``."""
        row = int(np.flatnonzero(~finite.reshape(self.rows, -1).all(axis=1))[0])
        n, lane = divmod(row, self.lanes.lanes)
        return NumericError(
            f"expected finite {what}, got {values[row]} at step {t} of lane {lane} of task slot "
            f"{self.lanes.first_slot + n}, {dict(self.lanes.tasks[n])}"
        )


def beyond_bounds(space: Space, obs: NDArray[np.float32], valid: NDArray[np.bool_]) -> str | None:
    """Where observations [T, rows, size] leave their space in ``valid`` steps [T, rows], in words; None if nowhere."""
    bounds = np.array([space.low, space.high])
    if not np.isfinite(bounds).any():
        return None
    slack = BOUND_TOLERANCE * np.maximum(1.0, np.abs(bounds))
    low, high = bounds[0] - slack[0], bounds[1] + slack[1]
    if obs.min() >= low.max() and obs.max() <= high.min():
        return None  # quick, and enough where all bounds are alike
    for place in np.flatnonzero(np.isfinite(bounds).any(axis=0)).tolist():
        seen = obs[..., place][valid]
        for value in (seen.min(), seen.max()):
            if not low[place] <= value <= high[place]:
                declared = f"[{space.low[place]:g}, {space.high[place]:g}]"
                return f"number {place} of the observation was {value:g}, outside its declared bounds {declared}"
    return None


def draw_reset_seeds(stream: Stream, first_slot: int, num_tasks: int, lanes: int, episodes: int) -> NDArray[np.int64]:
    """Seeds [rows, episodes] in [0, 2**31) for the resets of consecutive tasks' lanes."""
    slots = range(first_slot, first_slot + num_tasks)
    return np.concatenate([stream.reset(slot).integers(2**31, size=(lanes, episodes)) for slot in slots])


_environments: dict[tuple[str, int], VectorTaskEnv] = {}


def _environment(distribution: TaskDistribution, num_lanes: int) -> VectorTaskEnv:
    """This process's environment for a family and lane count: building one can take longer than running it."""
    family = type(distribution)
    key = (f"{family.__module__}:{family.__qualname__}:{distribution.config!r}", num_lanes)
    if key not in _environments:
        _close_at_exit()
        close_environments()  # one is enough: sizes alternate only between training and evaluation
        _environments[key] = make_lanes(distribution, num_lanes)
    return _environments[key]


@functools.cache
def _close_at_exit() -> None:
    """Once in a process: multiprocessing's finalizers also run at the end of a worker, which has no ``atexit``."""
    util.Finalize(None, close_environments, exitpriority=0)


def close_environments() -> None:
    """Close the environments that this process has built for its units."""
    while _environments:
        close_quietly(_environments.popitem()[1])
