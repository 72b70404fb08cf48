"""An adaptation that somebody else drives: a robot's own loop asks for actions and says what they came to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from metarl.agent import Agent
from metarl.api.actor import Actor
from metarl.api.adapted_policy import AdaptedPolicy, read_outcome
from metarl.api.episodes import AdaptationStep, Episode, Recording, digest, save_episodes, trajectory
from metarl.api.fit import Fit
from metarl.api.notices import notice
from metarl.errors import CheckpointError
from metarl.sampling.trial_state import TrialState
from metarl.seeding import Domain, generator
from metarl.types import Trajectory

_Pending = tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[np.bool_]]  # see Adaptation.act


@dataclass(frozen=True)
class Plan:
    """How much is gathered for an adaptation."""

    steps: int  # adaptation steps; 0 with a memory
    episodes: int  # per adaptation step; with a memory, of the trial
    env_steps: int | None  # more episodes until an adaptation step has as many; None: no more
    horizon: int  # steps after which an episode is truncated

    def describe(self) -> str:
        """The budget in words."""
        most = self.episodes * self.horizon * max(1, self.steps)
        more = f", and more episodes until a step has {self.env_steps} steps" if self.env_steps else ""
        times = f"{self.steps} × {self.episodes}" if self.steps else str(self.episodes)
        return f"{times} episodes of at most {self.horizon} steps: at most {most} environment steps{more}"


class Adaptation:
    """Adapts to one task, step by step::

        session = agent.adaptation(steps=1, episodes=20)
        while not session.done:
            obs = …  # of the robot, at the beginning of an episode
            over = False
            while not over:
                obs, reward, terminated, truncated = …  # after session.policy(obs) was executed
                over = session.observe(obs, reward, terminated, truncated)
        policy = session.policy

    ``observe`` returns whether the episode is over, by its flags or because the horizon is reached: then the next
    observation is the first of another episode. Episodes that are broken off are dropped by :meth:`drop_episode`; they
    count for nothing. Adaptation samples its actions.

    Attributes:
        plan: how much is gathered.
        history: what the steps so far came to.
        episodes: those that it has learned from so far.
        seed: of its random numbers.
    """

    def __init__(
        self,
        agent: Agent,
        fit: Fit,
        plan: Plan,
        *,
        seed: int,
        described: dict[str, Any],
        autoreset: AutoresetMode | None = None,
    ) -> None:
        self.plan, self.seed, self.history, self.episodes = plan, seed, [], []
        self._agent, self._fit, self._described, self._autoreset = agent, fit, described, autoreset
        self._rows = fit.lanes or 1
        self._policy = agent.policy()
        self._adapted = agent.init_adapted(1, rng=generator(seed, Domain.ADAPT_START))
        self._step = 0
        self._finished: AdaptedPolicy | None = None
        self._begin_step()
        if plan.episodes == 0 or (plan.steps == 0 and not self._policy.remembers):
            self._finish()

    history: list[AdaptationStep]
    episodes: list[Episode]
    _pending: _Pending | None

    @property
    def done(self) -> bool:
        """Whether adaptation has come to its end."""
        return self._finished is not None

    @property
    def policy(self) -> Any:
        """What acts: :meth:`act` until adaptation is done, then the :class:`AdaptedPolicy` that it has come to."""
        return self._finished or self.act

    def reset_seeds(self) -> int | list[int]:
        """Seeds for environments' resets: of the next episode, or one per lane of a vector environment."""
        ahead = [0 if self._policy.remembers else lane for lane in range(self._rows)]
        numbers = [self._next_number(lane) + more for lane, more in enumerate(ahead)]
        streams = [self._stream(Domain.ADAPT_RESET, lane, number) for lane, number in enumerate(numbers)]
        seeds = [int(stream.integers(2**31)) for stream in streams]
        return seeds if self._fit.lanes is not None else seeds[0]

    def act(self, obs: Any) -> Any:
        """The action for an observation, sampled; for all lanes at once where there are several.

        Raises:
            RuntimeError: adaptation is done, or what the last action came to was not observed.
            EnvError: the observation does not belong to the environment's space.
            NumericError: observation or action are not finite.
        """
        if self.done:
            raise RuntimeError("adaptation is done: session.policy is the policy that it has come to")
        if self._pending is not None:
            raise RuntimeError("expected session.observe(obs, reward, terminated, truncated) between two actions")
        seen = self._fit.observe(obs)
        self._start_episodes()
        active = np.array([recording is not None for recording in self._recordings])
        drawn = self._actor.act(seen, self._noise(), active if self._policy.remembers else None)
        action, executed = self._fit.act(drawn)
        assert executed is not None
        self._pending = seen, drawn.copy(), executed, active
        return action

    def observe(
        self, obs: Any, reward: Any, terminated: Any, truncated: Any, *, executed: Any = None, final_obs: Any = None
    ) -> Any:
        """What the last action came to. Returns whether the episode is over and the environment is to be reset.

        Args:
            obs: the observation behind the step.
            reward: of the step.
            terminated: the task itself ended.
            truncated: the episode was cut off.
            executed: the action that was executed, if it was not the one given; for agents with a memory. Others learn
                from the actions that they drew, and the rest is the environment's.
            final_obs: of vector environments that reset themselves in the same step: the last observations of the
                episodes that ended, as in ``info["final_obs"]``.

        Raises:
            RuntimeError: there was no action since the last call.
            NumericError: something is not finite; after :meth:`drop_episode` adaptation can go on.
        """
        if self._pending is None:
            raise RuntimeError("expected an action, session.policy(obs), before its outcome is observed")
        seen, drawn, shown, active = self._pending
        rewards, ended, cut = read_outcome(reward, terminated, truncated, self._rows)
        if executed is not None:
            shown = self._fit.executed(executed)
        # the horizon
        lengths = np.array([0 if r is None else len(r.reward) + 1 for r in self._recordings])
        cut_here = cut | (active & (lengths >= self.plan.horizon))
        over = active & (ended | cut_here)
        last = self._last_observations(obs, final_obs, over)
        # the step is recorded, and shown to a memory
        for lane in np.flatnonzero(active).tolist():
            recording = self._recordings[lane]
            assert recording is not None
            recording.obs.append(seen[lane])
            recording.action.append(drawn[lane])
            recording.executed.append(np.asarray(shown[lane]))
            recording.reward.append(rewards[lane])
        if self._policy.remembers:
            self._actor.observe(shown, rewards, ended, cut_here, active)
        self._pending = None
        # episodes that ended
        for lane in np.flatnonzero(over).tolist():
            self._end_episode(lane, last[lane], bool(ended[lane]), bool(cut_here[lane]))
        again = self._to_reset(ended | cut, over)
        if self._step_is_complete():
            self._learn()
            again[:] = True
            self._resetting[:] = False
            self._fresh[:] = True
        return again if self._fit.lanes is not None else bool(again[0])

    def drop_episode(self) -> None:
        """Forget the episodes that go on, as when a robot was stopped: the next observation begins another one."""
        going_on = [(lane, recording) for lane, recording in enumerate(self._recordings) if recording is not None]
        steps = sum(len(recording.reward) for _, recording in going_on)
        if steps:
            notice(f"an unfinished episode of {steps} steps was dropped: adaptation learns from whole ones")
        for lane, _ in going_on:
            self._recordings[lane] = None
            if self._policy.remembers:  # it goes back to where it stood
                mask = torch.from_numpy(np.arange(self._rows) == lane)
                self._actor.trial = self._before[lane].repeat(self._rows).where(mask, self._actor.trial)
        self._pending = None
        self._resetting[:] = False
        self._fresh[:] = True

    def save(self, folder: str | Path) -> Path:
        """Write the episodes so far to a new folder, for :meth:`TrainedAgent.adapt_from`; one that goes on is left out,
        with a notice. Returns the folder.

        Raises:
            StorageError: the folder exists, or cannot be written.
        """
        steps = sum(len(recording.reward) for recording in self._recordings if recording is not None)
        if steps:
            notice(f"an unfinished episode of {steps} steps is not saved: adaptation learns from whole ones")
        return save_episodes(Path(folder), [*self.episodes, *self._gathered()], self.seed)

    def _begin_step(self) -> None:
        """Gather for the next adaptation step, with the parameters that there are."""
        self._actor = Actor(self._policy, self._agent.policy_parameters(self._adapted), self._fit.action, self._rows)
        self._digest = digest(self._actor.params)
        self._recordings: list[Recording | None] = [None] * self._rows
        self._whole: dict[tuple[int, int], Episode] = {}  # by lane of the trial (0 without a memory) and number
        self._before: list[TrialState] = [self._actor.trial] * self._rows
        self._pending = None
        self._fresh = np.ones(self._rows, np.bool_)  # lanes that show an episode's first observation
        self._resetting = np.zeros(self._rows, np.bool_)  # lanes whose next step is their reset

    def _start_episodes(self) -> None:
        for lane in np.flatnonzero(self._fresh).tolist():
            if self._recordings[lane] is None and self._wants_another(lane):
                number = self._next_number(lane)
                self._recordings[lane] = Recording(number, self._stream(Domain.ADAPT_NOISE, lane, number))
                if self._policy.remembers:
                    self._before[lane] = self._actor.trial.rows(slice(lane, lane + 1))
        self._fresh[:] = False

    def _wants_another(self, lane: int) -> bool:
        """Whether an episode is to begin in a lane."""
        if self._next_number(lane) < self.plan.episodes:
            return True
        wanted = self.plan.env_steps
        return wanted is not None and sum(episode.env_steps for episode in self._whole.values()) < wanted

    def _next_number(self, lane: int) -> int:
        """The first number that no episode has: in the lane's trial, or, without a memory, of all lanes' episodes."""
        trial = self._trial_of(lane)
        taken = {number for owner, number in self._whole if owner == trial}
        taken |= {r.number for other, r in enumerate(self._recordings) if r and self._trial_of(other) == trial}
        return next(number for number in itertools.count() if number not in taken)

    def _trial_of(self, lane: int) -> int:
        return lane if self._policy.remembers else 0

    def _stream(self, domain: Domain, lane: int, number: int) -> np.random.Generator:
        """Of an episode: a trial's by its lane and number, others by their adaptation step and number."""
        if self._policy.remembers:
            return generator(self.seed, domain, phase=number, lane=lane)
        return generator(self.seed, domain, phase=self._step, lane=number)

    def _noise(self) -> NDArray[np.float32]:
        """[rows, noise_size] from each episode's own stream; zeros where there is none."""
        policy = self._policy
        noise = np.zeros((self._rows, policy.noise_size), np.float32)
        for row, recording in zip(noise, self._recordings, strict=True):
            if recording is not None and policy.noise_kind == "normal":
                recording.noise.standard_normal(dtype=np.float32, out=row)
            elif recording is not None:
                recording.noise.random(dtype=np.float32, out=row)
        return noise

    def _last_observations(self, obs: Any, final_obs: Any, over: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Behind the last steps of the lanes that are ``over``, [rows, size]."""
        seen = self._fit.observe(obs)
        if final_obs is not None:
            for lane in np.flatnonzero(over).tolist():
                if final_obs[lane] is not None:
                    seen[lane] = self._fit.observe_one(final_obs[lane])
        return seen

    def _end_episode(self, lane: int, final_obs: NDArray[np.float32], terminated: bool, truncated: bool) -> None:
        recording, self._recordings[lane] = self._recordings[lane], None
        assert recording is not None
        self._whole[self._trial_of(lane), recording.number] = recording.finished(
            self._step, self._digest, final_obs, terminated, truncated, self._policy.remembers
        )

    def _to_reset(self, ended: NDArray[np.bool_], over: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Lanes that the caller is to reset, of those whose environment ``ended`` and whose episode is ``over``."""
        if self._autoreset is AutoresetMode.NEXT_STEP:
            self._fresh |= self._resetting
            self._resetting = ended & ~self._resetting
            again = over & ~ended
        elif self._autoreset is AutoresetMode.SAME_STEP:
            self._fresh |= ended
            again = over & ~ended
        else:
            again = over | ended
        self._fresh |= again
        return again

    def _step_is_complete(self) -> bool:
        going_on = any(recording is not None for recording in self._recordings)
        return not going_on and not any(self._wants_another(lane) for lane in range(self._rows))

    def _gathered(self) -> list[Episode]:
        """The whole episodes of this step in order, without those that were begun beside the last one needed."""
        kept, env_steps = [], 0
        for (_, number), episode in sorted(self._whole.items()):
            if number < self.plan.episodes or env_steps < (self.plan.env_steps or 0):
                kept.append(episode)
            env_steps += episode.env_steps
        return kept

    def _learn(self) -> None:
        """What the episodes of this step teach; then the next step, or the end."""
        gathered = self._gathered()
        self.episodes += gathered
        if self._policy.remembers:
            for number in range(self.plan.episodes):
                these = [episode for (_, n), episode in self._whole.items() if n == number]
                self.history.append(record(these, None))
            self._whole.clear()
            return self._finish()
        batch = trajectory(gathered, self._actor.log_prob)
        rng = generator(self.seed, Domain.ADAPT_LEARNER, phase=self._step)
        self._adapted = self._agent.adapt(self._adapted, batch, step=self._step, rng=rng)
        self._step += 1
        before = self._actor
        self._begin_step()
        self.history.append(record(gathered, kl(batch, before, self._actor)))
        if self._step == self.plan.steps:
            self._finish()

    def _finish(self) -> None:
        self._warn_of_decline()
        self._finished = AdaptedPolicy(
            self._actor,
            self._fit,
            history=self.history,
            seed=self.seed,
            autoreset=self._autoreset,
            described=self._described,
        )

    def _warn_of_decline(self) -> None:
        if len(self.history) > 1:
            first, last = (float(np.mean(self.history[place].returns)) for place in (0, -1))
            if last < first:
                what = "episode" if self._policy.remembers else "adaptation step"
                notice(f"the mean return fell from {first:.4g} in the first {what} to {last:.4g} in the last")


def record(episodes: Sequence[Episode], change: float | None) -> AdaptationStep:
    """What some episodes came to, and how far the policy moved by them."""
    returns = tuple(episode.total for episode in episodes)
    return AdaptationStep(returns, change, sum(episode.env_steps for episode in episodes))


def kl(batch: Trajectory, before: Actor, after: Actor) -> float:
    """An estimate of KL(before ‖ after) in nats, on the steps that ``before`` took; never negative.

    Source: Schulman 2020, "Approximating KL Divergence", estimator k3: the mean of ρ − 1 − log ρ, ρ = π_after/π_before.
    """
    obs, action = batch.obs[batch.valid], batch.action[batch.valid]
    log_ratio = after.log_prob(obs, action) - before.log_prob(obs, action)
    return float((log_ratio.exp() - 1 - log_ratio).double().mean())


def replay(
    agent: Agent, fit: Fit, episodes: Sequence[Episode], *, seed: int, described: dict[str, Any]
) -> AdaptedPolicy:
    """The policy that an adaptation of this agent came to which gathered these episodes.

    Raises:
        CheckpointError: there is none, or another policy has gathered one.
    """
    if not episodes:
        raise CheckpointError("expected at least one episode")
    policy, adapted = agent.policy(), agent.init_adapted(1, rng=generator(seed, Domain.ADAPT_START))
    history = []
    actor = Actor(policy, agent.policy_parameters(adapted), fit.action, 1)
    for step in sorted({episode.step for episode in episodes}):
        these = [episode for episode in episodes if episode.step == step]
        acted = digest(actor.params)
        if any(episode.policy != acted for episode in these):
            raise CheckpointError(
                f"adaptation step {step}: expected episodes that the policy {acted[:12]}… gathered, got "
                f"{these[0].policy[:12]}…: gradients hold for what the policy itself did"
            )
        if policy.remembers:
            for episode in these:
                _remember(actor, episode)
                history.append(record([episode], None))
            continue
        batch = trajectory(these, actor.log_prob)
        adapted = agent.adapt(adapted, batch, step=step, rng=generator(seed, Domain.ADAPT_LEARNER, phase=step))
        before, actor = actor, Actor(policy, agent.policy_parameters(adapted), fit.action, 1)
        history.append(record(these, kl(batch, before, actor)))
    return AdaptedPolicy(actor, fit, history=history, seed=seed, described=described)


def _remember(actor: Actor, episode: Episode) -> None:
    """Let a memory go through an episode again."""
    assert episode.executed is not None
    last = episode.env_steps - 1
    for t in range(episode.env_steps):
        actor.act(episode.obs[t : t + 1], None)
        ends = [np.array([t == last and flag]) for flag in (episode.terminated, episode.truncated)]
        actor.observe(episode.executed[t : t + 1], episode.reward[t : t + 1], *ends)
