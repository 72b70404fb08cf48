"""``metarl export``: an adapted policy as files for a robot's computer, each compared with the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metarl import run_files
from metarl.api.adapted_policy import AdaptedPolicy
from metarl.api.export import check, exporting
from metarl.api.loading import load, load_policy
from metarl.cli.tables import table
from metarl.errors import ConfigError


def make(source: Path, formats: Sequence[str], out: Path, allow: Sequence[str]) -> str:
    """Write the files; returns a table of them.

    Raises:
        ConfigError: a library is missing, or there is no policy of a kind that can be exported.
        CheckpointError: what is to be exported is missing, or damaged.
        NumericError: a file's actions differ from the policy's; nothing is left of the files.
        StorageError: there is something at that place, or it cannot be written; nothing is left of it then.
    """
    chosen = exporting.require_formats(formats)
    made = _policy(source, allow).export(out, chosen)
    rows = [[str(each.path), f"{each.difference:.1e}", f"{each.microseconds:.0f}"] for each in made]
    rows.append(["the policy itself", "–", f"{made[0].original:.0f}"])
    return (
        f"{table(['file', 'largest difference', 'µs per action'], rows)}\n"
        f"{out / exporting.DESCRIPTION} describes them; differences of actions are in units of action_scale, at "
        f"{check.OBSERVATIONS} observations and in {check.STEPS} steps with the memory's state fed from step to step"
    )


def _policy(source: Path, allow: Sequence[str]) -> AdaptedPolicy:
    """The policy in a folder; of a run whose agent has a memory, as it begins a trial."""
    if not run_files.is_run(source):
        return load_policy(source, allow)
    agent = load(source, allow=allow)
    if not agent.remembers:
        raise ConfigError(
            f"{source}: expected a policy that has adapted, as policy.save writes it, got a run: its agent, "
            f"{agent.name}, adapts by gradients, which no exported file does"
        )
    return agent.before()
