"""Which checkpoint a run goes on from; its tensors given to an agent, after checking that they can be the agent's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from metarl.agent import Agent
from metarl.errors import CheckpointError
from metarl.run import checkpoint, run_dir
from metarl.run.checkpoint import Checkpoint

Notify = Callable[[Sequence[str]], None]  # is given what the user should know


class Candidates:
    """What a run can go on from: its newest checkpoint; with ``auto`` every valid one, the newest first."""

    def __init__(self, run: Path, auto: bool, notify: Notify) -> None:
        """Look for the ``first``; ``notify`` is told which ones are passed over, and why.

        Raises:
            CheckpointError: there is none, or the newest is not valid and it is to be that one.
        """
        directory = run_dir.checkpoints(run)
        self._auto, self._notify, self._refused = auto, notify, list[str]()
        self._found = checkpoint.from_newest(directory, self._refuse) if auto else iter([checkpoint.latest(directory)])
        self.first = self._next()

    def restore(self, agent: Agent) -> Checkpoint:
        """Have an agent go on from the first one that fits it; returns that one. Raises CheckpointError."""
        found = self.first
        while True:
            try:
                restore(agent, found)
            except CheckpointError as error:
                if not self._auto:
                    raise
                self._refuse(error)
                found = self._next()
            else:
                if self._refused:
                    self._notify([f"going on from checkpoint {found.path}"])
                return found

    def _refuse(self, error: CheckpointError) -> None:
        self._refused.append(str(error))
        self._notify([f"a checkpoint is passed over: {error}"])

    def _next(self) -> Checkpoint:
        found = next(self._found, None)
        if found is None:
            raise CheckpointError(
                "\n".join(["no checkpoint is valid, and nothing is begun afresh: start a new run", *self._refused])
            )
        return found


def restore(agent: Agent, found: Checkpoint) -> None:
    """Have an agent go on from a checkpoint.

    Raises:
        CheckpointError: names the file and every tensor that does not fit.
    """
    _take(agent, agent.load_state, found.tensors, found.path)


def begin_from(agent: Agent, tensors: dict[str, Tensor], path: Path) -> None:
    """Have an agent start with the policy's parameters of another run's checkpoint, which is at ``path``. Raises
    CheckpointError as :func:`restore`."""
    _take(agent, agent.load_parameters, tensors, path)


def _take(agent: Agent, load: Callable[[dict[str, Tensor]], None], tensors: dict[str, Tensor], path: Path) -> None:
    """Names and shapes are for the agent to check. Here what has a name of the agent's is held against what the agent
    has: numbers of another kind are refused, and so are NaN and infinities where there are none."""
    where, have = path / checkpoint.TENSORS, agent.state()
    compared = ((name, _problem(have[name], tensor)) for name, tensor in sorted(tensors.items()) if name in have)
    problems = [f"{where}: {name}: {problem}" for name, problem in compared if problem]
    if problems:
        raise CheckpointError("\n".join(problems))
    try:
        load(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _problem(have: Tensor, found: Tensor) -> str | None:
    """What is wrong with a checkpoint's tensor, in words."""
    if found.dtype != have.dtype:
        return f"expected numbers of {have.dtype}, got {found.dtype}"
    odd = int((~found.isfinite()).sum()) if bool(have.isfinite().all()) else 0
    return f"expected finite numbers, got NaN or infinity in {odd} of {found.numel()}" if odd else None
