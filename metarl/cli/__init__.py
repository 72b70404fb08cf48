"""The command line: ``metarl COMMAND ...``, and ``train.py``, which is ``metarl train``.

What is heavy is imported only once the command line has been found good. Results go to standard output, errors and
notices to standard error; every expected failure is a short message and a documented exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from metarl.config import lookup
from metarl.errors import CheckpointError, ConfigError, MetarlError, WorkerError, nearest
from metarl.version import __version__

if TYPE_CHECKING:
    from metarl.studies.study import Study

DESCRIPTION = "metarl: meta-train robot policies that adapt within a few episodes, and measure that adaptation."
KINDS: dict[str, lookup.Package] = {"tasks": "envs", "agents": "agents", "configs": "configs"}
STUDIES = {"comparison": ("tasks", "methods"), "rl2": ("settings",)}  # and the options that choose a part of them
OVERRIDES = "key=value with dotted keys, such as seed=3 agent.inner_lr=0.1"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or that of the error (2 for a command line that cannot be run)."""
    try:
        options = _parse(list(sys.argv[1:] if argv is None else argv))
        handler: Callable[[argparse.Namespace], str] = options.handler
        _write(handler(options))
    except MetarlError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit, so that all errors look the same."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}\n{' '.join(self.format_usage().split())}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser, commands = _parser()
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise ConfigError(f"no command {argv[0]!r}: {nearest(argv[0], commands)}one of {', '.join(commands)}")
    options, rest = parser.parse_known_args(argv)  # overrides may stand between and behind options
    if "overrides" in options:
        options.overrides += [item for item in rest if "=" in item]
        rest = [item for item in rest if "=" not in item]
    if rest:
        raise ConfigError(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    parser = _Parser(prog="metarl", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"metarl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, handler: Callable[[argparse.Namespace], str], help: str, **kwargs: Any) -> _Parser:
        added: _Parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False, **kwargs)
        added.set_defaults(handler=handler, parser=added)
        return added

    train = command("train", _train, "start a run; prints its directory", add_help=False)
    train.add_argument("-h", "--help", action="store_true", help="show this help, and with CONFIG all its keys")
    train.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    _add_config(train, optional=True)

    resume = command("resume", _resume, "go on with a run from its newest checkpoint")
    evaluate = command("evaluate", _evaluate, "measure how the agent of a run adapts to held-out tasks")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    hash_ = command("hash", _hash, "print one digest of all that training computed")
    for added in (resume, evaluate, hash_):
        added.add_argument("run", metavar="RUN", help="run directory")
    for added in (resume, evaluate):
        _add_allow(added)
    resume.add_argument("overrides", nargs="*", metavar="key=value", help="iterations, sampler.*, eval.*, wandb.*, ...")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help="eval.*")

    list_ = command("list", _list, "show what there is")
    list_.add_argument("kinds", nargs="?", choices=list(KINDS), metavar="|".join(KINDS), help="one kind; default: all")
    list_.add_argument(
        "--json", action="store_true", help="print one JSON object, which says what lineages pin and why"
    )

    check = command("check-env", _check_env, "check that a task family hides, repeats and ends as it should")
    check.add_argument("task", metavar="TASK", help="name from `metarl list tasks`, or module:Class, which is imported")
    check.add_argument("overrides", nargs="*", metavar="task.key=value", help="the family's keys")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    _add_allow(check)

    bench = command("bench", _bench, "measure speed; prints one JSON object")
    parts = ["sampling", "learner", "iteration", "metaworld"]
    bench.add_argument("part", choices=parts, metavar="|".join(parts))
    _add_config(bench, optional=True)

    reproduce = command("reproduce", _reproduce, "run a study and write its page; can be stopped")
    reproduce.add_argument("study", choices=list(STUDIES), metavar="|".join(STUDIES))
    reproduce.add_argument("--tasks", nargs="+", metavar="TASK", help="comparison: some of its tasks; default: all")
    reproduce.add_argument(
        "--methods", nargs="+", metavar="METHOD", help="comparison: some of its methods; default: all"
    )
    reproduce.add_argument("--settings", nargs="+", metavar="NAME", help="rl2: some of its settings; default: all")
    reproduce.add_argument("--seeds", type=int, metavar="N", help="runs that differ in their seed; default: as planned")
    reproduce.add_argument("--out", type=Path, metavar="DIR", help=f"default: runs/{'|'.join(STUDIES)}")
    reproduce.add_argument("--page", type=Path, metavar="FILE.md", help=f"default: {'|'.join(STUDIES)}.md in DIR")
    reproduce.add_argument("--small", action="store_true", help="seconds instead of hours, numbers without meaning")
    only = reproduce.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="print what would be run")
    only.add_argument("--report-only", action="store_true", help="write the page from the runs that are finished")
    return parser, list(commands.choices)


