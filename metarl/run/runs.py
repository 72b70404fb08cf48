"""A run from outside: start one, go on with one, evaluate one."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from metarl import ranks, run_files
from metarl.agent import Agent
from metarl.config import loading
from metarl.config.loading import Loaded
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError
from metarl.monitor.console import Console
from metarl.monitor.curve_text import counted
from metarl.monitor.logger import Logger, SilentLogger
from metarl.monitor.metrics_file import MetricsFile
from metarl.ranks import Ranks
from metarl.run import checkpoint, memory, run_config, run_dir
from metarl.run.evaluation import Evaluator
from metarl.run.experiment import Experiment, build, resolve
from metarl.run.header import header
from metarl.run.restore import Candidates, Notify, begin_from, restore
from metarl.run.saved_state import Counters, SavedState
from metarl.run.trainer import OnIteration, Trainer, is_finished
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
            return _go_on(_Resumption(Path(before), [], _names_of(loaded.config), group), on_iteration)
        config = agreed(group, loaded.config)
        content = run_config.encode(config)
        start = group.by_first(lambda: _initial(config))
        root = run_dir.absolute(config.run_dir)
        with build(config) as experiment, ExitStack() as stack:
            if start is not None:
                begin_from(experiment.agent, start["tensors"], Path(start["path"]))
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
    """A new run's trainer, with its first checkpoint. Whatever goes wrong, as where there is no space for it
    (StorageError) or code of the user's raises, the run is deleted: it has never begun."""
    try:
        trainer = assemble(
            run, experiment, SavedState(counters=Counters(iteration=0, env_steps=0), title=loaded.title), saved=-1
        )
        try:
            trainer.save()
        except BaseException:
            trainer.logger.close()
            raise
    except BaseException:
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


def resume(
    run: Path,
    overrides: Sequence[str] = (),
    allow: Sequence[str] = (),
    notify: Notify = lambda notices: None,
    *,
    auto: bool = False,
) -> Path:
    """Go on from a run's newest checkpoint, as if it had never stopped; ``iterations=…`` extends it.

    Args:
        run: the run's directory.
        overrides: ``key=value``.
        allow: classes of the user's own that the run's configuration may use, as for
            :func:`metarl.config.loading.load`.
        notify: is told what ``auto`` has passed over, and why nothing is done.
        auto: as job scripts want it: from the newest checkpoint that is valid, and a finished run is left alone.

    Raises:
        CheckpointError: there is no checkpoint to go on from; a run is never begun afresh.
    """
    with ranks.together() as group:
        return _go_on(_Resumption(run.resolve(), overrides, allow, group, notify, auto))


def _go_on(resumption: _Resumption, on_iteration: OnIteration | None = None) -> Path:
    """:func:`resume` on all ranks; the first one alone reads the run."""
    run, group = resumption.run, resumption.group
    with ExitStack() as stack:
        opened = group.by_first(lambda: resumption.open(stack))
        if opened is None:
            return run
        config = loading.reload(opened, resumption.allow).config
        group.timeout_s = config.sampler.rank_timeout_s
        with build(config) as experiment:
            found = group.by_first(lambda: resumption.restore(experiment.agent, config))
            if not group.first:
                experiment.agent.load_state(found["tensors"])
            state = SavedState.model_validate(found["state"])
            trainer = assemble(run, experiment, state, saved=state.iteration)
            trainer.on_iteration = on_iteration
            group.train_in(str(run))
            _introduce(trainer, found["notices"])
            trainer.run_to_end()
    return run


