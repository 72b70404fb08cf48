"""Units and results as bytes, and what became of a unit.

They always travel as bytes, inside one process too: a tensor that was a slice, transposed or badly aligned arrives
contiguous and aligned wherever it is used, so that kernels picked by layout give the same bits.
"""

from __future__ import annotations

import io
import pickle
import socket
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl import errors
from metarl.faults import PASSES, frames, no_child_leaves, sentence

Buffer = bytes | bytearray | memoryview


class _Pickler(pickle.Pickler):
    """Pickles a CPU tensor by value: no shared memory that dies with its process, and of a slice only the slice."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == "cpu" and not value.requires_grad:
            return _copy_tensor, (value.contiguous().numpy(),)
        return NotImplemented


def _copy_tensor(array: NDArray[Any]) -> Tensor:
    """The array's numbers in memory that torch has allocated, and so aligned."""
    return torch.from_numpy(array).clone()


def encode(value: Any) -> Buffer:
    """Bytes that :func:`decode` turns back into an equal value; tensors become contiguous.

    Raises:
        Exception: what pickle raises for a value that is not picklable, such as a lambda.
    """
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(value)
    return stream.getbuffer()


def decode(data: Buffer) -> Any:
    """The value behind :func:`encode`. Only for bytes of this process and its own workers: pickle can run code."""
    return pickle.loads(data)  # nosec B301


@dataclass(frozen=True)
class Failure:
    """An exception that a unit raised, in a form that every process can read."""

    message: str  # of an exception of ours
    sentence: str  # type and message on one line
    frames: str  # where it was raised
    traceback: str
    known: type[errors.MetarlError] | None  # nearest class in metarl.errors; None for any other exception
    exit_code: int

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe the exception that is being handled."""
        known = next((base for base in type(error).__mro__ if base.__module__ == errors.__name__), None)
        code = getattr(error, "exit_code", errors.WorkerError.exit_code)
        message = str(error) if known else ""  # which code of the user's could refuse
        return cls(message, sentence(error), frames(error), traceback.format_exc().rstrip(), known, code)

    def rebuild(self) -> errors.MetarlError | None:
        """The exception again where it is one of ours (its class, message and exit code), else None."""
        if self.known is None:
            return None
        error = self.known.__new__(self.known, self.message)  # __init__ may take something else than the message
        error.exit_code = self.exit_code
        error.add_note(f"raised in a rollout unit:\n{self.traceback}")
        return error


class FaultError(Exception):
    """A worker or a unit failed; ``kind`` is its key in ``Executor.faults``, ``cause`` names what may take several
    workers along at once."""

    def __init__(self, kind: str, story: str, cause: Hashable = None) -> None:
        super().__init__(story)
        self.kind, self.cause = kind, cause

    @property
    def first_line(self) -> str:
        """What happened, without where: that is told when no retries are left."""
        return str(self).partition("\n")[0]


def answer(head: Buffer, request: Buffer) -> Buffer:
    """Run an encoded (function, shared) on an encoded unit; the encoded (True, result), or (False, :class:`Failure`)
    if it raised. Both are decoded for every unit: it may change its copies."""
    try:
        function, shared, unit = understood(head, request)
        with no_child_leaves():
            result = function(unit) if shared is None else function(unit, shared)
        return encode((True, result))
    except PASSES:
        raise
    except BaseException as error:
        return encode((False, Failure.of(error)))


def understood(head: Buffer, request: Buffer) -> tuple[Callable[..., Any], Any, Any]:
    """Function, shared, unit. Raises WorkerError where modules or classes are missing here: they would be again."""
    try:
        return *decode(head), decode(request)
    except (ImportError, AttributeError) as error:
        raise errors.WorkerError(
            f"a rollout worker on {socket.gethostname()} cannot import what it needs ({sentence(error)}): what --allow "
            "names must be installed there or lie on its PYTHONPATH, and no class can come from a notebook's cell"
        ) from error
