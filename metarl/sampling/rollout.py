"""The rollout unit: a pure function from policy, parameters, a few tasks and stream keys to trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.errors import NumericError
from metarl.nn.policies import Policy, State
from metarl.seeding import Stream
from metarl.tasks import Task, TaskDistribution, VectorTaskEnv
from metarl.types import PolicyInput

Arrays = dict[str, NDArray[Any]]  # a Trajectory's fields as arrays [n, E, …]; "dist/<name>" for distribution parameters


@dataclass(frozen=True)
class RolloutUnit:
    """All that a rollout needs. Whole tasks, ``lanes`` rows each; rows of a lane's trial follow one another in time."""

    distribution: TaskDistribution
    policy: Policy
    params: NDArray[np.float32]  # [n, P], one row per task, or [1, P] for all of them
    tasks: tuple[Task, ...]
    first_slot: int  # position of tasks[0] in the meta-batch: task slots key the random streams
    stream: Stream
    lanes: int
    episodes: int
    deterministic: bool  # the policy's mode; behind ``restore_after`` only, where that is given
    restore_after: int | None = None  # later episodes of a lane start with the memory that so many episodes left

    def describe(self) -> str:
        """The unit in a few words, for error messages."""
        last = self.first_slot + len(self.tasks) - 1
        return (
            f"tasks {self.first_slot}–{last} {[dict(task) for task in self.tasks]}, "
            f"{self.lanes} lanes × {self.episodes} episodes, {self.stream}"
        )


def rollout(unit: RolloutUnit) -> Arrays:
    """Run every lane for exactly ``episodes`` episodes, one behind the other, and return the unit's arrays.

    Rows keep their places from the first step to the last, ended ones are masked and not dropped: the policy always
    sees the same batch shape, so that no lane's numbers depend on when another one ends.

    Raises:
        NumericError: an observation, a reward or an action is not finite.
    """
    env = _environment(unit.distribution, len(unit.tasks) * unit.lanes)
    env.set_tasks([task for task in unit.tasks for _ in range(unit.lanes)])
    with torch.inference_mode():
        recorder = _Recorder(unit, env)
        recorder.run()
        return recorder.arrays()