def _add_config(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?" if optional else None,
        help="YAML file, or a name from `metarl list configs`",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    _add_allow(parser)


def _add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="let task.name or agent.name be this class, whose module is imported and so run",
    )


def _train(options: argparse.Namespace) -> str:
    from metarl.config import loading

    if options.config is None:
        if options.help:
            return str(options.parser.format_help())
        raise ConfigError(
            f"expected a CONFIG: a YAML file, or one of {', '.join(lookup.available('configs')) or 'none'}"
        )
    loaded = loading.load(options.config, options.overrides, options.allow)
    if options.help:
        return f"{options.parser.format_help()}\nkeys of {loaded.name}:\n\n{loading.describe(loaded)}"
    if options.print_config:
        _notify(loaded.notices)
        return loading.dump(loaded.config)
    from metarl.run import runs

    return str(runs.train(loaded))


def _resume(options: argparse.Namespace) -> str:
    run = _run(options.run)
    _check_overrides(options, "resume")
    from metarl.run import runs

    return str(runs.resume(run, options.overrides, options.allow))


def _evaluate(options: argparse.Namespace) -> str:
    run = _run(options.run)
    _check_overrides(options, "evaluate")
    from metarl.run import runs

    result = runs.evaluate(run, options.overrides, options.allow)
    return json.dumps(result) if options.json else _curve_table(result)


def _hash(options: argparse.Namespace) -> str:
    run = _run(options.run)
    from metarl.run import run_dir

    return run_dir.digest(run)


def _list(options: argparse.Namespace) -> str:
    kinds = [options.kinds] if options.kinds else list(KINDS)
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds:
        if kind == "tasks":
            from metarl.tasks import families

            found[kind] = families.overview()
        else:
            package = KINDS[kind]
            names = lookup.available(package)
            found[kind] = [{"name": name, "summary": lookup.summary(package, name)} for name in names]
    if options.json:
        return json.dumps(found)
    blocks = []
    for kind, rows in found.items():
        columns = (
            ["name", "horizon", "observation", "action", "train", "test", "lineages", "needs"]
            if kind == "tasks"
            else []
        )
        cells = [_task_cells(row) if columns else [row["name"], row["summary"]] for row in rows]
        blocks.append(f"{kind}:\n{_table(columns or ['name', 'summary'], cells)}")
    return "\n\n".join(blocks)


def _task_cells(row: dict[str, Any]) -> list[str]:
    if "problem" in row:
        return [row["name"], *[""] * 6, row["problem"]]
    horizon = "" if row["horizon"] is None else str(row["horizon"])
    values = [row.get(column, "") for column in ("observation", "action", "train", "test")]
    known = ["∞" if value is None else str(value) for value in values]
    return [row["name"], horizon, *known, ", ".join(row["lineages"]), ", ".join(row["needs"])]


def _check_env(options: argparse.Namespace) -> str:
    from metarl.tasks import families

    distribution = families.build(options.task, options.overrides, [options.task, *options.allow])
    from metarl.tasks.checks import check_env

    found = check_env.report(distribution)
    checks = found["checks"]
    if options.json:
        text = json.dumps(found)
    else:
        text = _table(
            ["check", "result", "found"], [[check["name"], check["result"], check["detail"]] for check in checks]
        )
        if found["speed"]:
            text += "\n{lane_steps_per_s:.0f} lane-steps/s, {reset_ms:.3f} ms per reset ({lanes} lanes)".format(
                **found["speed"]
            )
    failed = [f"{check['name']}: {check['detail']}" for check in checks if check["result"] == "failed"]
    if failed:
        _write(text)
        raise WorkerError("\n".join([f"{len(failed)} of {len(checks)} checks of {options.task} failed", *failed]))
    return text


