"""Trained agents and adapted policies from the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metarl import run_files
from metarl.api import policy_files
from metarl.api.actor import Actor
from metarl.api.adapted_policy import AdaptedPolicy
from metarl.api.trained_agent import TrainedAgent, make_agent
from metarl.config import devices
from metarl.errors import CheckpointError, ConfigError
from metarl.run import run_dir, shipped
from metarl.run.interface import Interface


def load(
    run: str | Path,
    *,
    checkpoint: int | None = None,
    allow: Sequence[str] = (),
    device: str = "cpu",
) -> TrainedAgent:
    """The agent of a run, to be used. Its task family need not be installed, unless an environment of it is made.

    Args:
        run: the run's directory; or the name of an agent that metarl brings along, as ``metarl list agents --trained``
            shows them. A directory of that name comes first.
        checkpoint: the iteration of a checkpoint; the newest one, unless given.
        allow: classes of the user's own that the run may use, as ``package.module:Class``.
        device: where adaptation computes; policies act on the CPU.

    Raises:
        CheckpointError: no such run or checkpoint, a damaged one, or one of a newer format.
        ConfigError: the agent is not there, or not allowed; or no such device.
    """
    missing = devices.missing(device)
    if missing:
        raise ConfigError(f"device = {device}: {missing}")
    path = Path(run).expanduser()
    if not run_files.is_run(path):
        path = shipped.find(str(run)) or path
    if not run_files.is_run(path):
        known = ", ".join(shipped.names())
        raise CheckpointError(
            f"{str(run)!r}: expected a run directory, as `metarl train` prints it, or the name of a trained agent "
            f"({known}), found none there"
        )
    return TrainedAgent(path, run_dir.chosen_checkpoint(path, checkpoint), allow, device)


def load_policy(folder: str | Path, allow: Sequence[str] = ()) -> AdaptedPolicy:
    """The policy that :meth:`AdaptedPolicy.save` wrote, at the beginning of an episode, where adaptation left it.

    Neither the run nor its task family is needed. ``allow`` names an agent's class of the user's own,
    ``package.module:Class``, that may be imported.

    Raises:
        CheckpointError: it is missing, damaged, or of a newer format.
        ConfigError: its agent is not there, or not allowed.
    """
    path = Path(folder).expanduser()
    stored = policy_files.read(path)
    interface = Interface.from_state(stored.described["interface"], str(path))
    policy = make_agent(stored.described, interface, [stored.parameters], allow).policy()
    policy_files.require_shapes(policy, stored, str(path))
    actor = Actor(policy, stored.parameters, stored.fit.action, stored.fit.lanes or 1, stored.trial)
    return AdaptedPolicy(actor, stored.fit, history=stored.history, seed=stored.seed, described=stored.described)
