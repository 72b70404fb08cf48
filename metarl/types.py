"""The data that flows between sampler, policy and agent; docs/architecture.md explains the letters N, E, T, …"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

Metrics = dict[str, float]
WITHOUT_STEPS = ("final_obs", "diverged")  # the fields of a Trajectory that have no axis T
ALIGNMENT = 256  # bytes: where tensors begin in a buffer that is sent to a device


class PolicyInput(NamedTuple):
    """What a policy sees at one step, for ``rows`` lanes. Memory policies use all of it, others only ``obs``.

    Built outside of any reset, so that the last reward and flags of an episode arrive with the first observation of the
    next; all but ``obs`` are zero (``first`` is one, a choice −1) at the start of a trial. The
    memory is reused at the next step: a policy that keeps inputs copies them.
    """

    obs: Tensor  # [rows, obs]
    # [rows, act] as executed, in units of the control range; [rows] choices, −1 where there is none
    prev_action: Tensor
    prev_reward: Tensor  # [rows]
    prev_terminated: Tensor  # [rows], 0 or 1
    prev_truncated: Tensor  # [rows], 0 or 1
    first: Tensor  # [rows], 1 at the first step of an episode


class EpisodeSuccess(NamedTuple):
    """Three ways in which the literature counts success, each [N, E, episodes]."""

    any: Tensor  # bool: at some step; Meta-World's definition
    final: Tensor  # bool: at the last step
    first_step: Tensor  # float64: steps until the first success, from 1; NaN where there was none


@dataclass(frozen=True)
class Trajectory:
    """What one ``Sampler.collect`` returns: N tasks, E lanes per task, T steps, time last of the batch axes.

    A lane holds ``episodes`` episodes one behind the other without gaps; T is the number of steps of the longest lane.
    ``valid`` is false only behind a lane's last step, where all other fields are zero. ``terminated`` and ``truncated``
    mark the last step of an episode and never merge.
    """

    obs: Tensor  # [N, E, T, obs]
    action: Tensor  # [N, E, T, act] as drawn, before any scaling or clipping; [N, E, T] integers for discrete actions
    reward: Tensor  # [N, E, T]
    terminated: Tensor  # [N, E, T] bool
    truncated: Tensor  # [N, E, T] bool
    first: Tensor  # [N, E, T] bool, first step of an episode
    valid: Tensor  # [N, E, T] bool
    log_prob: Tensor  # [N, E, T] of ``action`` under the behaviour policy
    final_obs: Tensor  # [N, E, episodes, obs], the observation after each episode's last step
    diverged: Tensor  # [N, E, episodes] bool, the simulation diverged and the episode was cut off there
    success: Tensor | None = None  # [N, E, T] bool where the family knows success
    executed: Tensor | None = None  # [N, E, T, act] as executed, in units of the control range: for Box and a memory

    @property
    def num_steps(self) -> int:
        """Valid environment steps."""
        return int(self.valid.sum())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All fields by name; what is None is left out."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        yield from ((name, value) for name, value in values if value is not None)

    def tasks(self, part: slice) -> Trajectory:
        """The trajectories of some of the tasks; a view, no copy."""
        return self._map(lambda tensor: tensor[part])

    def to(self, device: torch.device | str) -> Trajectory:
        """The same trajectory on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def on(self, device: torch.device, names: Sequence[str]) -> Trajectory:
        """The same trajectory with the named fields on a device, by one transfer; other fields stay where they are.

        The copy is kept for as long as this trajectory: who asks for it again has it without another transfer.
        """
        here = {name: tensor for name, tensor in self.tensors() if name in names and tensor.device != device}
        if not here:
            return self
        kept: dict[Any, Trajectory] = vars(self).setdefault("_kept", {})
        key = device, tuple(names)
        if key not in kept:
            kept[key] = replace(self, **moved(here, device))
        return kept[key]

    def lanes(self, keep: Tensor) -> Trajectory:
        """Only the lanes in ``keep`` [N, E]; the others' steps become padding."""

        def blank(value: Tensor) -> Tensor:
            mask = keep.reshape(*keep.shape, *[1] * (value.ndim - 2)).expand_as(value)
            return torch.where(mask, value, torch.zeros_like(value))

        return self._map(blank)

    @staticmethod
    def side_by_side(parts: Sequence[Trajectory]) -> Trajectory:
        """The same tasks' trajectories as lanes of one; shorter ones are padded."""
        steps = max(part.valid.shape[2] for part in parts)

        def padded(name: str, value: Tensor) -> Tensor:
            missing = 0 if name in WITHOUT_STEPS else steps - value.shape[2]
            return (
                torch.cat([value, value.new_zeros(*value.shape[:2], missing, *value.shape[3:])], dim=2)
                if missing
                else value
            )

        joined = {
            name: torch.cat([padded(name, getattr(part, name)) for part in parts], dim=1)
            for name, _ in parts[0].tensors()
        }
        return Trajectory(**joined)

    def episode_returns(self) -> Tensor:
        """Undiscounted return of every episode, [N, E, episodes], in the task's reward units."""
        return self._by_episode(self.reward.double() * self.valid)

    def sound_returns(self) -> Tensor:
        """:meth:`episode_returns`, NaN where the simulation diverged: what was cut off there is no whole episode, and
        would count as a good one wherever rewards are negative."""
        return self.episode_returns().masked_fill(self.diverged, torch.nan)

    def mean_return(self) -> float:
        """The mean of :meth:`sound_returns` over the episodes that have one; NaN without any."""
        return float(self.episode_returns()[~self.diverged].mean())

    def episode_success(self) -> EpisodeSuccess | None:
        """Success of every episode; None where nobody knows."""
        if self.success is None:
            return None
        succeeded, last = self.success & self.valid, self.terminated | self.truncated
        steps = torch.arange(self.valid.shape[-1], device=self.valid.device).expand(self.valid.shape)
        start = torch.where(self.first, steps, 0).cummax(-1).values
        never = torch.full(self.final_obs.shape[:3], torch.inf, dtype=torch.float64, device=self.valid.device)
        counted = torch.where(succeeded, (steps - start + 1).double(), torch.inf)
        first_step = never.scatter_reduce(2, self._episode_index(), counted, "amin")
        return EpisodeSuccess(
            any=first_step.isfinite(),
            final=self._by_episode((succeeded & last).double()) > 0,
            first_step=first_step.where(first_step.isfinite(), torch.nan),
        )

    def _by_episode(self, values: Tensor) -> Tensor:
        """Sums of ``values`` [N, E, T], zero on padding, over the steps of every episode: [N, E, episodes]."""
        sums = torch.zeros(*values.shape[:2], self.final_obs.shape[2], dtype=values.dtype, device=values.device)
        return sums.scatter_add_(2, self._episode_index(), values)

    def _episode_index(self) -> Tensor:
        """The number of the episode that a step belongs to, [N, E, T]."""
        return (self.first.cumsum(-1) - 1).clamp(min=0)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Trajectory:
        return Trajectory(**{name: function(tensor) for name, tensor in self.tensors()})


def moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copies of tensors on a device, by a single transfer of one buffer, which a GPU fetches by itself."""
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    starts, total = {}, 0
    for name, size in sizes.items():
        starts[name] = total
        total += -(-size // ALIGNMENT) * ALIGNMENT
    packed = torch.empty(total, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def part(buffer: Tensor, name: str) -> Tensor:
        flat = buffer[starts[name] : starts[name] + sizes[name]].view(tensors[name].dtype)
        return flat.view(tensors[name].shape)

    for name, tensor in tensors.items():
        part(packed, name).copy_(tensor)
    sent = packed.to(device, non_blocking=True)
    return {name: part(sent, name) for name in tensors}
