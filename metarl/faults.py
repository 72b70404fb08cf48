"""Exceptions that nobody expected, most of them from the user's own code, as an error in one sentence."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metarl.errors import DeviceMemoryError, MetarlError, WorkerError


class FromOutsideError(BaseException):
    """Ends code of the user's from outside; no handler of what that code raises may take it for the code's own."""


class RaisedBelowError(RuntimeError):
    """What code of the user's raised, in a sentence that says where; its cause is the exception itself."""


# What passes by where all else that code of the user's raises is caught, whatever it derives from: ``sys.exit`` in
# there ends no program, and asyncio's CancelledError and the panics of libraries in Rust are no Exceptions.
PASSES = (KeyboardInterrupt, FromOutsideError)

LONGEST = 2000  # letters of an exception's message that are told

_home: int | None = None  # the process in which code of the user's was begun
_CORE = Path(__file__).resolve().parent
_LIBRARIES = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # as torch and others say it of the machine's own
_OUT_OF_DEVICE_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
LESS_ON_A_GPU = "a smaller learner.tasks_per_chunk"


@contextmanager
def no_child_leaves() -> Iterator[None]:
    """Code of the user's runs in here. A child process that it forks and that does not end in there, as ``sys.exit``
    does not end it, ends here: it would go on with the run beside its parent, and write to the same files."""
    global _home
    before, _home = _home, os.getpid()
    try:
        yield
    except BaseException as error:
        end_child(error)
        raise
    finally:
        end_child(None)
        _home = before


def end_child(error: BaseException | None) -> None:
    """End this process, if it is a child that was forked in :func:`no_child_leaves`, as ``error`` says, if one does."""
    if _home in (None, os.getpid()):
        return
    code = 0 if error is None else 1
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    os._exit(code & 0xFF)


def explained(error: BaseException, less_memory: str = LESS_ON_A_GPU) -> MetarlError:
    """The error that stands for an exception: its type, its message, and the file and line of the user's that it
    comes from. Exit code 5; 1 where no code of the user's had a part in it; 4 where the memory of a GPU ran out, of
    which ``less_memory`` would take less."""
    words, place = sentence(error), origin(error)
    if ran_out_on_a_gpu(error):
        return DeviceMemoryError(
            f"{words}{f' at {place}' if place else ''}; the GPU's memory ran out: less is needed with {less_memory}"
        )
    if isinstance(error, MemoryError) or any(part in words.lower() for part in _OUT_OF_MEMORY):
        hint = "less is needed with a smaller meta_batch_size, rollouts_per_task or learner.tasks_per_chunk"
        return WorkerError(f"{words}{f' at {place}' if place else ''}; memory ran out: {hint}")
    if place:
        return WorkerError(f"{words} at {place}")
    frames = traceback.extract_tb(error.__traceback__)
    last = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return MetarlError(f"{words}{last}; no code of yours had a part in it: please report this as a fault of metarl")


def ran_out_on_a_gpu(error: BaseException) -> bool:
    """Whether it says so of a GPU's memory; torch's own error, or that of a library of the GPU's."""
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    words = _text(error)
    return isinstance(error, RuntimeError) and any(part in words for part in _OUT_OF_DEVICE_MEMORY)


def sentence(error: BaseException) -> str:
    """An exception's type and message on one line."""
    if isinstance(error, RaisedBelowError):
        return str(error)
    text = _text(error)
    words = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SystemExit | GeneratorExit):
        words += " (an environment, a family or an agent must not end the program)"
    return words


def _text(error: BaseException) -> str:
    """An exception's message on one line, which is cut: a longer one than a stream takes at once would be lost."""
    try:
        text = " ".join(str(error).split())
    except Exception as failed:  # of the user's, too
        return f"its message raises {type(failed).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def frames(error: BaseException) -> str:
    """The lines of a traceback without its message, from the user's code on where there is some."""
    stacks = _stacks(error)
    starts = ((stack, place) for stack in stacks for place, frame in enumerate(stack) if _is_the_users(frame.filename))
    stack, first = next(starts, (stacks[0], 0))
    return "".join(traceback.format_list(stack[first:])).rstrip()


def origin(error: BaseException) -> str:
    """``file:line`` of the innermost code that is neither of metarl's core nor of a library; empty without one."""
    for stack in _stacks(error):
        for frame in reversed(stack):
            if _is_the_users(frame.filename):
                return f"{frame.filename}:{frame.lineno}"
    return ""


def _stacks(error: BaseException) -> list[traceback.StackSummary]:
    """The frames of an exception, and of those that it was raised from, of which ours may tell in other words."""
    links = [error]
    while (cause := links[-1].__cause__) is not None and cause not in links:
        links.append(cause)
    told = links[1:] if isinstance(error, RaisedBelowError) and links[1:] else links
    return [traceback.extract_tb(link.__traceback__) for link in told]


def _is_the_users(filename: str) -> bool:
    if filename.startswith("<"):  # code without a file, such as importlib's
        return False
    path = Path(filename).resolve()
    if path.is_relative_to(_CORE):  # installed, families and agents lie in there, too
        return path.relative_to(_CORE).parts[0] in ("envs", "agents")
    return not filename.startswith(_LIBRARIES)
