"""A run from outside: start one, go on with one, evaluate one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from metarl import run_files
from metarl.config import loading
from metarl.config.loading import Loaded
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError, StorageError
from metarl.faults import UNEXPECTED
from metarl.monitor.console import Console
from metarl.monitor.logger import Logger
from metarl.monitor.metrics_file import MetricsFile
from metarl.run import checkpoint, memory, run_config, run_dir
from metarl.run.evaluation import Evaluator
from metarl.run.experiment import Experiment, build, resolve
from metarl.run.header import header
from metarl.run.trainer import OnIteration, Progress, Trainer
from metarl.tasks import Task, TaskDistribution
from metarl.tasks.distribution import give_tasks, make_lanes


def train(loaded: Loaded, on_iteration: OnIteration | None = None) -> Path:
    """Start a run and train it to its end; returns its directory.

    ``on_iteration`` is shown the metrics of every iteration; where it returns False the run saves and stops.
    """
    config = resolve(loaded.config)
    content = run_config.encode(config)
    parameters, root = _initial_parameters(config), run_dir.absolute(config.run_dir)
    with build(config) as experiment:
        if parameters is not None:
            experiment.agent.load_parameters(parameters)
        memory.check_trajectories(config, experiment.distribution.spaces, experiment.agent)
        # everything that can be wrong with a configuration has been found: only now is anything created
        with run_dir.made(str(root), loaded.name, config.seed, content, loaded.suffix) as run:
            trainer = _begin(run, loaded, experiment)
            trainer.on_iteration = on_iteration
            trainer.run_to_end()
    return run


def _begin(run: Path, loaded: Loaded, experiment: Experiment) -> Trainer:
    """A new run's trainer, with its first checkpoint. Where code of the user's raises, or there is no space for it
    (StorageError), the run is deleted: it has never begun."""
    try:
        trainer = assemble(run, experiment, Progress(title=loaded.title))
        try:
            trainer.save()
        except StorageError:
            trainer.logger.close()
            raise
    except UNEXPECTED:
        run_dir.discard(run)
        raise
    _introduce(trainer, loaded.notices)
    return trainer


def _introduce(trainer: Trainer, notices: Sequence[str]) -> None:
    """Tell what is about to begin."""
    lines = header(trainer.run, trainer.experiment, trainer.logger.wandb.mode)
    for line in [*lines, *(f"notice: {notice}" for notice in notices)]:
        trainer.logger.message(line)


def resume(run: Path, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> Path:
    """Go on from a run's newest checkpoint, as if it had never stopped; ``iterations=…`` extends it.

    ``allow`` names classes of the user's own that the run's configuration may use, as for
    :func:`metarl.config.loading.load`.
    """
    run = run.resolve()
    run_files.expect_own_files(run)
    with run_dir.lock(run):
        opened = run_dir.open_run(run, allow)
        config, found = loading.resume_config(opened.config, overrides), opened.checkpoint
        if config.iterations < found.iteration:
            raise ConfigError(
                f"iterations = {config.iterations}: expected at least the {found.iteration} done; nothing was changed"
            )
        config = resolve(config)
        run_config.write(run, run_config.encode(config))
        # what lies behind the checkpoint has not happened
        for name in (run_files.METRICS, run_files.EVALUATIONS):
            MetricsFile.cut_back(run / name, found.iteration)
        with build(config) as experiment:
            experiment.agent.load_state(found.tensors)
            trainer = assemble(run, experiment, Progress.from_state(found.state))
            _introduce(trainer, opened.notices + loading.idle_notices(config, loading.keys_of(overrides)))
            trainer.run_to_end()
    return run


def evaluate(
    run: Path,
    overrides: Sequence[str] = (),
    allow: Sequence[str] = (),
    notify: Callable[[Sequence[str]], None] = lambda notices: None,
    *,
    iteration: int | None = None,
    tasks: Sequence[Task] | None = None,
    every_task: bool = False,
) -> dict[str, Any]:
    """The adaptation curve of a run's checkpoint, with overrides of keys that do not undo it; writes nothing.

    Args:
        run: the run's directory.
        overrides: ``key=value``.
        allow: as for :func:`metarl.config.loading.load`.
        notify: is given what the user should know of how the run was opened.
        iteration: of the checkpoint; the newest one, unless given.
        tasks: others than the run's held-out ones.
        every_task: where the held-out tasks are a finite set, all of them, and all equally often.

    Raises:
        ConfigError: not tasks of the family, or a key that cannot change.
    """
    opened = run_dir.open_run(run, allow, iteration)
    return evaluate_opened(run, opened, overrides, notify, tasks=tasks, every_task=every_task)


def evaluate_opened(
    run: Path,
    opened: run_dir.Opened,
    overrides: Sequence[str] = (),
    notify: Callable[[Sequence[str]], None] = lambda notices: None,
    *,
    tasks: Sequence[Task] | None = None,
    every_task: bool = False,
) -> dict[str, Any]:
    """:func:`evaluate` of a run that has been opened."""
    config, found = resolve(loading.evaluation_config(opened.config, overrides)), opened.checkpoint
    changed = loading.differences(loading.as_data(config)["task"], loading.as_data(opened.config)["task"])
    notify(opened.notices + loading.idle_notices(config, loading.keys_of(overrides)))
    with build(config) as experiment, closing(Console(config.iterations)) as console:
        experiment.agent.load_state(found.tensors)
        if tasks is not None:
            _require_tasks(experiment.distribution, tasks)
        elif every_task:
            number = _all_equally_often(experiment.distribution.size("test"), config.eval.num_tasks)
            config = config.model_copy(update={"eval": config.eval.model_copy(update={"num_tasks": number})})
        evaluator = Evaluator(
            experiment.sampler, config.eval, seed=config.seed, tasks=tasks, on_part=console.evaluation
        )
        curve = evaluator.evaluate(experiment.agent)
    return {
        "run": str(run),
        "task": config.task.name,
        "on": ", ".join(["held-out tasks" if tasks is None else "chosen tasks", *(f"task.{line}" for line in changed)]),
        **found.state["counters"],
        **curve.summary(config.seed),
    }


def assemble(run: Path, experiment: Experiment, progress: Progress) -> Trainer:
    """A run's trainer with everything that it uses."""
    config = experiment.config
    title = progress.title or run.parent.name
    logger = Logger(run, config, name=title, run_id=progress.wandb_id, start=progress.iteration)
    evaluator = Evaluator(experiment.sampler, config.eval, seed=config.seed, on_part=logger.console.evaluation)
    return Trainer(run, experiment, evaluator, logger, progress)


def _all_equally_often(size: int | None, least: int) -> int:
    """How many trials every task of a finite set is met in equally often, at least as many as wanted."""
    return least if size is None else size * math.ceil(least / size)


def _require_tasks(distribution: TaskDistribution, tasks: Sequence[Task]) -> None:
    """Raises ConfigError unless these are tasks of the family, at least one."""
    if not tasks:
        raise ConfigError("expected at least one task, got none")
    with closing(make_lanes(distribution, 1)) as lane:
        for task in tasks:
            try:
                give_tasks(lane, [task], distribution.config.name)
            except ValueError as error:
                raise ConfigError(f"tasks: {error}") from error


def _initial_parameters(config: RunConfig) -> dict[str, Any] | None:
    """The parameters named by ``init_from``; read before anything is created."""
    if config.init_from is None:
        return None
    source = Path(os.path.expanduser(config.init_from))
    if not run_files.is_run(source):
        raise CheckpointError(f"init_from = {config.init_from}: expected a run directory, found none there")
    return dict(checkpoint.latest(run_dir.checkpoints(source)).tensors)