class _Recorder:
    """One pass through a unit: the loop, and the arrays [rows, T, …] that it fills."""

    def __init__(self, unit: RolloutUnit, env: VectorTaskEnv) -> None:
        self.unit, self.env = unit, env
        self.rows = env.num_envs
        self.steps = unit.episodes * unit.distribution.horizon
        self.params = unit.policy.unpack(torch.from_numpy(unit.params))
        by_mode = unit.deterministic and unit.restore_after is None
        self.noise = None if by_mode else torch.from_numpy(self._draw_noise())
        self.seeds = draw_reset_seeds(unit.stream, unit.first_slot, len(unit.tasks), unit.lanes, unit.episodes)
        spaces = unit.distribution.spaces
        action = spaces.action
        shape = (self.steps, self.rows)
        self.obs = np.zeros((*shape, spaces.observation.size), np.float32)
        self.action = np.zeros((*shape, action.size), np.float32) if action.kind == "box" else np.zeros(shape, np.int64)
        self.bound = env.action_scale if action.kind == "box" else 0.0  # what lies beyond is not executed
        remembered = unit.policy.remembers and action.kind == "box"
        self.executed = np.zeros_like(self.action) if remembered else None
        self.reward = np.zeros(shape, np.float32)
        self.terminated, self.truncated, self.first, self.valid = (np.zeros(shape, np.bool_) for _ in range(4))
        self.final_obs = np.zeros((self.rows, unit.episodes, spaces.observation.size), np.float32)
        self.diverged = np.zeros(self.rows, np.int64)
        self.success: NDArray[np.bool_] | None = None
        self.outputs: list[torch.Tensor] = []

    def run(self) -> None:
        unit, env = self.unit, self.env
        episode = np.zeros(self.rows, np.int64)
        first = np.ones(self.rows, np.bool_)
        obs = self._reset(self.seeds[:, 0].tolist(), None, 0)
        carried = _Carried.at_start(unit.policy, self.action[0])
        kept: _Carried | None = None
        for t in range(self.steps):
            live = episode < unit.episodes
            step = PolicyInput(torch.from_numpy(obs), carried.action, *carried.shown)
            drawn, outputs, carried.state = self._act(step, carried.state, episode, t)
            action = drawn.numpy()
            self._require_finite("actions", action, t)
            raw_obs, raw_reward, terminated, truncated, info = env.step(action)
            next_obs = self._single("observations", raw_obs, t)
            reward = self._single("rewards", raw_reward, t)
            self.outputs.append(outputs)
            self.obs[t], self.action[t], self.reward[t] = obs, action, reward
            self.terminated[t], self.truncated[t] = terminated & live, truncated & live
            self.first[t], self.valid[t] = first & live, live
            if info:
                self._record_info(info, live, t)
            ended = live & (terminated | truncated)
            carried.action = drawn.clamp(-self.bound, self.bound) / self.bound if self.bound else drawn
            carried.see(reward, self.terminated[t], self.truncated[t], ended)
            if self.executed is not None:
                self.executed[t] = carried.action.numpy()
            if ended.any():
                rows = np.flatnonzero(ended)
                self.final_obs[rows, episode[rows]] = next_obs[rows]
                episode[rows] += 1
                if unit.restore_after is not None:
                    kept = carried.restored(kept, ended, episode, unit.restore_after)
                again = ended & (episode < unit.episodes)
                if again.any():
                    seeds = self.seeds[np.arange(self.rows), np.minimum(episode, unit.episodes - 1)].tolist()
                    next_obs = self._reset(seeds, {"reset_mask": again}, t)
                elif not (episode < unit.episodes).any():
                    break
            obs, first = next_obs, ended

    def _act(
        self, step: PolicyInput, state: State, episode: NDArray[np.int64], t: int
    ) -> tuple[torch.Tensor, torch.Tensor, State]:
        """What the policy draws at step t, by mode where it is scored so, with its outputs and its next state."""
        unit = self.unit
        noise = None if self.noise is None else self.noise[t]
        drawn, outputs, following = unit.policy.act(self.params, step, state, noise)
        if unit.deterministic and unit.restore_after is not None:
            mode = unit.policy.act(self.params, step, state, None)[0]
            scored = torch.from_numpy(episode >= unit.restore_after).view(-1, *[1] * (drawn.ndim - 1))
            drawn = torch.where(scored, mode, drawn)
        return drawn, outputs, following

    def arrays(self) -> Arrays:
        """The recorded fields as [n, E, T, …], zero behind a lane's last valid step; T ends with the unit's longest."""
        outputs = torch.stack(self.outputs)  # [T, rows, O]
        n, lanes, steps = len(self.unit.tasks), self.unit.lanes, len(self.outputs)

        def by_task(values: NDArray[Any]) -> NDArray[Any]:  # [T or more, rows, …] → [n, E, T, …]
            return np.ascontiguousarray(values[:steps].swapaxes(0, 1)).reshape(n, lanes, steps, *values.shape[2:])

        result = {
            name: by_task(getattr(self, name))
            for name in ("obs", "action", "reward", "terminated", "truncated", "first", "valid")
        }
        if self.executed is not None:
            result["executed"] = by_task(self.executed)
        per_task = outputs.movedim(0, 1).reshape(n, lanes * steps, -1)
        action = torch.from_numpy(result["action"]).flatten(1, 2)
        log_prob, dist = self.unit.policy.describe(self.params, per_task, action)
        described = {"log_prob": log_prob} | {f"dist/{name}": value for name, value in dist.items()}
        # contiguous copies: a parameter that is the same at every step (a standard deviation) may come expanded
        result |= {name: value.unflatten(1, (lanes, steps)).numpy().copy() for name, value in described.items()}
        padding = ~result["valid"]
        if padding.any():
            for name in ("obs", "action", "reward", "executed", *described):
                if name in result:
                    result[name][padding] = 0
        if self.success is not None:
            result["success"] = by_task(self.success)
        result["diverged"] = self.diverged.reshape(n, lanes)
        result["final_obs"] = self.final_obs.reshape(n, lanes, *self.final_obs.shape[1:])
        return result

    def _record_info(self, info: dict[str, Any], live: NDArray[np.bool_], t: int) -> None:
        if "diverged" in info:
            self.diverged += info["diverged"] & live
        if "success" in info:
            if self.success is None:
                self.success = np.zeros((self.steps, self.rows), np.bool_)
            self.success[t] = info["success"] & live

    def _draw_noise(self) -> NDArray[np.float32]:
        """[T, rows, noise_size], one block per lane from the lane's own stream."""
        policy, unit = self.unit.policy, self.unit
        noise = np.empty((self.rows, self.steps, policy.noise_size), np.float32)
        for row in range(self.rows):
            rng = unit.stream.noise(unit.first_slot + row // unit.lanes, row % unit.lanes)
            if policy.noise_kind == "normal":
                rng.standard_normal(dtype=np.float32, out=noise[row])
            else:
                rng.random(dtype=np.float32, out=noise[row])
        return np.ascontiguousarray(noise.swapaxes(0, 1))

    def _reset(self, seeds: list[int], options: dict[str, Any] | None, t: int) -> NDArray[np.float32]:
        return self._single("observations", self.env.reset(seed=seeds, options=options)[0], t)

    def _single(self, what: str, values: NDArray[Any], t: int) -> NDArray[np.float32]:
        """``values`` as they are kept and shown to the policy, in which a large number may be an infinite one."""
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        self._require_finite(what, single, t)
        return single

    def _require_finite(self, what: str, values: NDArray[Any], t: int) -> None:
        """Raise NumericError with the first place where ``values`` [rows, …] are not finite."""
        if np.isfinite(values).all():
            return
        row = int(np.flatnonzero(~np.isfinite(values.reshape(self.rows, -1)).all(axis=1))[0])
        n, lane = divmod(row, self.unit.lanes)
        raise NumericError(
            f"expected finite {what}, got {values[row]} at step {t} of lane {lane} of task slot "
            f"{self.unit.first_slot + n}, {dict(self.unit.tasks[n])}"
        )


@dataclass
class _Carried:
    """What a policy takes from one step into the next, by rows: its state, and what the last step came to."""

    state: State
    action: torch.Tensor  # [rows, act] as executed, in units of the control range; [rows] choices, −1 for none
    flags: torch.Tensor  # [4, rows]: previous reward, terminated and truncated; first; written in place

    def __post_init__(self) -> None:
        self.shown = self.flags.unbind()  # over the same memory, made once
        self._written = self.flags.numpy()

    @staticmethod
    def at_start(policy: Policy, action: NDArray[Any]) -> _Carried:
        """Before a trial's first step, for actions of the given shape."""
        flags = torch.zeros(4, len(action))
        flags[3] = 1.0
        none = torch.full(action.shape, -1) if action.ndim == 1 else torch.zeros(action.shape)
        return _Carried(policy.initial_state(len(action)), none, flags)

    def see(
        self,
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        first: NDArray[np.bool_],
    ) -> None:
        """Take in the outcome of a step [rows], and which rows begin an episode next."""
        flags = self._written
        flags[0], flags[1], flags[2], flags[3] = reward, terminated, truncated, first

    def restored(
        self, kept: _Carried | None, ended: NDArray[np.bool_], episode: NDArray[np.int64], after: int
    ) -> _Carried:
        """What rows had when their number of ``episode`` reached ``after``; rows beyond that get it back."""
        reached = torch.from_numpy(ended & (episode == after))
        beyond = torch.from_numpy(ended & (episode > after))
        if kept is None:
            kept = _Carried(self.state, self.action, self.flags.clone())

        def choose(rows: torch.Tensor, chosen: torch.Tensor, other: torch.Tensor, axis: int = 0) -> torch.Tensor:
            shape = [-1 if i == axis else 1 for i in range(chosen.ndim)]
            return torch.where(rows.reshape(shape), chosen, other)

        def merge(rows: torch.Tensor, chosen: _Carried, other: _Carried) -> _Carried:
            state = tuple(choose(rows, a, b) for a, b in zip(chosen.state, other.state, strict=True))
            return _Carried(
                state, choose(rows, chosen.action, other.action), choose(rows, chosen.flags, other.flags, axis=1)
            )

        kept = merge(reached, self, kept)
        now = merge(beyond, kept, self)
        self.state, self.action = now.state, now.action
        self.flags.copy_(now.flags)
        return kept


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
        _environments.clear()  # one is enough: sizes alternate only between training and evaluation
        _environments[key] = distribution.make_vector(num_lanes)
    return _environments[key]
