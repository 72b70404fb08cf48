"""TensorBoard, on request. Whatever goes wrong costs one warning and its record of the run, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class TensorBoardSink:
    """Writes scalars over environment steps to a folder, for ``tensorboard --logdir``."""

    def __init__(self, folder: Path, *, warn: Callable[[str], None]) -> None:
        """``warn`` is called with a line for the user."""
        self._warn = warn
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter  # half a second, and only this needs it

            self._writer = SummaryWriter(str(folder))
        except Exception as error:
            self._give_up(error)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Write an iteration's numbers; words are left out."""
        if self._writer is None:
            return
        try:
            for name, value in metrics.items():
                if isinstance(value, int | float) and name != "env_steps":
                    self._writer.add_scalar(name, value, metrics["env_steps"])
        except Exception as error:
            self._give_up(error)

    def finish(self) -> None:
        """Write what is left. May be called again."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._writer = None
        self._warn(f"TensorBoard stopped: {error}; metrics.jsonl has everything")
