"""A trainer that is killed with -9 in the middle of a save, again and again, each time gone on with."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from metarl import cli
from metarl.run import checkpoint

BEGINS, ENDS = b"(", b")"  # what a trainer says of its saves


class Kills(NamedTuple):
    """How many kills there were, and how many of them came between the beginning and the end of a save."""

    all: int
    in_saves: int


def run_and_tell(arguments: Sequence[str], pipe: Connection | int) -> None:
    """``metarl`` with these arguments in this process, saying on the pipe where a save begins and ends."""
    save, descriptor = checkpoint.save, pipe if isinstance(pipe, int) else pipe.fileno()

    def told(*args: Any, **kwargs: Any) -> Any:
        os.write(descriptor, BEGINS)
        result = save(*args, **kwargs)
        os.write(descriptor, ENDS)
        return result

    checkpoint.save = told
    sys.exit(cli.main(list(arguments)))


def kill_in_saves(start: Callable[[Connection], Any], number: int, rng: random.Random) -> Kills:
    """Kill until that many kills have hit a save. ``start`` goes on with the run in a process, which tells on the pipe;
    it is killed at a random moment behind the beginning of its first, second or third save."""
    kills = in_saves = 0
    longest_s = 0.005  # that a save has taken so far
    while in_saves < number:
        assert kills < 5 * number, f"expected kills to hit saves, {in_saves} of {kills} did"
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = start(sender)
        sender.close()
        with receiver:
            longest_s = max(longest_s, _until_save(receiver.fileno(), rng.randint(1, 3)))
            time.sleep(rng.uniform(0, longest_s))
            process.kill()
            process.wait() if isinstance(process, subprocess.Popen) else process.join()
            rest = os.read(receiver.fileno(), 100)
        kills += 1
        in_saves += ENDS not in rest
    return Kills(kills, in_saves)


def _until_save(descriptor: int, number: int) -> float:
    """Wait for the beginning of the ``number``-th save; seconds that the longest of those before has taken."""
    longest_s = begun = 0.0
    while number:
        word = os.read(descriptor, 1)
        assert word, "expected a save, but the trainer has ended"
        if word == BEGINS:
            begun, number = time.monotonic(), number - 1
        else:
            longest_s = max(longest_s, time.monotonic() - begun)
    return longest_s


if __name__ == "__main__":
    run_and_tell(sys.argv[2:], int(sys.argv[1]))
