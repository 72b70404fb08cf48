"""The command line: ``metarl COMMAND ...``, and ``train.py``, which is ``metarl train``.

What is heavy is imported only once the command line has been found good. Results go to standard output, errors and
notices to standard error; every expected failure is a short message and a documented exit code.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from metarl import ranks, studies
from metarl.cli import commands
from metarl.cli.tables import write
from metarl.errors import ConfigError, Interrupted, MetarlError, nearest
from metarl.faults import PASSES, explained
from metarl.monitor.patience import patient_errors
from metarl.run.signals import Terminated, unwound_by_sigterm
from metarl.surroundings import open_standard_streams
from metarl.version import __version__
from metarl.visible import visible

DESCRIPTION = "metarl: meta-train robot policies that adapt within a few episodes, and measure that adaptation."
OVERRIDES = "key=value with dotted keys, such as seed=3 agent.inner_lr=0.1"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or that of the error (2 for a command line that cannot be run)."""
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, or not a stream of text
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # "∞" on a terminal that has only ASCII
    with patient_errors():
        try:
            with unwound_by_sigterm():
                return _main(argv)
        except Terminated:
            print("terminated", file=sys.stderr)
            return 143


def _main(argv: Sequence[str] | None) -> int:
    try:
        options = _parse(list(sys.argv[1:] if argv is None else argv))
        text = _run(options)
        if ranks.launch().first:
            write(text)
    except Interrupted as error:
        if ranks.launch().first:
            print(error, file=sys.stderr)  # asked for, and so no error
        return error.exit_code
    except MetarlError as error:
        if error.elsewhere and not ranks.launch().first:  # its own rank tells of it, and the first one
            return error.exit_code
        for line in visible(str(error)).splitlines():
            print(line if line.startswith(" ") else f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> str:
    """What a command prints. Code of the user's may raise anything in it; a traceback comes before the error then."""
    handler: Callable[[argparse.Namespace], str] = options.handler
    world = ranks.launch().world
    if world > 1 and handler not in (commands.train, commands.resume):
        raise ConfigError(f"a launcher has started {world} processes, and only train and resume share their work")
    try:
        return handler(options)
    except (MetarlError, *PASSES):
        raise
    except BaseException as error:
        print(visible("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        raise explained(error) from error


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit, so that all errors look the same."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}\n{' '.join(self.format_usage().split())}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser, names = _parser(argv)
    if argv and not argv[0].startswith("-") and argv[0] not in names:
        raise ConfigError(f"no command {argv[0]!r}: {nearest(argv[0], names)}one of {', '.join(names)}")
    options, rest = parser.parse_known_args(argv)  # overrides may stand between and behind options
    if "overrides" in options:
        options.overrides += [item for item in rest if "=" in item]
        rest = [item for item in rest if "=" not in item]
    if rest:
        usage = " ".join(options.parser.format_usage().split())
        raise ConfigError(f"unrecognized arguments: {' '.join(rest)}{_as_override(rest, options)}\n{usage}")
    return options


def _as_override(rest: Sequence[str], options: argparse.Namespace) -> str:
    """What ``--seed 3`` is called here, where it could be meant."""
    if "overrides" not in options or len(rest) < 2 or not rest[0].startswith("--"):
        return ""
    return f": write {rest[0].removeprefix('--')}={rest[1]}"


def _parser(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    parser = _Parser(prog="metarl", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"metarl {__version__}")
    added_commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, handler: Callable[[argparse.Namespace], str], help: str, **kwargs: Any) -> _Parser:
        added: _Parser = added_commands.add_parser(name, help=help, description=help, allow_abbrev=False, **kwargs)
        added.set_defaults(handler=handler, parser=added)
        return added

    train = command("train", commands.train, "start a run; prints its directory", add_help=False)
    train.add_argument("-h", "--help", action="store_true", help="show this help, and with CONFIG all its keys")
    train.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    _add_config(train, optional=True)

    _add_commands_on_runs(command)
    _add_sweep(command("sweep", commands.sweep, "run every setting of a grid, over seeds; can be stopped"))
    list_ = command("list", commands.list_, "show what there is")
    list_.add_argument(
        "kinds",
        nargs="?",
        choices=[*commands.KINDS, "runs"],
        metavar="|".join([*commands.KINDS, "runs"]),
        help="one kind; default: all but runs",
    )
    list_.add_argument("folder", nargs="?", metavar="FOLDER", help="of runs; default: runs")
    list_.add_argument("--trained", action="store_true", help="of agents: those that metarl brings along, trained")
    list_.add_argument(
        "--json", action="store_true", help="print one JSON object, which says what lineages pin and why"
    )

    check = command("check-env", commands.check_env, "check that a task family hides, repeats and ends as it should")
    check.add_argument(
        "task", metavar="TASK", help="name from `metarl list tasks`, FILE.yaml, or module:Class, which is imported"
    )
    check.add_argument("overrides", nargs="*", metavar="task.key=value", help="the family's keys")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    _add_allow(check)

    command("doctor", commands.doctor, "print versions and surroundings, to paste into a report")

    bench = command("bench", commands.bench, "measure speed; prints one JSON object, of a device a table")
    parts = ["sampling", "learner", "iteration", "faults", "metaworld", "device"]
    bench.add_argument("part", choices=parts, metavar="|".join(parts))
    _add_config(bench, optional=True)
    bench.add_argument("--every-agent", action="store_true", help="device: not only CONFIG's, on its task")
    bench.add_argument("--out", type=_path, metavar="FILE.json", help="device: all numbers, beside the table")

    reproduce = command("reproduce", commands.reproduce, "run a study and write its page; can be stopped")
    names = studies.available()
    chosen = reproduce.add_subparsers(metavar="|".join(names), required=True, dest="study")
    for name in names:
        about = studies.summary(name)
        study = chosen.add_parser(name, help=about, description=about, allow_abbrev=False)
        _add_study(study, name, wanted=argv[:2] == ["reproduce", name])
    return parser, list(added_commands.choices)


def _add_sweep(parser: _Parser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="as for `metarl train`; or two words, TASK AGENT")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value,value",
        help="several values, or a range: agent.inner_lr=0.1,0.2 seed=0..4",
    )
    _add_allow(parser)
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs side by side, which share the cores; default: by cores"
    )
    parser.add_argument("--out", type=_path, metavar="FOLDER", help="default: runs/sweeps/CONFIG_<keys with one value>")
    parser.add_argument(
        "--most", type=int, metavar="N", default=1000, help="runs; a grid of more is refused; default: 1000"
    )
    parser.add_argument("--retry-failed", action="store_true", help="go on with runs that diverged, too")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--print-commands", action="store_true", help="print a command for every run, and start none")
    how.add_argument("--report-only", action="store_true", help="show the table of what is finished, and start none")
    how.add_argument("--slurm", action="store_true", help="submit the runs to Slurm, and start none here")
    for name, metavar, help in (
        ("time", "HH:MM:SS", "of a job, as sbatch takes it; what is not finished by then goes on in the next one"),
        ("partition", "NAME", "where jobs run"),
        ("cpus", "N", "cores of a job"),
        ("option", "KEY=VALUE", "any other option of sbatch, such as account=lab; can be given again"),
    ):
        several: dict[str, Any] = {"action": "append", "default": []} if name == "option" else {}
        several |= {"type": int} if name == "cpus" else {}
        parser.add_argument(f"--slurm-{name}", metavar=metavar, help=help, **several)


def _add_commands_on_runs(command: Callable[..., _Parser]) -> None:
    """The commands that take a run."""
    resume = command("resume", commands.resume, "go on with a run from its newest checkpoint")
    resume.add_argument(
        "--auto",
        action="store_true",
        help="for job scripts: from the newest checkpoint that is valid; a finished run is left alone",
    )
    evaluate = command("evaluate", commands.evaluate, "measure how the agent of a run adapts to held-out tasks")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.add_argument("--out", type=_path, metavar="FILE", help="write that object to a file, too")
    evaluate.add_argument("--tasks", metavar="JSON|FILE", help="tasks of the family instead of the held-out ones")
    evaluate.add_argument(
        "--checkpoint", type=int, metavar="ITERATION", help="instead of the newest one; `ls RUN/checkpoints`"
    )
    evaluate.add_argument(
        "--protocol",
        choices=commands.PROTOCOLS,
        help="per_goal: every held-out task of a finite set, all equally often; metaworld_official: beside it, what "
        "Meta-World's own evaluation reports",
    )
    hash_ = command("hash", commands.hash_, "print one digest of all that training computed")
    report = command("report", commands.report, "draw a run's curves and sum it up, as it stands; prints the files")
    report.add_argument("--html", action="store_true", help="also write report/page.html, which works anywhere")
    video = command("video", commands.video, "film how the agent of a run adapts, as MP4 and GIF; prints the files")
    for added in (resume, evaluate, hash_, report, video):
        what = "run directory; latest: the one written to last below runs/; or a trained agent's name"
        added.add_argument("run", metavar="RUN", help=what)
    for added in (resume, evaluate, video):
        _add_allow(added)
    _add_video(video)
    resume.add_argument(
        "overrides", nargs="*", metavar="key=value", help="iterations, device, sampler.*, eval.*, wandb.*, ..."
    )
    evaluate.add_argument(
        "overrides", nargs="*", metavar="RUN|key=value", help="more runs, as other seeds of it; eval.*, task.*, device"
    )
    _add_compare(command)


def _add_compare(command: Callable[..., _Parser]) -> None:
    """The command that takes many runs."""
    compare = command("compare", commands.compare, "hold runs against each other, seeds of one setting as one method")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run directory, or folder of runs")
    compare.add_argument("--by", metavar="KEY", help="group by this key, such as agent.name, not by all but the seed")
    compare.add_argument("--baseline", metavar="NAME", help="method that others are held against; default: the first")
    compare.add_argument(
        "--reference",
        nargs="+",
        default=[],
        metavar="RUN",
        help="lines beside the methods: runs of an agent that never learned, or that is told its task, …",
    )
    compare.add_argument("--out", type=_path, metavar="PAGE", help="write PAGE.md, pictures beside it, or PAGE.html")
    printed = compare.add_mutually_exclusive_group()
    printed.add_argument("--latex", action="store_true", help="print a table for LaTeX with booktabs")
    printed.add_argument("--csv", action="store_true", help="print all numbers, a row per method and point")


def _add_video(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="JSON|FILE",
        help="a task of the family, or several, each in a row of its own; default: the first held-out task",
    )
    parser.add_argument(
        "--episodes",
        type=int,
        metavar="N",
        help="one after the other, default 1; with a memory those of the trial, side by side, default: as in training",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="adaptation steps; default: eval.adapt_steps of the run")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all chance; default: 0")
    parser.add_argument("--checkpoint", type=int, metavar="ITERATION", help="instead of the newest one")
    parser.add_argument(
        "--out",
        type=_path,
        metavar="FILE.mp4|FILE.gif",
        help="default: both in RUN/videos, by checkpoint and task",
    )


def _add_study(parser: argparse.ArgumentParser, name: str, *, wanted: bool) -> None:
    """The options of a study: those that all have, and its own, for which it is imported if it is ``wanted``."""
    parser.add_argument("--seeds", type=int, metavar="N", help="runs that differ in their seed; default: as planned")
    parser.add_argument("--out", type=_path, metavar="DIR", help=f"default: runs/{name}")
    parser.add_argument("--page", type=_path, metavar="FILE.md", help=f"default: {name}.md in DIR")
    parser.add_argument("--small", action="store_true", help="seconds instead of hours, numbers without meaning")
    parser.add_argument("--jobs", type=int, metavar="N", default=1, help="runs side by side, which share the cores")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="print what would be run")
    only.add_argument("--report-only", action="store_true", help="write the page from the runs that are finished")
    if wanted:
        studies.plan_of(name).add_arguments(parser)
    parser.set_defaults(parser=parser)


def _path(text: str) -> Path:
    """A path, with ``~`` for the home folder: a shell leaves it alone behind ``=``."""
    return Path(os.path.expanduser(text))


def _add_config(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?" if optional else None,
        help="YAML file, or a name from `metarl list configs`; or two words, TASK AGENT",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    _add_allow(parser)


def _add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="let task.name or agent.name be this class, or task.env_id this id: the module is imported and so run",
    )