def _bench(options: argparse.Namespace) -> str:
    if options.part == "metaworld":
        if options.config is not None or options.overrides:
            raise ConfigError("bench metaworld always measures ML10: expected no CONFIG and no overrides")
        from metarl.bench import metaworld

        return json.dumps(metaworld.measure())
    if options.config is None:
        raise ConfigError(f"bench {options.part}: expected a CONFIG")
    from metarl.config import loading

    loaded = loading.load(options.config, options.overrides, options.allow)
    _notify(loaded.notices)
    from metarl.bench import iteration, learner, sampling

    part = {"sampling": sampling, "learner": learner, "iteration": iteration}[options.part]
    return json.dumps(part.measure(loaded.config))


def _reproduce(options: argparse.Namespace) -> str:
    study = _study(options)
    from metarl.studies import reproduce

    out = options.out or Path("runs", study.name)
    return reproduce.reproduce(study, out, options.page, dry_run=options.dry_run, report_only=options.report_only)


def _study(options: argparse.Namespace) -> Study:
    """The part of a study that is wanted.

    Raises:
        ConfigError: an option belongs to another study, or names something that there is not.
    """
    own = STUDIES[options.study]
    foreign = [name for names in STUDIES.values() for name in names if name not in own and getattr(options, name)]
    if foreign:
        raise ConfigError(
            f"{options.study} has no {', '.join(f'--{name}' for name in foreign)}: "
            f"a part of it is chosen with {', '.join(f'--{name}' for name in own)}"
        )
    if options.study == "rl2":
        from metarl.studies.rl2.plan import make_study

        return make_study(options.settings, options.seeds, small=options.small)
    from metarl.studies.comparison.plan import make_plan

    return make_plan(options.tasks, options.methods, options.seeds, small=options.small)


def _run(text: str) -> Path:
    """A run directory.

    Raises:
        CheckpointError: there is none at that path.
    """
    run = Path(text)
    if (run / "config.yaml").is_file():
        return run
    found = "a folder without config.yaml" if run.is_dir() else "a file" if run.exists() else "nothing"
    raise CheckpointError(f"{text!r}: expected a run directory, as `metarl train` prints it, found {found}")


def _check_overrides(options: argparse.Namespace, command: str) -> None:
    """Before anything is imported for the command: raises ConfigError for keys that it cannot change."""
    from metarl.config import loading

    changeable = loading.RESUMABLE if command == "resume" else ("eval.*",)
    loading.check_override_keys(options.overrides, changeable, f"in `metarl {command}`")


def _curve_table(result: dict[str, Any]) -> str:
    """The adaptation curve as a table, 95 % intervals with it."""
    from rich.console import Console
    from rich.table import Table

    columns = [result["unit"], "mean return", "95 % low", "95 % high"]
    success = result.get("success")
    table = Table(*columns, *(["success", "95 % low", "95 % high"] if success else []), title="held-out tasks")
    for step in result["steps"]:
        cells = [f"{result[name][step]:.1f}" for name in ("mean", "low", "high")]
        cells += [f"{success[name][step]:.2f}" for name in ("mean", "low", "high")] if success else []
        table.add_row(str(step), *cells)
    for name, what in (("trial", "whole trial"), ("restored", "memory restored")):
        if name in result:
            table.add_row(what, *(f"{result[name][bound]:.1f}" for bound in ("mean", "low", "high")))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under headings: drawn to the width of a terminal, in plain aligned columns elsewhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        lines = [
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in (columns, *rows)
        ]
        return "\n".join(line.rstrip() for line in lines)
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def _notify(notices: Sequence[str]) -> None:
    for notice in notices:
        print(f"notice: {notice}", file=sys.stderr)


def _write(text: str) -> None:
    """Print to standard output; a reader that has gone away (``| head``) is no error."""
    try:
        print(text.rstrip("\n"), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
