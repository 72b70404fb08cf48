"""What the commands do: each takes the parsed options and returns what is to be printed.

What is heavy is imported only once the command line has been found good.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from metarl import ranks, run_files
from metarl.cli.tables import (
    curve_table,
    official_table,
    results_only,
    returns,
    runs_table,
    seeds_table,
    table,
    task_cells,
    write,
)
from metarl.config import lookup
from metarl.errors import CheckpointError, ConfigError, WorkerError
from metarl.parallel import available_cores
from metarl.run.signals import Terminated
from metarl.storage import MAX_JSON_BYTES, read_plain, strict_json
from metarl.version import __version__
from metarl.visible import visible

LATEST = "latest"  # what the run that was written to last may be called
_OVERRIDE = re.compile(r"(?:--)?[A-Za-z_][\w.]*=")  # the path of a run has "=" further behind, or begins otherwise
RUNS = "runs"  # the folder of all runs, unless a configuration says otherwise
PROTOCOLS = PER_GOAL, OFFICIAL = "per_goal", "metaworld_official"  # of an evaluation
KINDS: dict[str, lookup.Package] = {"tasks": "envs", "agents": "agents", "configs": "configs"}


def train(options: argparse.Namespace) -> str:
    """Start a run; with ``--help`` or ``--print-config`` only tell about its configuration."""
    if options.config and not (options.help or options.print_config):
        _begin(" ".join(["train", options.config, *options.overrides]))
    from metarl.config import loading

    if options.config is None:
        if options.help:
            return str(options.parser.format_help())
        raise ConfigError(
            f"expected a CONFIG: a YAML file, or one of {', '.join(lookup.available('configs')) or 'none'}"
        )
    is_pair = lookup.agent_of_pair(options.config, options.overrides) is not None
    if is_pair or options.config in lookup.available("configs") or os.path.isfile(options.config):
        _start_fork_server(options)
    try:
        with results_only():  # classes that are allowed are imported
            loaded = loading.load_words(options.config, options.overrides, options.allow)
        if options.help:
            return f"{options.parser.format_help()}\nkeys of {loaded.name}:\n\n{loading.describe(loaded)}"
        if options.print_config:
            _notify(loaded.notices)
            return loading.dump(loaded.config)
        from metarl.run import runs
    except BaseException:
        _stop_fork_server()
        raise
    try:
        return str(runs.train(loaded))
    except Terminated:
        _stop_fork_server()
        raise


def _start_fork_server(options: argparse.Namespace) -> None:
    """Where workers are likely to be wanted, have their process import torch while this one does so on another core."""
    here = {"sampler.workers=0", "sampler.executor=in_process", "sampler.executor=ray"} & {*options.overrides}
    if options.help or options.print_config or here or available_cores() == 1:
        return
    from metarl.sampling.executors import fork_server

    with suppress(OSError):  # is told when workers are started
        fork_server.start()


def _stop_fork_server() -> None:
    from metarl.sampling.executors import fork_server

    fork_server.stop()


def resume(options: argparse.Namespace) -> str:
    """Go on with a run."""
    run = _run(options.run)
    _begin(f"resume {run}")
    _check_overrides(options, "resume")
    from metarl.run import runs

    return str(runs.resume(run, options.overrides, options.allow, _notify, auto=options.auto))


def evaluate(options: argparse.Namespace) -> str:
    """Measure how the agent of a run adapts, or the agents of several as seeds of one experiment."""
    words = [word for word in options.overrides if not _OVERRIDE.match(word)]
    options.overrides = [word for word in options.overrides if _OVERRIDE.match(word)]
    paths = [_run(text) for text in (options.run, *words)]
    _begin(f"evaluate {' '.join(map(str, paths))}")
    _check_overrides(options, "evaluate")
    from metarl.report.files import write_files
    from metarl.run import runs, seeds

    if options.protocol is not None and options.tasks is not None:
        raise ConfigError(f"--tasks and --protocol {options.protocol}: expected one of them, both say which tasks")
    tasks = None if options.tasks is None else _tasks(options.tasks)
    settings = (options.overrides, options.allow, _notify)
    which: dict[str, Any] = {
        "iteration": options.checkpoint,
        "tasks": tasks,
        "every_task": options.protocol == PER_GOAL,
    }
    with results_only():
        if options.protocol == OFFICIAL:
            result, text = _official(paths, *settings, iteration=options.checkpoint)
        elif len(paths) == 1:
            result = runs.evaluate(paths[0], *settings, **which)
            text = curve_table(result)
        else:
            result = seeds.evaluate_seeds(paths, *settings, **which)
            text = seeds_table(result)
    if options.out is not None:
        write_files({options.out: (json.dumps(result) + "\n").encode()})
    return json.dumps(result) if options.json else text


def _official(paths: Sequence[Path], *settings: Any, iteration: int | None) -> tuple[dict[str, Any], str]:
    """Meta-World's own evaluation of a run beside one of every goal, and both as a table."""
    if len(paths) > 1:
        raise ConfigError(f"--protocol {OFFICIAL}: expected one RUN, got {len(paths)}")
    from metarl.api import meta_world

    result = meta_world.evaluate(paths[0], *settings, iteration=iteration)
    return result, official_table(result)