class _Resumption:
    """A run that is to go on, as the first rank sees it: the arguments of :func:`resume`, and what they lead to."""

    def __init__(
        self,
        run: Path,
        overrides: Sequence[str],
        allow: Sequence[str],
        group: Ranks,
        notify: Notify = lambda notices: None,
        auto: bool = False,
    ) -> None:
        self.run, self.allow, self.group = run, allow, group
        self._overrides, self._notify, self._auto = overrides, notify, auto
        self._candidates: Candidates
        self._opened: run_dir.Opened

    def open(self, stack: ExitStack) -> dict[str, Any] | None:
        """Lock the run until ``stack`` ends; the configuration that it goes on with. None: it is finished."""
        run_files.expect_own_files(self.run)
        stack.enter_context(run_dir.lock(self.run))
        self._candidates = Candidates(self.run, self._auto, self._notify)
        first = self._candidates.first
        self._opened = run_dir.opened(self.run, first, self.allow)
        _require_device(self.run, self._opened, self._overrides)
        config = loading.resume_config(self._opened.config, self._overrides)
        if self._auto and is_finished(config, first.state.counters) and (self.run / run_files.SUMMARY).exists():
            done = counted(first.iteration, "iteration")
            self._notify([f"{run_dir.shown(self.run)} is finished: all {done} are done"])
            return None
        if config.iterations < first.iteration:
            raise ConfigError(
                f"iterations = {config.iterations}: expected at least the {first.iteration} done; nothing was changed"
            )
        config = resolve(config)
        if self.group.world > 1:
            _require_parts(self.group, config)
        return loading.as_data(config)

    def restore(self, agent: Agent, config: RunConfig) -> dict[str, Any]:
        """Give the agent the state that the run goes on from, and cut the run back to it; returns it as plain data."""
        found = self._candidates.restore(agent)
        run_config.write(self.run, run_config.encode(config))
        # what lies behind the checkpoint has not happened
        for name in (run_files.METRICS, run_files.EVALUATIONS):
            MetricsFile.cut_back(self.run / name, found.iteration)
        notices = self._opened.notices + loading.idle_notices(config, loading.keys_of(self._overrides))
        others = found.tensors if self.group.world > 1 else {}
        return {"tensors": others, "state": found.state.model_dump(), "notices": notices}


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
    notify: Notify = lambda notices: None,
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
    notify: Notify = lambda notices: None,
    *,
    tasks: Sequence[Task] | None = None,
    every_task: bool = False,
) -> dict[str, Any]:
    """:func:`evaluate` of a run that has been opened."""
    config, found = resolve(loading.evaluation_config(opened.config, overrides)), opened.checkpoint
    changed = loading.differences(loading.as_data(config)["task"], loading.as_data(opened.config)["task"])
    notify(opened.notices + loading.idle_notices(config, loading.keys_of(overrides)))
    with build(config) as experiment, closing(Console(config.iterations)) as console:
        restore(experiment.agent, found)
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
        **found.state.counters.model_dump(),
        **curve.summary(config.seed),
    }


def assemble(run: Path, experiment: Experiment, before: SavedState, saved: int) -> Trainer:
    """A run's trainer with everything that it uses; ``before`` and ``saved`` as for :class:`Trainer`."""
    config = experiment.config
    title = before.title or run.parent.name
    logger = (
        Logger(run, config, name=title, run_id=before.wandb_id, start=before.iteration)
        if experiment.ranks.first
        else SilentLogger()
    )
    evaluator = Evaluator(experiment.sampler, config.eval, seed=config.seed, on_part=logger.on_part)
    return Trainer(run, experiment, evaluator, logger, before, saved)


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


def _only_run(folder: Path) -> Path | None:
    """The folder, if it is a run's, or the one run that a study or a sweep has in it; None without one, or of many."""
    if run_files.is_run(folder):
        return folder
    found = (path for path in folder.glob("*/*") if run_files.is_run(path))
    below = [run for run in found if checkpoint.complete(run_dir.checkpoints(run))]
    return below[0] if len(below) == 1 else None


def _initial(config: RunConfig) -> dict[str, Any] | None:
    """The checkpoint named by ``init_from``, its tensors and its path; read before anything is created."""
    if config.init_from is None:
        return None
    source = _only_run(Path(os.path.expanduser(config.init_from)))
    if source is None:
        raise CheckpointError(f"init_from = {config.init_from}: expected a run directory, found none there")
    found = checkpoint.latest(run_dir.checkpoints(source))
    return {"tensors": found.tensors, "path": str(found.path)}
