"""A run from outside: start one, go on with one, evaluate one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from metarl import ranks, run_files
from metarl.config import loading
from metarl.config.loading import Loaded
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError, StorageError
from metarl.faults import UNEXPECTED
from metarl.monitor.console import Console
from metarl.monitor.logger import Logger, SilentLogger
from metarl.monitor.metrics_file import MetricsFile
from metarl.ranks import Ranks
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

    Where a launcher has started several processes they train the run together (:mod:`metarl.ranks`): the first one
    writes and speaks, and the others call neither. Where the launcher starts them again, they go on with the run.
    """
    with ranks.together() as group:
        before = group.by_first(lambda: _run_before(group))
        if before is not None:
            return _go_on(Path(before), [], _names_of(loaded.config), group, on_iteration)
        config = agreed(group, loaded.config)
        content = run_config.encode(config)
        parameters = group.by_first(lambda: _initial_parameters(config))
        root = run_dir.absolute(config.run_dir)
        with build(config) as experiment, ExitStack() as stack:
            if parameters is not None:
                experiment.agent.load_parameters(parameters)
            memory.check_trajectories(config, experiment.distribution.spaces, experiment.agent)
            # everything that can be wrong with a configuration has been found: only now is anything created
            made = run_dir.made(str(root), loaded.name, config.seed, content, loaded.suffix)
            run = Path(group.by_first(lambda: str(stack.enter_context(made))))
            trainer = _begin(run, loaded, experiment)
            trainer.on_iteration = on_iteration
            trainer.run_to_end()
    return run


def agreed(group: Ranks, given: RunConfig) -> RunConfig:
    """A configuration, resolved, the same on all ranks: what it leaves open is as on the first one's machine.

    Raises:
        ConfigError: the ranks were given different ones, or there is less to share out than there are ranks.
    """
    config = resolve(given) if group.world == 1 else _as_on_first(group, given)
    group.timeout_s = config.sampler.rank_timeout_s
    return config


def _as_on_first(group: Ranks, given: RunConfig) -> RunConfig:
    first = group.by_first(lambda: loading.as_data(resolve(given)))
    resolved = loading.reload(first, _names_of(given)).config
    config = given.model_copy(update={key: getattr(resolved, key) for key in ("device", "learner", "wandb")})
    for rank, found in enumerate(group.all(loading.as_data(config))):
        changed = loading.differences(found, first, free=("run_dir",))  # the first one's is where the run will be
        if changed:
            raise ConfigError(f"rank {rank} was started with another configuration than rank 0: {changed[0]}")
    group.by_first(lambda: _require_parts(group, config))
    return config


def _require_parts(group: Ranks, config: RunConfig) -> None:
    key, parts = config.agent.parts(config)
    if parts < group.world:
        raise ConfigError(
            f"{key}: cuts the learner's work into {parts} for {group.world} ranks: expected at least one part for each "
            "of them; start fewer, or change the key, which decides the last bits of the result"
        )


def _run_before(group: Ranks) -> str | None:
    """The run that these processes trained before their launcher started them again, if it can be gone on with."""
    run = group.trained_before()
    return run if run is not None and checkpoint.complete(run_dir.checkpoints(Path(run))) else None


def _names_of(config: RunConfig) -> list[str]:
    """What a configuration that has been validated may name again."""
    return [config.task.name, config.agent.name, *config.task.imports().values()]


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
        if experiment.ranks.first:
            run_dir.discard(run)
        raise
    experiment.ranks.train_in(str(run))
    _introduce(trainer, loaded.notices)
    return trainer


def _introduce(trainer: Trainer, notices: Sequence[str]) -> None:
    """Tell what is about to begin."""
    if not trainer.ranks.first:
        return
    lines = header(trainer.run, trainer.experiment, trainer.logger.wandb.mode)
    for line in [*lines, *(f"notice: {notice}" for notice in notices)]:
        trainer.logger.message(line)


def resume(run: Path, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> Path:
    """Go on from a run's newest checkpoint, as if it had never stopped; ``iterations=…`` extends it.

    ``allow`` names classes of the user's own that the run's configuration may use, as for
    :func:`metarl.config.loading.load`.
    """
    with ranks.together() as group:
        return _go_on(run.resolve(), overrides, allow, group)


def _go_on(
    run: Path, overrides: Sequence[str], allow: Sequence[str], group: Ranks, on_iteration: OnIteration | None = None
) -> Path:
    """:func:`resume` on all ranks; the first one alone reads the run."""
    with ExitStack() as stack:
        found = group.by_first(lambda: _opened(stack, run, overrides, allow, group))
        config = loading.reload(found["config"], allow).config
        group.timeout_s = config.sampler.rank_timeout_s
        with build(config) as experiment:
            experiment.agent.load_state(found["tensors"])
            trainer = assemble(run, experiment, Progress.from_state(found["state"]))
            trainer.on_iteration = on_iteration
            group.train_in(str(run))
            _introduce(trainer, found["notices"])
            trainer.run_to_end()
    return run


def _opened(
    stack: ExitStack, run: Path, overrides: Sequence[str], allow: Sequence[str], group: Ranks
) -> dict[str, Any]:
    """A run that is to go on, locked, and cut back to its newest checkpoint; as plain data."""
    run_files.expect_own_files(run)
    stack.enter_context(run_dir.lock(run))
    opened = run_dir.open_run(run, allow)
    _require_device(run, opened, overrides)
    config, found = loading.resume_config(opened.config, overrides), opened.checkpoint
    if config.iterations < found.iteration:
        raise ConfigError(
            f"iterations = {config.iterations}: expected at least the {found.iteration} done; nothing was changed"
        )
    config = resolve(config)
    if group.world > 1:
        _require_parts(group, config)
    run_config.write(run, run_config.encode(config))
    # what lies behind the checkpoint has not happened
    for name in (run_files.METRICS, run_files.EVALUATIONS):
        MetricsFile.cut_back(run / name, found.iteration)
    notices = opened.notices + loading.idle_notices(config, loading.keys_of(overrides))
    kept = {"config": loading.as_data(config), "tensors": found.tensors, "state": found.state}
    return {**kept, "notices": notices}


def _require_device(run: Path, opened: run_dir.Opened, overrides: Sequence[str]) -> None:
    """Raises ConfigError where a run's device is not there and nobody has said on which other one it is to go on."""
    if opened.device != opened.config.device and "device" not in loading.keys_of(overrides):
        here = opened.config.device
        raise ConfigError(
            f"device = {opened.device}: the run was trained on it, and this machine has none such; "
            f"`metarl resume {run_dir.shown(run)} device={here}` goes on with {here}, where last bits differ"
        )


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
    logger = (
        Logger(run, config, name=title, run_id=progress.wandb_id, start=progress.iteration)
        if experiment.ranks.first
        else SilentLogger()
    )
    evaluator = Evaluator(experiment.sampler, config.eval, seed=config.seed, on_part=logger.on_part)
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
