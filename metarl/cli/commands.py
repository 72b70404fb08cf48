"""What the commands do: each takes the parsed options and returns what is to be printed.

What is heavy is imported only once the command line has been found good.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarl import run_files
from metarl.cli.tables import curve_table, table, task_cells, write
from metarl.config import lookup
from metarl.errors import CheckpointError, ConfigError, WorkerError

KINDS: dict[str, lookup.Package] = {"tasks": "envs", "agents": "agents", "configs": "configs"}


def train(options: argparse.Namespace) -> str:
    """Start a run; with ``--help`` or ``--print-config`` only tell about its configuration."""
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


def resume(options: argparse.Namespace) -> str:
    """Go on with a run."""
    run = _run(options.run)
    _check_overrides(options, "resume", run)
    from metarl.run import runs

    return str(runs.resume(run, options.overrides, options.allow))


def evaluate(options: argparse.Namespace) -> str:
    """Measure how a run's agent adapts."""
    run = _run(options.run)
    _check_overrides(options, "evaluate", run)
    from metarl.run import runs

    result = runs.evaluate(run, options.overrides, options.allow)
    return json.dumps(result) if options.json else curve_table(result)


def hash_(options: argparse.Namespace) -> str:
    """The digest of a run."""
    run = _run(options.run)
    from metarl.run import run_dir

    return run_dir.digest(run)


def list_(options: argparse.Namespace) -> str:
    """Tasks, agents and configurations."""
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
        cells = [task_cells(row) if columns else [row["name"], row["summary"]] for row in rows]
        blocks.append(f"{kind}:\n{table(columns or ['name', 'summary'], cells)}")
    return "\n\n".join(blocks)


def check_env(options: argparse.Namespace) -> str:
    """Whether a task family keeps its promises."""
    from metarl.tasks import families

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


def bench(options: argparse.Namespace) -> str:
    """Measure speed."""
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


def reproduce(options: argparse.Namespace) -> str:
    """Run a study, or tell about it."""
    from metarl.studies import reproduce

    study = options.make_study(options)
    out = options.out or Path("runs", study.name)
    return reproduce.reproduce(study, out, options.page, dry_run=options.dry_run, report_only=options.report_only)


def _run(text: str) -> Path:
    """A run directory.

    Raises:
        CheckpointError: there is none at that path.
    """
    run = Path(text)
    if run_files.is_run(run):
        return run
    found = f"a folder without {run_files.CONFIG}" if run.is_dir() else "a file" if run.exists() else "nothing"
    raise CheckpointError(f"{text!r}: expected a run directory, as `metarl train` prints it, found {found}")


def _check_overrides(options: argparse.Namespace, command: str, run: Path) -> None:
    """Before anything is imported for the command: raises ConfigError for keys that it cannot change. What can be
    changed and has no effect on the run is said."""
    from metarl.config import loading

    changeable = loading.RESUMABLE if command == "resume" else ("eval.*",)
    changes = loading.check_override_keys(options.overrides, changeable, f"in `metarl {command}`")
    if changes:
        saved = loading.load(str(run / run_files.CONFIG), allow=options.allow).config
        _notify(loading.idle_notices(loading.resume_config(saved, options.overrides), changes))


def _notify(notices: Sequence[str]) -> None:
    for notice in notices:
        print(f"notice: {notice}", file=sys.stderr)
