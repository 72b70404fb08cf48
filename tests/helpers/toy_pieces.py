"""Parts of a study for tests: processes that are started side by side must be able to import them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from metarl.errors import StorageError
from metarl.run.signals import StopRequest


@dataclass(frozen=True)
class ToyPiece:
    """Takes some seconds, and writes down when it began and how it ended. Asked to stop it saves at once."""

    name: str
    seconds: float = 0.5
    fails: bool = False

    def __str__(self) -> str:
        return self.name

    def state(self, out: Path) -> str:
        return "finished" if (out / self.name).exists() else "new"

    def run(self, out: Path) -> None:
        stop, began = StopRequest(quiet=True), time.monotonic()
        with stop.heard(lambda: ""):
            (out / f"{self.name}.began").write_text(str(began))
            if self.fails:
                raise StorageError("the disk is full")
            while time.monotonic() < began + self.seconds:
                if stop.signum is not None:
                    (out / f"{self.name}.saved").touch()
                    stop.raise_if_made()
                time.sleep(0.01)
            (out / self.name).write_text(f"{began} {time.monotonic()}")
