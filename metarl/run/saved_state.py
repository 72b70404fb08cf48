"""The JSON part of a checkpoint with its types: how far a run is, and what it has met on its way."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from metarl.config import messages
from metarl.config.schema import Frozen
from metarl.errors import CheckpointError

MAX_ENV_STEPS = 2**53  # no run comes so far; what is logged and shown of them are floats


class Counters(Frozen):
    """What the digest of a run covers beside its tensors."""

    iteration: NonNegativeInt  # done
    env_steps: NonNegativeInt


class SavedState(Frozen):
    """All that a checkpoint holds beside tensors. Keys that a newer version has added are kept as they are."""

    model_config = ConfigDict(extra="allow")

    counters: Counters
    seconds: NonNegativeFloat = 0.0  # of training, evaluation and saving
    faults: dict[str, NonNegativeInt] = Field({})  # survived, by kind
    rejected_steps: NonNegativeInt = 0  # trust-region steps that came to nothing, in a row, up to now
    wandb_id: str | None = None
    title: str | None = None  # what the run is called after
    config: dict[str, Any] | None = None  # a copy, for when the run's own is lost; None: of before there was one
    interface: dict[str, Any] | None = None  # what the policy sees and does; None: of before it was kept
    nodes: dict[str, dict[str, str]] = Field({})  # other machines that sampled, each with what results depend on

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self.counters.iteration


def checked(content: dict[str, Any], iteration: int, where: str) -> SavedState:
    """A checkpoint's state from the JSON object in its file.

    Args:
        content: the object.
        iteration: what the checkpoint's manifest says.
        where: the file, for errors.

    Raises:
        CheckpointError: a key is missing, or has a value that it cannot have; one line per key.
    """
    try:
        state = SavedState.model_validate(content)
    except ValidationError as error:
        lines = messages.explain(error, SavedState, content).values()
        raise CheckpointError("\n".join(f"{where}: {line}" for line in lines)) from error
    if state.iteration != iteration:
        raise CheckpointError(
            f"{where}: counters.iteration = {state.iteration}: expected {iteration}, as the manifest says"
        )
    if state.counters.env_steps > MAX_ENV_STEPS:
        raise CheckpointError(
            f"{where}: counters.env_steps = {messages.show(state.counters.env_steps)}: expected at most {MAX_ENV_STEPS}"
        )
    end = (state.config or {}).get("iterations", iteration)
    if not isinstance(end, int) or iteration > end:
        raise CheckpointError(
            f"{where}: counters.iteration = {iteration}: expected at most config.iterations = {messages.show(end)}"
        )
    return state
