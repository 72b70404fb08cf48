"""The parts of a study that are no runs, worked through one by one, or some side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path

from metarl.errors import Interrupted, MetarlError
from metarl.run import signals
from metarl.run.signals import StopRequest
from metarl.studies.launcher import POLL_S, RunFailedError
from metarl.studies.study import Piece


def work_through(pieces: Sequence[Piece], out: Path, places: int) -> None:
    """Bring what is not finished to its end, in order; ``places`` at a time.

    Raises:
        Interrupted: a signal came, and what was under way has saved.
        RunFailedError: one of several failed, for a reason that it has printed; the others have saved.
    """
    todo = [(number, piece) for number, piece in enumerate(pieces, start=1) if piece.state(out) != "finished"]
    titles = [f"[{number}/{len(pieces)}] {piece}" for number, piece in todo]
    if places == 1:
        for title, (_, piece) in zip(titles, todo, strict=True):
            print(title, flush=True)
            piece.run(out)
        return
    _side_by_side(titles, [piece for _, piece in todo], out, places)


def _side_by_side(titles: Sequence[str], pieces: Sequence[Piece], out: Path, places: int) -> None:
    waiting, stop = list(zip(titles, pieces, strict=True)), StopRequest(quiet=True)
    running: dict[str, SpawnProcess] = {}
    context, asked = multiprocessing.get_context("spawn"), False
    with stop.heard(lambda: "which loses some seconds"):
        try:
            while running or (waiting and not asked):
                while waiting and len(running) < places and not asked:
                    title, piece = waiting.pop(0)
                    print(title, flush=True)
                    running[title] = context.Process(target=_run, args=(piece, out, os.getpid()))
                    running[title].start()
                time.sleep(POLL_S)
                if stop.signum is not None and not asked:
                    asked = True
                    _ask_to_stop(running.values())
                for title in [title for title, process in running.items() if process.exitcode is not None]:
                    _require_success(title, running.pop(title), asked=asked)
        finally:
            if not asked:
                _ask_to_stop(running.values())
            for process in running.values():
                process.join()


def _require_success(title: str, process: SpawnProcess, *, asked: bool) -> None:
    code = process.exitcode
    if code and not asked:
        raise RunFailedError(
            f"{title} ended with exit code {code}, for the reason above; the same command goes on from here",
            code if code > 0 else 128 - code,
        )


def _ask_to_stop(processes: Iterable[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()


def _run(piece: Piece, out: Path, parent: int) -> None:
    """In a process with a session of its own: a terminal's Ctrl-C reaches it through its parent alone."""
    os.setsid()
    signals.follow_parent(parent)
    try:
        piece.run(out)
    except Interrupted as stopped:
        sys.exit(128 + stopped.signum)
    except MetarlError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
