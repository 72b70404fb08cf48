"""What a command does first: the process that workers are forked from imports torch while the command does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import POINT

from metarl import cli

PROGRAM = """
import sys
from metarl import cli
from metarl.sampling.executors import fork_server
cli.commands.available_cores = lambda: %d
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
    done = subprocess.run([sys.executable, "-c", PROGRAM % 2, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, told), done.stderr


def test_one_core_imports_torch_once() -> None:
    arguments = ["train", POINT, "iterations=none"]
    done = subprocess.run([sys.executable, "-c", PROGRAM % 1, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr


def test_sigterm_while_the_command_starts_leaves_no_process_and_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as there is a fork server, which imports torch for seconds."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    start = "import sys\nfrom metarl import cli\ncli.commands.available_cores = lambda: 2\n"
    process = tiny_runs.start("-c", f"{start}sys.exit(cli.main(sys.argv[1:]))", "train", POINT, "sampler.workers=2")
    while len(family := tiny_runs.family(process)) < 2:  # and a resource tracker
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == "terminated\n" and process.returncode == 143
    assert tiny_runs.all_gone(family)
    assert not list(tmp_path.iterdir())


def test_a_refused_configuration_leaves_no_process_behind() -> None:
    """Else whoever reads the command's output waits until that process has imported torch."""
    code = """
import sys
from metarl import cli
from metarl.sampling.executors import fork_server
from multiprocessing import forkserver
started = []
cli.commands.available_cores = lambda: 2
start = fork_server.start
fork_server.start = lambda: (start(), started.append(forkserver._forkserver._forkserver_pid))
exit_code = cli.main(["train", "maml_trpo_point", "iterations=none"])
print(exit_code, len(started), forkserver._forkserver._forkserver_pid)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 1 None\n", done.stderr


def test_the_fork_server_is_deaf_to_what_is_meant_for_the_command_alone() -> None:
    """A terminal's Ctrl-C reaches the whole group, this process in the middle of its imports, too."""
    code = """
from multiprocessing import forkserver
from metarl.sampling.executors import fork_server
fork_server.start()
status = open(f"/proc/{forkserver._forkserver._forkserver_pid}/status").read()
print(next(line for line in status.splitlines() if line.startswith("SigBlk")))
fork_server.stop()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    blocked = int(done.stdout.split()[1], 16)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        assert blocked & (1 << (number - 1)), (done.stdout, number)


def test_ctrl_c_in_the_first_moments_is_no_traceback() -> None:
    code = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "metarl.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
import runpy
sys.argv = ["metarl", "list"]
runpy.run_module("metarl", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["point"], "point is a task: expected an agent behind it, one of "),
        (["reptile"], "reptile is an agent: expected a task before it, as in `metarl train point reptile`"),
        (["poin", "maml_trpo"], "no configuration or task called 'poin': did you mean point"),
    ],
    ids=" ".join,
)
def test_half_a_pair_is_told_what_the_other_half_is(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *arguments]) == 2
    assert told in capsys.readouterr().err
