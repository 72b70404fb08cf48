"""What a command does first: the process that workers are forked from imports torch while the command does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny_runs import POINT

PROGRAM = """
import sys
from metarl import cli
from metarl.sampling.executors import fork_server
fork_server.start = lambda: print("with torch" if "torch" in sys.modules else "before torch")
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", POINT, "iterations=none"], "before torch\n"),
        (["train", "point", "maml_trpo", "iterations=none"], "before torch\n"),
        (["train", POINT, "iterations=none", "sampler.workers=0"], ""),
        (["train", POINT, "iterations=none", "sampler.executor=in_process"], ""),
        (["train", "maml_trpo_pont"], ""),
    ],
    ids=" ".join,
)
def test_the_fork_server_starts_before_torch_is_imported_where_workers_are_wanted(
    arguments: list[str], told: str
) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, told), done.stderr