def report(options: argparse.Namespace) -> str:
    """Summary, table and picture of a run as it stands; and a page where it is wanted."""
    run = _run(options.run)
    from metarl.report.run_report import write_report

    return "\n".join(str(path) for path in write_report(run, with_page=options.html))


def compare(options: argparse.Namespace) -> str:
    """Runs held against each other, as a table or a page."""
    page = options.out
    if page is not None and page.suffix not in (".md", ".html"):
        raise ConfigError(f"--out {page}: expected a file whose name ends with .md or .html")
    from metarl.report.comparison import tables
    from metarl.report.comparison.summary import compare
    from metarl.report.comparison.text import comparison_table
    from metarl.run import compared

    paths = [_run(text) if text == LATEST else Path(os.path.expanduser(text)) for text in options.runs]
    lines = [Path(os.path.expanduser(text)) for text in options.reference]
    with results_only():  # a family may be asked which tasks it holds out
        (runs, references), left_out = compared.gather_both(paths, lines)
        found = compare(runs, by=options.by, baseline=options.baseline, references=references, left_out=left_out)
    for line in found.all_warnings:
        print(visible(f"warning: {line}"), file=sys.stderr)
    _notify(found.all_notices)
    written = []
    if page is not None:
        from metarl.report.comparison.page import write_page

        written = [str(path) for path in write_page(found, page, _compare_command(options))]
    if options.csv or options.latex:
        return tables.csv_text(found) if options.csv else tables.latex(found)
    return "\n".join(written) if written else comparison_table(found)


def _compare_command(options: argparse.Namespace) -> str:
    """The command line that a page came from."""
    words = [*options.runs, *(["--by", options.by] if options.by else [])]
    words += ["--baseline", options.baseline] if options.baseline else []
    words += ["--reference", *options.reference] if options.reference else []
    return shlex.join(["metarl", "compare", *words, "--out", str(options.out)])


def video(options: argparse.Namespace) -> str:
    """Film the agent of a run."""
    run = _run(options.run)
    _begin(f"video {run}")
    for name in ("episodes", "steps"):
        value = getattr(options, name)
        if value is not None and value < (1 if name == "episodes" else 0):
            raise ConfigError(f"--{name} {value}: expected a positive number")
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed}: expected 0 or more")
    tasks = [task for text in options.task for task in _tasks(text, "--task")]
    with results_only():
        from metarl.api.loading import load
        from metarl.cli import video

        agent = load(run, checkpoint=options.checkpoint, allow=options.allow)
        paths = video.make(
            agent, tasks=tasks, episodes=options.episodes, steps=options.steps, seed=options.seed, out=options.out
        )
    return "\n".join(map(str, paths))


def hash_(options: argparse.Namespace) -> str:
    """The digest of a run."""
    run = _run(options.run)
    from metarl.run import run_dir

    return run_dir.digest(run)


def list_(options: argparse.Namespace) -> str:
    """Tasks, agents and configurations."""
    if options.trained:
        if options.kinds != "agents":
            raise ConfigError("--trained: expected `metarl list agents --trained`")
        return _list_trained(options)
    if options.kinds == "runs":
        return _list_runs(options)
    kinds = [options.kinds] if options.kinds else list(KINDS)
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds:
        if kind == "tasks":
            from metarl.tasks import families

            with results_only():
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
        cells = [task_cells(row) if columns else [row["name"], row["summary"]] for row in rows]
        shed = ["needs", "lineages"] if columns else []
        blocks.append(f"{kind}:\n{table(columns or ['name', 'summary'], cells, shed)}")
    return "\n\n".join(blocks)


