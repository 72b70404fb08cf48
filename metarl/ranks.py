"""Ranks: processes that train one run together, as ``torchrun`` starts them.

Every rank does the same, draws the same and knows the same; what can be cut into parts is computed in parts, a rank's
own ones, and put together in the order of the parts (:meth:`Ranks.gather`). Nothing is added up on the way, so the
number of ranks changes no bit. One process alone is one rank, for which all of this does nothing.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from metarl import errors
from metarl.errors import Interrupted, MetarlError, WorkerError
from metarl.faults import explained

if TYPE_CHECKING:  # torch takes a second, and most commands need no ranks
    from torch import Tensor

log = logging.getLogger(__name__)

T = TypeVar("T")

# What a launcher tells each process: who it is, and where the others meet. Not for processes that these start.
VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"),
    *("GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "TORCHELASTIC_RESTART_COUNT"),
    *("TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE"),
)
SHORT = 8128  # bytes of a message that travel with its head, in one step of the network
LOOK_S = 0.5  # seconds between two looks around while a rank waits for the others
TOLD_S = 30.0  # after which the first rank says that it waits for the others to come
MEET_S = 1800.0  # after which none of them waits for that any longer
_RUN, _FAILURE = "run", "failure"  # in a store: the run that is trained, what a rank has failed with


_ON_RANK = "\n  on rank "  # what the words of an error end with on other ranks than its own


@dataclass(frozen=True)
class _Stores:
    """Where ranks leave words for each other."""

    own: Any  # a store of torch.distributed: of this meeting of the ranks
    lasting: Any  # of the launcher's job: it outlives a restart of the ranks


@dataclass(frozen=True)
class Launch:
    """What a launcher has said of this process."""

    rank: int = 0  # from 0, of all processes
    world: int = 1  # their number
    local_rank: int = 0  # of those on this machine
    local_world: int = 1
    restarts: int = 0  # times that the launcher has started all of them again
    elastic: bool = False  # the launcher is torchrun

    @property
    def first(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return self.rank == 0


def launch() -> Launch:
    """What the environment says, as ``torchrun`` sets it; a process alone where it says nothing, or not enough."""
    words = {name: os.environ.get(name, "") for name in VARIABLES}
    needed = ("RANK", "WORLD_SIZE", "MASTER_PORT")
    if not (words["MASTER_ADDR"] and all(words[name].isdecimal() for name in needed)):
        return Launch()
    rank, world = int(words["RANK"]), int(words["WORLD_SIZE"])
    local_rank, local_world, restarts = (
        int(words[name]) if words[name].isdecimal() else otherwise
        for name, otherwise in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1), ("TORCHELASTIC_RESTART_COUNT", 0))
    )
    return Launch(rank, world, local_rank, local_world, restarts, bool(words["TORCHELASTIC_RUN_ID"]))


class Ranks:
    """This process among those that train a run together; on its own, a process alone.

    Every rank makes the same calls in the same order. An exception in one of them reaches the others: at once where
    they look around (:meth:`raise_if_another_failed`), else at their next :meth:`gather`. There they raise one of the
    same kind, with the same exit code.

    Attributes:
        rank, world: this process's number, from 0, and how many there are.
        timeout_s: how long one waits for the others.
        gathers, bytes, seconds: how often results were put together, how many bytes this rank has sent for it, and how
            long it took, waiting included.
    """

    def __init__(self, launched: Launch | None = None, stores: _Stores | None = None) -> None:
        self._launch = launched or Launch()
        self.rank, self.world = self._launch.rank, self._launch.world
        self.timeout_s = 1800.0
        self.gathers, self.bytes, self.seconds = 0, 0, 0.0
        self._stores = stores
        self._looked = 0.0
        self._failed: BaseException | None = None  # the latest exception that all ranks know of

    @property
    def local_rank(self) -> int:
        """This rank's number among those on its machine."""
        return self._launch.local_rank

    @property
    def local_world(self) -> int:
        """How many ranks share this machine."""
        return self._launch.local_world

    @property
    def first(self) -> bool:
        """Whether this rank is the one that speaks and writes: what must be done once for all is done by it."""
        return self.rank == 0

    def own(self, count: int) -> slice:
        """This rank's of ``count`` parts: consecutive ones, as many as the other ranks' or one more or less."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def gather(self, work: Callable[[], list[T]]) -> list[T]:
        """The lists that ``work`` gives on the ranks as one, in the order of the ranks.

        They hold what :func:`metarl.wire.pack` takes. Every rank is to call this.

        Raises:
            BaseException: ``work``'s own.
            MetarlError: another rank's ``work`` has failed; its kind, its exit code, and its words.
            WorkerError: another rank is gone, or ``timeout_s`` seconds have passed.
        """
        if self.world == 1:
            return work()
        from metarl.wire import pack, unpack

        try:
            own = work()
            message = pack(own)
        except BaseException as error:
            self._fail(error)
            raise
        found: list[T] = []
        place = zlib.crc32(getattr(work, "__qualname__", "").encode())
        for rank, (failed, content) in enumerate(self._exchange(message, place=place)):
            if failed:
                self._failed = _rebuilt(unpack(content))
                raise self._failed
            found += own if rank == self.rank else unpack(content)
        self._failed = None
        return found

    def all(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks."""
        return self.gather(lambda: [value])

    def by_first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on the first rank, which alone does it; to all."""
        return self.gather(lambda: [work()] if self.first else [])[0]

    def raise_if_another_failed(self) -> None:
        """Raise what another rank has failed with, if one has. Looks at most every LOOK_S seconds."""
        now = time.monotonic()
        if self._stores is not None and self.world > 1 and now - self._looked >= LOOK_S:
            self._looked = now
            if failure := self._failure_told():
                raise failure

    def _failure_told(self) -> MetarlError | None:
        """What a rank has left word of that it failed with."""
        if self._stores is None or not self._stores.own.check([_FAILURE]):
            return None
        return _rebuilt(json.loads(self._stores.own.get(_FAILURE)))

    def train_in(self, run: str) -> None:
        """Keep for a restart by the launcher which run these ranks train."""
        if self.first and self._stores is not None:
            self._stores.lasting.set(_RUN, run)

    def trained_before(self) -> str | None:
        """The run of these ranks before the launcher started them again; None: it has not, or they had none."""
        if self._launch.restarts and self._stores is not None and self._stores.lasting.check([_RUN]):
            return str(self._stores.lasting.get(_RUN).decode())
        return None

    def leave(self, error: BaseException | None) -> None:
        """Be done, because of an exception or without one: waits for the others.

        Raises:
            MetarlError: this rank was done, and another one has failed.
        """
        if self.world == 1:
            return
        if error is None:
            self.gather(list)
        elif not any(link is self._failed or isinstance(link, LostError) for link in _chain(error)):
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Tell the others of an exception that leaves this rank, now and where they gather next.

        Where all have met with the same, the first one tells the user of it.
        """
        from metarl.wire import pack, unpack

        told = _told(error, self.rank)
        with suppress(Exception):
            if self._stores is not None and not self._stores.own.check([_FAILURE]):
                self._stores.own.set(_FAILURE, json.dumps(told))
        with suppress(LostError):
            failed, content = self._exchange(pack(told), failed=True)[0]
            alike = failed and unpack(content)["text"].startswith(told["text"].rpartition(_ON_RANK)[0])
            if alike and not self.first and isinstance(error, MetarlError):
                error.elsewhere = True
        self._failed = error

    def _exchange(self, message: Tensor, *, failed: bool = False, place: int = 0) -> list[tuple[bool, Tensor]]:
        """Every rank's message [B], and whether it tells of a failure, in the order of the ranks; ``place`` is where in
        the program this one is sent."""
        import torch

        started = time.monotonic()
        # the head of every message, and all of it where it is short
        head = torch.tensor([len(message), int(failed), self.gathers, place], dtype=torch.int64).view(torch.uint8)
        short = message[:SHORT]
        letters = self._all_gather(torch.cat([head, short, short.new_zeros(SHORT - len(short))]))
        heads = [letter[: len(head)].view(torch.int64) for letter in letters]
        messages = [letter[len(head) :] for letter in letters]
        longest = max(int(found[0]) for found in heads)
        # the whole of longer ones
        if longest > SHORT:
            messages = self._all_gather(torch.cat([message, message.new_zeros(longest - len(message))]))
        self.seconds += time.monotonic() - started
        self.bytes += len(letters[0]) + (longest if longest > SHORT else 0)
        if not any(int(found[1]) for found in heads) and any(not found[2:].equal(heads[0][2:]) for found in heads):
            raise LostError("ranks have gone different ways: please report this as a fault of metarl")
        self.gathers += 1
        return [(bool(found[1]), part[: int(found[0])]) for found, part in zip(heads, messages, strict=True)]

    def _all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, all of one size. Looks around while it waits: Python hears signals between its steps."""
        import torch
        import torch.distributed

        distributed: Any = torch.distributed
        found = [torch.empty_like(tensor) for _ in range(self.world)]
        deadline, options = time.monotonic() + self.timeout_s, distributed.distributed_c10d.AllgatherOptions()
        options.timeout = _seconds(self.timeout_s + LOOK_S)  # behind our own deadline; leaving waits for it
        try:
            pending = distributed.group.WORLD.allgather([found], [tensor], options)
            while not _is_done(pending):
                if time.monotonic() > deadline:
                    raise LostError(
                        f"rank {self.rank} has waited for the others for {self.timeout_s:g} s: one of them hangs, or "
                        "a phase of sampling takes longer: see its output, or raise sampler.rank_timeout_s"
                    )
        except RuntimeError as error:
            told = None
            with suppress(RuntimeError):  # the one that is gone may have said why; the store may be gone, too
                told = self._failure_told()
            self._failed = told or LostError(f"another rank is gone: {' '.join(str(error).split())[:200]}")
            raise self._failed from error
        return found


class LostError(WorkerError):
    """The ranks cannot reach each other any more."""


ALONE = Ranks()
_here = ALONE
_meetings = itertools.count()  # of this process: a program may train several runs


def here() -> Ranks:
    """This process among its ranks: those of the run that is being trained, else a process alone."""
    return _here


@contextmanager
def together() -> Iterator[Ranks]:
    """Meet the other processes that a launcher has started; an exception that leaves this context ends all of them.

    Raises:
        WorkerError: they did not meet.
    """
    global _here
    launched = launch()
    if launched.world == 1 and not launched.elastic:
        yield ALONE
        return
    ranks = _meet(launched)
    _here = ranks
    try:
        yield ranks
    except BaseException as error:
        ranks.leave(error)
        raise
    else:
        ranks.leave(None)
    finally:
        _here = ALONE
        _part(ranks)


def _meet(launched: Launch) -> Ranks:
    """Wait for the other ranks to come, in a thread, as torch hears no signals meanwhile; what a signal raises leaves
    that thread behind."""
    found: list[_Stores] = []
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            found.append(_stores(launched))
        except BaseException as error:
            failures.append(error)

    waiting = threading.Thread(target=wait, name="metarl-meet", daemon=True)
    waiting.start()
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    started, told = time.monotonic(), not launched.first
    while waiting.is_alive():
        waited = time.monotonic() - started
        if waited > MEET_S:
            raise WorkerError(f"the ranks have not met: waited at {place} for {MEET_S:g} s for all {launched.world}")
        if waited > TOLD_S and not told:
            told = True
            log.warning("rank %d waits at %s for all %d ranks to come", launched.rank, place, launched.world)
        waiting.join(LOOK_S)
    for error in failures:
        if isinstance(error, RuntimeError | ValueError):
            raise WorkerError(f"the ranks have not met: {' '.join(str(error).split())}") from error
        raise error
    return Ranks(launched, found[0])


def _stores(launched: Launch) -> _Stores:
    """Where the ranks leave words for each other; all have come when this returns. Raises RuntimeError, ValueError."""
    import torch.distributed

    distributed: Any = torch.distributed
    name = f"metarl/{next(_meetings)}"
    store, rank, world = next(distributed.rendezvous("env://"))
    while isinstance(store, distributed.PrefixStore):  # some versions of torch make one for every restart
        store = store.underlying_store
    stores = _Stores(*(distributed.PrefixStore(f"{name}{part}", store) for part in (f"/{launched.restarts}", "")))
    if launched.world > 1:  # our own deadline is Ranks.timeout_s
        day = _seconds(24 * 3600)
        distributed.init_process_group("gloo", store=stores.own, rank=rank, world_size=world, timeout=day)
    return stores


def _is_done(pending: Any) -> bool:
    """Whether a step of the network has come to its end within LOOK_S seconds. Raises RuntimeError: it has failed."""
    try:
        pending.wait(_seconds(LOOK_S))
    except RuntimeError:
        if not pending.is_completed():
            return False
        pending.wait(_seconds(LOOK_S))  # it has failed, and this says so again; or it has ended since
    return True


def _part(ranks: Ranks) -> None:
    if ranks.world > 1:
        from torch import distributed

        with suppress(RuntimeError):
            distributed.destroy_process_group()


def _told(error: BaseException, rank: int) -> dict[str, Any]:
    """An exception as plain data."""
    if isinstance(error, KeyboardInterrupt):
        error = Interrupted(2)
    known = error if isinstance(error, MetarlError) else explained(error)
    kind = next(base.__name__ for base in type(known).__mro__ if base.__module__ == errors.__name__)
    text = str(known) if known.elsewhere else f"{known}{_ON_RANK}{rank}"
    return {"kind": kind, "text": text, "code": known.exit_code, "signum": getattr(known, "signum", None)}


def _rebuilt(told: dict[str, Any]) -> MetarlError:
    """The error of another rank."""
    signum = told["signum"]
    error: MetarlError = Interrupted(signum) if signum is not None else getattr(errors, told["kind"])(told["text"])
    error.exit_code, error.elsewhere = told["code"], True
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it was raised from or beside."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _seconds(seconds: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=seconds)
