"""Units one after the other in the calling process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from metarl.parallel import one_torch_thread
from metarl.sampling.executors.base import Call, Executor, Function
from metarl.sampling.executors.codec import FaultError, answer

log = logging.getLogger(__name__)


class InProcess(Executor):
    """Runs one unit after the other in the calling process."""

    def __init__(self, *, retries: int = 0) -> None:
        super().__init__(workers=1)
        self._retries = retries

    def map(self, function: Function, units: Sequence[Any]) -> list[Any]:
        """See :meth:`Executor.map`."""
        call = Call(function, units, self._retries)
        with one_torch_thread():
            while call.waiting:
                self._check_interrupt()
                index = call.waiting.popleft()
                try:
                    with redirect_stdout(sys.stderr):  # standard output is for results, not for what units print
                        reply = answer(call.request(index))
                    call.settle(index, reply)
                except FaultError as fault:
                    self.faults[fault.kind] += 1
                    call.run_again(index, fault)
                    log.warning("a unit is run again: %s", str(fault).partition("\n")[0])
        return call.results

    def close(self) -> None:
        """Nothing to give back."""