def _list_trained(options: argparse.Namespace) -> str:
    """The agents that metarl brings along."""
    from metarl.run import listing, shipped

    found = [listing.read_run(shipped.FOLDER / name) for name in shipped.names()]
    if options.json:
        return json.dumps([{**vars(run), "path": str(run.path), "name": run.path.name} for run in found])
    rows = [[run.path.name, run.task, run.agent, f"{run.env_steps:,}", returns(run)] for run in found]
    return table(["name", "task", "agent", "env steps", "return"], rows)


def _list_runs(options: argparse.Namespace) -> str:
    from metarl.run import listing

    found = listing.runs_below(Path(os.path.expanduser(options.folder or RUNS)))
    if options.json:
        return json.dumps([{**vars(run), "path": str(run.path)} for run in found])
    if not found:
        return f"no runs below {options.folder or RUNS}"
    return runs_table(found)


def check_env(options: argparse.Namespace) -> str:
    """Whether a task family keeps its promises."""
    from metarl.tasks import families

    with results_only():
        distribution = families.build(options.task, options.overrides, [options.task, *options.allow])
        from metarl.tasks.checks import check_env

        found = check_env.report(distribution)
    checks = found["checks"]
    if options.json:
        text = json.dumps(found)
    else:
        text = table(
            ["check", "result", "found"], [[check["name"], check["result"], check["detail"]] for check in checks]
        )
        if found["speed"]:
            text += "\n{lane_steps_per_s:.0f} lane-steps/s, {reset_ms:.3f} ms per reset ({lanes} lanes)".format(
                **found["speed"]
            )
    failed = [f"{check['name']}: {check['detail']}" for check in checks if check["result"] == "failed"]
    if failed:
        write(text)
        raise WorkerError("\n".join([f"{len(failed)} of {len(checks)} checks of {options.task} failed", *failed]))
    return text


def doctor(options: argparse.Namespace) -> str:
    """Versions and surroundings."""
    from metarl.cli import doctor

    return doctor.report()


def bench(options: argparse.Namespace) -> str:
    """Measure speed."""
    _begin(" ".join(word for word in ("bench", options.part, options.config) if word))
    if options.part != "device" and (options.every_agent or options.out):
        raise ConfigError(f"bench {options.part}: expected neither --every-agent nor --out, which bench device takes")
    if options.part == "metaworld":
        if options.config is not None or options.overrides:
            raise ConfigError("bench metaworld always measures ML10: expected no CONFIG and no overrides")
        from metarl.bench import metaworld

        with results_only():
            measured = metaworld.measure()
        return json.dumps(measured)
    if options.config is None:
        raise ConfigError(f"bench {options.part}: expected a CONFIG")
    from metarl.config import loading

    with results_only():
        loaded = loading.load(options.config, options.overrides, options.allow)
        _notify(loaded.notices)
        if options.part == "device":
            from metarl.cli import device

            return device.report(loaded, options.allow, options.out, every_agent=options.every_agent)
        from metarl.bench import faults, iteration, learner, sampling

        parts = {"sampling": sampling, "learner": learner, "iteration": iteration, "faults": faults}
        part = parts[options.part]
        measured = part.measure(loaded.config)
    return json.dumps(measured)


def reproduce(options: argparse.Namespace) -> str:
    """Run a study, or tell about it."""
    from metarl.studies import reproduce

    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: expected at least 1")
    study = options.make_study(options)
    out = options.out or Path("runs", study.name)
    how = {"dry_run": options.dry_run, "report_only": options.report_only, "places": options.jobs}
    return reproduce.reproduce(study, out, options.page, **how)


