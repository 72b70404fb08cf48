"""What came out of a run, in a few numbers: ``summary.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl import run_files
from metarl.errors import StorageError
from metarl.report.curves import Curves, Trained, adapted_point, config_of, low_if_unknown, read_curves, trained
from metarl.report.files import write_files
from metarl.storage import expect_plain, read_json

LAST_SHARE = 0.1  # of a run's iterations
BEST_IS_CHOSEN = "the highest of {count} evaluations, chosen by their own returns: too good on average"


def write_summary(run: Path) -> Path:
    """Write ``summary.json``: what the run is, how far it is, and how it adapts to held-out tasks.

    - ``final``: the newest evaluation. ``best``: that with the highest return after as much adaptation as there was
      in training, which is chosen by the same returns and so says too much; its ``note`` says so.
      ``last_10_percent``: the mean over the evaluations of the last tenth of the iterations so far.
    - Each has ``before``, before adaptation, and ``after``, after as much of it as in training, or, where training had
      none, after all that the evaluation has: mean ``return`` per
      episode over tasks, and ``success`` where it is known; ``final`` and ``best`` with 95 % intervals. None stands for
      what is not known.
    - ``training``: the mean return of every phase over the last tenth of the iterations.
    - ``wall_time_s``: seconds of training and evaluation until the last iteration, over all parts of the run.

    Raises:
        ConfigError: the run has recorded nothing, or a line that is not as metarl writes them.
        StorageError: records cannot be read, or the file cannot be written.
    """
    path = run / run_files.SUMMARY
    try:
        expect_plain(path)
    except OSError as error:
        raise StorageError(f"cannot write a summary: {error}") from error
    found = summarize(read_curves(run), config_of(run), versions_of(run))
    write_files({path: (json.dumps(found, indent=2) + "\n").encode()})
    return path


def summarize(curves: Curves, config: Mapping[str, Any], versions: Any) -> dict[str, Any]:
    """The content of ``summary.json``, as plain JSON data."""
    newest = max([*curves.training, *curves.evaluations], key=lambda line: line["iteration"])
    iteration = newest["iteration"]
    late = [line for line in curves.evaluations if line["iteration"] > iteration * (1 - LAST_SHARE)]
    in_training = trained(config, curves)
    found: dict[str, Any] = {
        "task": _named(config, "task"),
        "agent": _named(config, "agent"),
        "seed": config.get("seed"),
        "iteration": iteration,
        "iterations": config.get("iterations"),
        "env_steps": newest.get("env_steps"),
        "wall_time_s": next((line["perf/seconds"] for line in curves.training[::-1] if "perf/seconds" in line), None),
        "training": _training(curves, iteration),
    }
    if curves.evaluations:
        last = curves.evaluations[-1]
        found["evaluation"] = {
            "unit": last.get("unit"),
            "after": last["steps"][adapted_point(last, in_training)],
            "tasks": len(last["returns"][0]),
            "final": _estimate(last, in_training),
            "best": _best(curves.evaluations, in_training),
            "last_10_percent": _mean_of([_estimate(line, in_training) for line in late]) if late else None,
        }
    return {**found, "versions": versions}


def _training(curves: Curves, iteration: int) -> dict[str, Any]:
    """The mean return of every phase over the last tenth of the iterations."""
    late = [line for line in curves.training if line["iteration"] > iteration * (1 - LAST_SHARE)]
    means = {f"return/{phase}": _mean(line.get(f"train/return/{phase}") for line in late) for phase in curves.phases}
    return {"last_10_percent": means}


def _estimate(line: Mapping[str, Any], in_training: Trained) -> dict[str, Any]:
    """One evaluation before adaptation and after as much as in training."""
    ends = {"before": 0, "after": adapted_point(line, in_training)}
    found: dict[str, Any] = {"iteration": line["iteration"], "env_steps": line["env_steps"]}
    for name, place in ends.items():
        found[name] = {"return": _interval(line, place)}
        if isinstance(line.get("success"), Mapping):
            found[name]["success"] = _interval(line["success"], place)
    return found


def _interval(curve: Mapping[str, Any], place: int) -> dict[str, Any]:
    return {name: curve[name][place] for name in ("mean", "low", "high")}


def _best(evaluations: Sequence[Mapping[str, Any]], in_training: Trained) -> dict[str, Any]:
    found = [_estimate(line, in_training) for line in evaluations]
    best = max(found, key=lambda one: low_if_unknown(one["after"]["return"]["mean"]))
    return {**best, "note": BEST_IS_CHOSEN.format(count=len(found))}


def _mean_of(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over several evaluations, without an interval: they are of one run and not independent."""
    return {
        "evaluations": len(found),
        **{
            name: {what: {"mean": _mean(one[name][what]["mean"] for one in found)} for what in found[0][name]}
            for name in ("before", "after")
        },
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _named(config: Mapping[str, Any], part: str) -> str | None:
    found = config.get(part)
    return found.get("name") if isinstance(found, Mapping) else None


def versions_of(run: Path) -> dict[str, Any] | None:
    """What ``versions.json`` says, without the long list of what the processor can do; None where it is lost."""
    try:
        found = read_json(run / run_files.VERSIONS)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    cpu = found.get("cpu")
    return found | {"cpu": cpu.get("model") if isinstance(cpu, dict) else None}
