"""The training loop, one for all agents, and the life of a run around it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from metarl.config import loading
from metarl.config.loading import Loaded
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError, Interrupted, MetarlError, NumericError, StorageError
from metarl.monitor.logger import Logger, MetricsFile
from metarl.report.figures import write_curves_csv, write_report
from metarl.run import checkpoint, run_dir
from metarl.run.evaluation import Evaluator
from metarl.run.experiment import Experiment, build, resolve
from metarl.seeding import Domain, Stream, generator
from metarl.storage import replace_file
from metarl.types import Metrics, Trajectory

EVALUATIONS = "evaluations.jsonl"
MAX_FAILED_SAVES = 3  # in a row


def train(loaded: Loaded) -> Path:
    """Start a run and train it to its end; returns its directory."""
    config = resolve(loaded.config)
    parameters = _initial_parameters(config)
    with build(config) as experiment:
        if parameters is not None:
            experiment.agent.load_parameters(parameters)
        run = run_dir.create(config.run_dir, loaded.name, config.seed)
        with run_dir.lock(run):
            (run / "config.yaml").write_text(loading.dump(config), encoding="utf-8")
            run_dir.write_versions(run)
            trainer = Trainer(run, loaded.name, experiment)
            for notice in loaded.notices:
                trainer.logger.message(notice)
            trainer.save()
            trainer.run_to_end()
    return run


def resume(run: Path, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> Path:
    """Go on from a run's newest checkpoint, as if it had never stopped; ``iterations=…`` extends it.

    ``allow`` names classes of the user's own that the run's configuration may use, as for
    :func:`metarl.config.loading.load`.
    """
    run = run.resolve()
    with run_dir.lock(run):
        saved = loading.load(str(run / "config.yaml"), allow=allow).config
        config = loading.resume_config(saved, overrides)
        found = checkpoint.latest(run_dir.checkpoints(run))
        if config.iterations < found.iteration:
            raise ConfigError(
                f"iterations = {config.iterations}: expected at least the {found.iteration} done; nothing was changed"
            )
        config = resolve(config)
        for name in ("metrics.jsonl", EVALUATIONS):
            MetricsFile.cut_back(run / name, found.iteration)
        (run / "config.yaml").write_text(loading.dump(config), encoding="utf-8")
        with build(config) as experiment:
            trainer = Trainer(run, run.parent.name, experiment, found)
            trainer.run_to_end()
    return run


def _initial_parameters(config: RunConfig) -> dict[str, Any] | None:
    """The parameters named by ``init_from``; read before anything is created."""
    if config.init_from is None:
        return None
    source = Path(config.init_from)
    if not run_dir.is_run(source):
        raise CheckpointError(f"init_from = {config.init_from}: expected a run directory, found none there")
    return dict(checkpoint.latest(run_dir.checkpoints(source)).tensors)


class Trainer:
    """One run: the loop, its evaluations, checkpoints and log.

    State changes only at the end of an iteration, so a stop at any moment continues from an iteration's boundary.
    """

    def __init__(
        self, run: Path, name: str, experiment: Experiment, found: checkpoint.Checkpoint | None = None
    ) -> None:
        self.run, self.experiment, self.config = run, experiment, experiment.config
        state = found.state if found else {}
        if found:
            experiment.agent.load_state(found.tensors)
        counters = state.get("counters", {"iteration": 0, "env_steps": 0})
        self.iteration: int = counters["iteration"]
        self.env_steps: int = counters["env_steps"]
        self._faults_before: dict[str, int] = dict(state.get("faults", {}))
        self._seconds_before: float = state.get("seconds", 0.0)
        self._started = time.monotonic()
        self._saved = found.iteration if found else -1
        self._failed_saves = 0
        self._stop_signal: int | None = None
        self.evaluator = Evaluator(experiment.sampler, self.config.eval, seed=self.config.seed)
        self.logger = Logger(run, self.config, name=name, run_id=state.get("wandb_id"), start=self.iteration)
        experiment.executor.interrupt = self._raise_if_stopped

    def run_to_end(self) -> None:
        """Iterate, evaluate and save until the configured end, the time limit or a signal."""
        try:
            with self._signals():
                self._loop()
        except MetarlError as error:
            self._message_of_stop(error)
            raise
        finally:
            self.logger.close()

    def _loop(self) -> None:
        config = self.config
        if self._evaluation_is_due():  # a stop came between the iteration and its evaluation
            self._or_save(self.evaluate)
        while not self._finished() and not self._out_of_time():
            metrics = self._or_save(self.iterate)
            self.logger.log({"iteration": self.iteration, "env_steps": self.env_steps, **metrics})
            if self._evaluation_is_due():
                self._or_save(self.evaluate)
            if self._finished():
                self.save()
            elif self.iteration % config.checkpoint.every == 0:
                self._try_to_save()
        if not self._finished():
            self.save()
            self.logger.message(f"stopped at the time limit; go on with: metarl resume {self.run}")
            return
        self._or_save(self.evaluate)
        report = write_report(self.run)
        write_curves_csv(self.run)
        self.logger.message(f"results: {self.run}\ncurves:  {report}")

    def _finished(self) -> bool:
        """Whether the last iteration is done: by their number, or by the environment steps they took."""
        limit = self.config.env_steps
        return self.iteration >= self.config.iterations or (limit is not None and self.env_steps >= limit)

    def _evaluation_is_due(self) -> bool:
        """Whether this boundary has a periodic evaluation not on record; the final one comes after the loop."""
        every = self.config.eval.every
        if every is None or self.iteration == 0 or self._finished() or self.iteration % every:
            return False
        return all(record["iteration"] != self.iteration for record in MetricsFile.read(self.run / EVALUATIONS))

    def iterate(self) -> Metrics:
        """One iteration of the loop: sample tasks, adapt to them phase by phase, update θ.

        Raises:
            NumericError: something is not finite; what it was computed from is written to the run.
        """
        batches: list[Trajectory] = []
        try:
            return self._iterate(batches)
        except NumericError as error:
            raise NumericError(f"{error}{self._keep_offending(batches)}") from error

    def _iterate(self, batches: list[Trajectory]) -> Metrics:
        """Fills ``batches`` with the phases as they are gathered."""
        config, agent, sampler = self.config, self.experiment.agent, self.experiment.sampler
        started = time.monotonic()
        learning = 0.0
        tasks = self.experiment.distribution.sample(
            config.meta_batch_size, split="train", rng=generator(config.seed, Domain.TASKS, iteration=self.iteration)
        )
        adapted = agent.init_adapted(len(tasks))
        for k in range(agent.num_adapt_steps + 1):
            stream = Stream(config.seed, self.iteration, phase=k)
            lanes, episodes = config.rollouts_per_task, agent.episodes_per_trial
            batches.append(sampler.collect(agent.policy(), adapted, tasks, stream, lanes=lanes, episodes=episodes))
            learn_started = time.monotonic()
            if k < agent.num_adapt_steps:
                adapted = agent.adapt(adapted, batches[-1], step=k, rng=self._learner_rng(k))
            learning += time.monotonic() - learn_started
        self._raise_if_stopped()
        learn_started = time.monotonic()
        metrics = agent.meta_update(batches, adapted, rng=self._learner_rng(agent.num_adapt_steps))
        learning += time.monotonic() - learn_started
        steps = sum(batch.num_steps for batch in batches)
        self.iteration += 1
        self.env_steps += steps
        total = time.monotonic() - started
        perf = {
            "perf/env_steps_per_s": steps / total,
            "perf/sample_s": total - learning,
            "perf/learn_s": learning,
            "perf/seconds": self._seconds(),
        }
        return {**_outcomes(batches), **metrics, **perf}

    def _keep_offending(self, batches: Sequence[Trajectory]) -> str:
        """Write the phases of a failed iteration beside the checkpoints; returns what to tell about it."""
        if not batches:
            return ""
        path = self.run / f"offending_batch_{self.iteration + 1}.safetensors"
        tensors = {f"phase{k}.{name}": value for k, batch in enumerate(batches) for name, value in batch.tensors()}
        try:
            replace_file(path, checkpoint.tensor_bytes(tensors))
        except OSError as error:
            return f"\nthe batch could not be written: {error}"
        return f"\nthe batch is in {path}; the parameters that gathered it are in the newest checkpoint"

    def evaluate(self) -> None:
        """The adaptation curve of the current parameters, appended to evaluations.jsonl and logged."""
        summary = self.evaluator.evaluate(self.experiment.agent).summary(self.config.seed)
        position = {"iteration": self.iteration, "env_steps": self.env_steps}
        path = self.run / EVALUATIONS
        records = [record for record in MetricsFile.read(path) if record["iteration"] < self.iteration]
        try:
            MetricsFile.replace(path, [*records, {**position, **summary}])
        except StorageError as error:
            self.logger.message(f"{error}; the run goes on without this evaluation")
        self.logger.evaluation(position, summary)

    def save(self) -> None:
        """Write a checkpoint of the current boundary, unless it is there already."""
        if self._saved == self.iteration:
            return
        checkpoint.save(
            run_dir.checkpoints(self.run),
            self.iteration,
            self.experiment.agent.state(),
            {
                "counters": {"iteration": self.iteration, "env_steps": self.env_steps},
                "faults": self._faults(),
                "seconds": self._seconds(),
                "wandb_id": self.logger.run_id,
            },
            keep=self.config.checkpoint.keep,
        )
        self._saved = self.iteration

    def _try_to_save(self) -> None:
        """Save; failures are passed over with a message, up to the third in a row: there is an older checkpoint."""
        try:
            self.save()
            self._failed_saves = 0
        except StorageError as error:
            self._failed_saves += 1
            if self._failed_saves == MAX_FAILED_SAVES:
                raise
            self.logger.message(f"no checkpoint at iteration {self.iteration}: {error}")

    def _or_save(self, action: Any) -> Any:
        """Run ``action``; if it fails or is interrupted, save the last boundary before the error goes on."""
        try:
            return action()
        except MetarlError:
            self.save()
            raise

    def _message_of_stop(self, error: MetarlError) -> None:
        if isinstance(error, Interrupted):
            self.logger.message(f"saved at iteration {self.iteration}; go on with: metarl resume {self.run}")
        else:
            self.logger.message(f"failed after iteration {self.iteration}; the run is in {self.run}")

    def _learner_rng(self, phase: int) -> np.random.Generator:
        return generator(self.config.seed, Domain.LEARNER, iteration=self.iteration, phase=phase)

    def _faults(self) -> dict[str, int]:
        """Faults survived since the run began, by kind."""
        now = self.experiment.executor.faults
        return {kind: self._faults_before.get(kind, 0) + now.get(kind, 0) for kind in self._faults_before | now}

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _out_of_time(self) -> bool:
        limit = self.config.time_limit_s
        return limit is not None and time.monotonic() - self._started >= limit

    def _raise_if_stopped(self) -> None:
        if self._stop_signal is not None:
            raise Interrupted(self._stop_signal)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask for a stop at the next safe point; a second one stops at once."""

        def stop(signum: int, frame: FrameType | None) -> None:
            self._stop_signal = signum
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
            self._raise_if_stopped()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _outcomes(batches: Sequence[Trajectory]) -> Metrics:
    """What the episodes of each phase came to: returns, successes where known, divergences where any."""
    outcomes: Metrics = {}
    for k, batch in enumerate(batches):
        outcomes[f"train/return/{k}"] = float(batch.episode_returns().mean())
        success = batch.episode_success()
        if success is not None:
            outcomes[f"train/success/{k}"] = float(success.any.double().mean())
    outcomes["env/diverged"] = float(sum(int(batch.diverged.sum()) for batch in batches))
    return outcomes