def sweep(options: argparse.Namespace) -> str:
    """Run the settings of a grid, or tell or submit the commands that do."""
    _begin(" ".join(["sweep", options.config, *options.overrides]))
    _require_sweep_options(options)
    from metarl.studies import sweep, sweep_table

    with results_only():
        plan = sweep.make_plan(
            options.config, options.overrides, out=options.out, allow=options.allow, most=options.most
        )
    _notify(plan.notices)
    if options.print_commands:
        return "\n".join(sweep.commands(plan, side_by_side=options.jobs, retry_failed=options.retry_failed))
    if options.slurm:
        from metarl.studies import slurm

        asked = slurm.Options(options.slurm_time, options.slurm_partition, options.slurm_cpus, options.slurm_option)
        rows = slurm.submit(plan, asked, at_once=options.jobs, retry_failed=options.retry_failed)
    elif options.report_only:
        rows = plan.rows()
    else:
        rows = sweep.run(plan, side_by_side=options.jobs, retry_failed=options.retry_failed)
    with results_only():  # a family may be asked which tasks it holds out
        tables = [sweep_table.settings_table(plan.axes, rows), sweep_table.failures_table(rows)]
    text = "\n\n".join("\n".join([table(t.columns, t.rows), t.note]).rstrip() for t in tables if t.rows)
    if any(row.failure for row in rows):
        write(text)
        sweep.require_success(plan, rows)
    return text


def _require_sweep_options(options: argparse.Namespace) -> None:
    """Raises ConfigError for options of a sweep that contradict each other, or have no such value."""
    problems = [
        f"--{name} {value}: expected at least 1"
        for name, value in (("jobs", options.jobs), ("most", options.most))
        if value is not None and value < 1
    ]
    asked = ("time", "partition", "cpus", "option")
    if not options.slurm:
        problems += [f"--slurm-{name}: expected --slurm, too" for name in asked if getattr(options, f"slurm_{name}")]
    if problems:
        raise ConfigError("\n".join(problems))


def _tasks(text: str, option: str = "--tasks") -> list[dict[str, Any]]:
    """Tasks from the command line: JSON, or a file of it; one task, or a list of them.

    Raises:
        ConfigError: they are neither.
    """
    source = option
    if not text.lstrip().startswith(("{", "[")):
        source = text
        try:
            content = read_plain(Path(os.path.expanduser(text)), MAX_JSON_BYTES)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{option} {source}: expected JSON, or a file of it: {error}") from error
    else:
        content = text.encode(errors="surrogateescape")
    try:
        found = strict_json(content)
    except ValueError as error:
        raise ConfigError(f'{source}: expected JSON such as [{{"goal": [0.3, 0.2]}}]: {error}') from error
    tasks = found if isinstance(found, list) else [found]
    for task in tasks:
        if not isinstance(task, dict):
            raise ConfigError(f"{source}: expected tasks that map names to values, got {task!r:.60}")
    return tasks


def _run(text: str) -> Path:
    """A run directory.

    Raises:
        CheckpointError: there is none at that path.
    """
    run = Path(os.path.expanduser(text))
    if run_files.is_run(run):
        return run
    if text == LATEST and not os.path.exists(run):
        from metarl.run import listing

        return listing.latest(Path(RUNS))
    from metarl.run import shipped

    if shipped.find(text) and not os.path.exists(run):
        return shipped.copy(text, Path(RUNS, "trained"))
    found = (
        f"a folder without {run_files.CONFIG} and {run_files.CHECKPOINTS}"
        if os.path.isdir(run)
        else "a file"
        if os.path.exists(run)
        else "nothing"
    )
    raise CheckpointError(
        f"{text!r}: expected a run directory, as `metarl train` prints it, or a trained agent's name "
        f"({', '.join(shipped.names())}), found {found}"
    )


def _check_overrides(options: argparse.Namespace, command: str) -> None:
    """Before anything is imported for the command: raises ConfigError for keys that it cannot change."""
    from metarl.config import loading

    changeable = loading.RESUMABLE if command == "resume" else loading.EVALUATED
    loading.check_override_keys(options.overrides, changeable, f"in `metarl {command}`")


def _begin(text: str) -> None:
    """The first line on a terminal, before anything slow."""
    if ranks.launch().first and sys.stderr is not None and sys.stderr.isatty():
        print(visible(f"metarl {__version__}: {text}"), file=sys.stderr, flush=True)


def _notify(notices: Sequence[str]) -> None:
    for notice in notices:
        print(visible(f"notice: {notice}"), file=sys.stderr)
