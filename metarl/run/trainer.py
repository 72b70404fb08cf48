"""The training loop, one for all agents."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from metarl import run_files
from metarl.config.loading import as_data
from metarl.config.schema import RunConfig
from metarl.errors import Interrupted, MetarlError, NumericError, StorageError
from metarl.faults import explained
from metarl.monitor.logger import Logger
from metarl.monitor.metrics_file import MetricsFile
from metarl.run import checkpoint, run_dir
from metarl.run.agreement import Agreement, total
from metarl.run.divergence import DivergenceBudget
from metarl.run.evaluation import Evaluator
from metarl.run.experiment import Experiment
from metarl.run.interface import Interface
from metarl.run.rejected_steps import RejectedSteps
from metarl.run.saved_state import Counters, SavedState
from metarl.run.signals import StopRequest
from metarl.sampling.trial import TrainingTrial, training_tasks
from metarl.storage import no_follow, read_plain, replace_file
from metarl.types import Metrics, Trajectory

MAX_MISSED_SAVES = 3  # multiples of checkpoint.every that may pass without a checkpoint


OnIteration = Callable[[Metrics], bool | None]  # is shown an iteration's metrics; False stops the run behind it


@dataclass(frozen=True)
class _Boundary:
    """The end of an iteration: what a checkpoint of it holds, and no later change of the agent changes."""

    counters: Counters
    tensors: dict[str, Tensor]


class Trainer:
    """One run's loop, its evaluations, checkpoints and log.

    State changes only at the end of an iteration, so a stop at any moment continues from an iteration's boundary.
    """

    def __init__(
        self, run: Path, experiment: Experiment, evaluator: Evaluator, logger: Logger, before: SavedState, saved: int
    ) -> None:
        """Go on from what there was ``before``, of which iteration ``saved`` has a checkpoint; -1: none has."""
        self.on_iteration: OnIteration | None = None
        self.run, self.experiment, self.config = run, experiment, experiment.config
        self.evaluator, self.logger = evaluator, logger
        self.iteration, self.env_steps = before.counters.iteration, before.counters.env_steps
        self._before = before
        self._started = time.monotonic()
        self._saved = saved
        self._begun: _Boundary | None = None  # where the latest iteration began
        self._folder: run_dir.HeldFolder | None = None  # while the run goes on; the first rank's alone
        self._rejected = RejectedSteps(before.rejected_steps, notify=self._notice)
        self.ranks = experiment.ranks
        self._evaluated = self.ranks.by_first(lambda: _last_evaluation(run))
        self._divergences = DivergenceBudget(self.config.sampler.max_diverged)
        self._stop = StopRequest(quiet=not self.ranks.first)
        self._agreement = Agreement(self.ranks, logger.message)
        experiment.executor.interrupt = experiment.agent.interrupt = self._look_around
        experiment.sampler.notify = self._notice

    def run_to_end(self) -> None:
        """Iterate, evaluate and save until the configured end, the time limit or a signal.

        Whatever ends it earlier, the last complete iteration is saved first. What is no MetarlError becomes one; its
        traceback is written to the run.
        """
        try:
            if not self.ranks.first:
                return self._run_and_save()
            with closing(run_dir.HeldFolder(self.run)) as self._folder:
                self._run_and_save()
        finally:
            self._folder = None
            self.logger.close()

    def _run_and_save(self) -> None:
        try:
            with self._stop.heard(self._loss):
                self._loop()
        except MetarlError as error:
            self._save_before(error)
            raise
        except KeyboardInterrupt as error:  # code of the user's listens to Ctrl-C instead of us, or raises it
            stopped = Interrupted(signal.SIGINT)
            self._save_before(stopped)
            raise stopped from error
        except BaseException as error:
            told = explained(error, self.config.agent.less_memory)
            told = type(told)(f"{told}, after iteration {self.iteration}{self._keep_traceback(error)}")
            traceback.clear_frames(error.__traceback__)  # saving, too, takes some of a memory that ran out
            self._save_before(told)
            raise told from error

    def _loop(self) -> None:
        if self._evaluation_is_due():  # a stop came between the iteration and its evaluation
            self.evaluate()
        while not self._finished() and not self._out_of_time():
            metrics = self.iterate()
            metrics = {"iteration": self.iteration, "env_steps": self.env_steps, **metrics}
            self.logger.log(metrics)
            self._rejected.count(metrics)
            self._require_folder()
            if self._evaluation_is_due():
                self.evaluate()
            if self._is_told_to_stop(metrics) and not self._finished():
                self.save()
                return self.logger.message(f"stopped by on_iteration; {self._go_on()}")
            if self._finished():
                self.save()
            elif self._missed_saves():
                self._try_to_save()
        if not self._finished():
            self.save()
            self.logger.message(f"stopped at the time limit; {self._go_on()}")
            return
        self.evaluate()
        self._report()

    def _is_told_to_stop(self, metrics: Metrics) -> bool:
        """Whether ``on_iteration`` wants no further one; the first rank's is asked."""
        told = self.on_iteration
        return told is not None and self.ranks.by_first(lambda: told(metrics) is False)

    def _report(self) -> None:
        """Draw the curves. The run is complete: whatever goes wrong here costs no more than the picture."""
        if not self.ranks.first:
            return
        self.logger.message(f"results: {run_dir.shown(self.run)}")
        try:
            from metarl.report.run_report import write_report  # matplotlib takes a second, and only this needs it

            summary, *_, picture = write_report(self.run)
            self.logger.message(f"curves:  {run_dir.shown(picture)}")
            videos = sorted((self.run / run_files.VIDEOS).glob("*.mp4"))
            checkpoint_folder = run_dir.checkpoints(self.run) / str(self.iteration)
            self.logger.results(json.loads(read_plain(summary)), picture, videos, checkpoint_folder)
        except Exception as error:
            what = str(error) if isinstance(error, MetarlError) else f"{type(error).__name__}: {error}"
            self.logger.message(f"warning: the run is complete, but its report could not be written: {what}")

    def iterate(self) -> Metrics:
        """One iteration: sample tasks, gather data and adapt to them phase by phase, update θ.

        Raises:
            NumericError: something is not finite; what it was computed from is written to the run.
        """
        config, experiment = self.config, self.experiment
        self._begun = self._boundary()
        started, sampled_before, together_before = time.monotonic(), experiment.sampler.seconds, self.ranks.seconds
        # K+1 phases of data, and the meta-update
        where = {"seed": config.seed, "iteration": self.iteration}
        births = experiment.agent.births(self.iteration, config.meta_batch_size)
        tasks = training_tasks(experiment.distribution, config.meta_batch_size, **where, births=births)
        trial = TrainingTrial(experiment.agent, experiment.sampler, tasks, config.rollouts_per_task, **where)
        try:
            adapted = trial.run()
            self._divergences.spend(trial.phases)
            self._agreement.to_go_on(self._stop.signum)
            metrics = trial.learn(adapted)
            self._agreement.on_state(experiment.agent, experiment.executor.faults)
        except NumericError as error:
            raise NumericError(f"{error}{self._keep_offending(trial.phases)}") from error
        # from here on the iteration counts
        self.iteration += 1
        self.env_steps += trial.env_steps
        seconds, sampling = time.monotonic() - started, experiment.sampler.seconds - sampled_before
        perf = {
            "perf/env_steps_per_s": trial.env_steps / seconds,
            "perf/sample_s": sampling,
            "perf/learn_s": seconds - sampling,
            "perf/seconds": self._seconds(),
        }
        if self.ranks.world > 1:
            perf["perf/ranks_s"] = self.ranks.seconds - together_before
        return {**_outcomes(trial.phases), **metrics, **perf}

    def evaluate(self) -> None:
        """Write the adaptation curve of the current parameters to evaluations.jsonl, and log it."""
        summary = self.evaluator.evaluate(self.experiment.agent).summary(self.config.seed)
        position = {"iteration": self.iteration, "env_steps": self.env_steps}
        if self.ranks.first:
            self._keep_evaluation({**position, **summary})
        self.logger.evaluation(position, summary)
        self._evaluated = self.iteration

    def _keep_evaluation(self, record: dict[str, Any]) -> None:
        self._require_folder()
        path = self.run / run_files.EVALUATIONS
        records = [before for before in MetricsFile.read(path) if before["iteration"] < self.iteration]
        try:
            MetricsFile.replace(path, [*records, record])
        except StorageError as error:
            self.logger.message(f"{error}; the run goes on without this evaluation")

    def save(self) -> None:
        """Write a checkpoint of the current boundary, unless it is there already, or for another rank to write."""
        if self._saved != self.iteration and self.ranks.first:
            self._require_folder()
            # where an iteration has begun and is not over, the agent may be half changed
            begun = self._begun
            self._write(begun if begun and begun.counters.iteration == self.iteration else self._boundary())

    def _boundary(self) -> _Boundary:
        """A copy of what there is now, at the end of an iteration."""
        tensors = {name: tensor.clone() for name, tensor in self.experiment.agent.state().items()}
        return _Boundary(Counters(iteration=self.iteration, env_steps=self.env_steps), tensors)

    def _write(self, boundary: _Boundary) -> None:
        """Write a checkpoint."""
        state = SavedState(
            counters=boundary.counters,
            seconds=self._seconds(),
            faults=self._faults(),
            rejected_steps=self._rejected.in_a_row,
            wandb_id=self.logger.run_id,
            title=self._before.title,
            config=as_data(self.config),
            interface=Interface.of(self.experiment.distribution).state(),
            nodes=self.experiment.executor.nodes,
        )
        checkpoint.save(run_dir.checkpoints(self.run), boundary.tensors, state, keep=self.config.checkpoint.keep)
        self._saved = boundary.counters.iteration

    def _finished(self) -> bool:
        return is_finished(self.config, Counters(iteration=self.iteration, env_steps=self.env_steps))

    def _evaluation_is_due(self) -> bool:
        """Whether a multiple of ``eval.every`` has passed since the last evaluation; the final one comes behind all."""
        every = self.config.eval.every
        if every is None or self._finished():
            return False
        return self.iteration // every > self._evaluated // every

    def _missed_saves(self) -> int:
        """How many multiples of ``checkpoint.every`` have passed since the newest checkpoint."""
        every = self.config.checkpoint.every
        return self.iteration // every - max(self._saved, 0) // every

    def _keep_offending(self, batches: Sequence[Trajectory]) -> str:
        """Write the phases of a failed iteration beside the checkpoints; returns what to tell about it."""
        if not batches or not self.ranks.first:
            return ""
        path = self.run / f"offending_batch_{self.iteration + 1}.safetensors"
        tensors = {f"phase{k}.{name}": value for k, batch in enumerate(batches) for name, value in batch.tensors()}
        try:
            replace_file(path, checkpoint.tensor_bytes(tensors))
        except OSError as error:
            return f"\nthe batch could not be written: {error}"
        return f"\nthe batch is in {path}; the parameters that gathered it are in the newest checkpoint"

    def _try_to_save(self) -> None:
        """Save; a failure is passed over with a message, as the next iteration tries again and there is an older
        checkpoint, until three multiples of ``checkpoint.every`` are without one."""
        self._require_folder()
        try:
            self.save()
        except StorageError as error:
            if self._missed_saves() >= MAX_MISSED_SAVES:
                raise
            self.logger.message(f"no checkpoint at iteration {self.iteration}: {error}")

    def _save_before(self, error: MetarlError) -> None:
        """Save the last boundary before an error ends the run, and say where it stands.

        Raises:
            StorageError: it cannot be saved; says both.
        """
        try:
            if self._folder is not None and self._folder.follow():
                self.run = self._folder.path
            self._save_what_there_is()
        except StorageError as failed:
            if failed is error or str(failed) == str(error):
                return
            raise StorageError(f"{error}\nand then iteration {self.iteration} was not saved: {failed}") from error
        if isinstance(error, Interrupted):
            self.logger.message(f"saved at iteration {self._saved}; {self._go_on()}")
        else:
            self.logger.message(f"failed after iteration {self.iteration}; the run is in {run_dir.shown(self.run)}")

    def _save_what_there_is(self) -> None:
        """Save the last boundary; where the agent does not give its state, the one before."""
        try:
            self.save()
        except MetarlError:
            raise
        except BaseException as failed:
            self.logger.message(f"iteration {self.iteration} was not saved: {explained(failed)}")
            if self._begun is not None and self._begun.counters.iteration > self._saved and self.ranks.first:
                self._write(self._begun)

    def _require_folder(self) -> None:
        """Raises StorageError where the run's folder has been moved or deleted; ``run`` is where it is from then on."""
        if self._folder is not None and self._folder.follow():
            before, self.run = self.run, self._folder.path
            raise StorageError(
                f"{before} was moved to {self.run} while it was training; "
                f"iteration {self.iteration} is saved there, to go on from with: metarl resume {self.run}"
            )

    def _keep_traceback(self, error: BaseException) -> str:
        """Add an exception's traceback to the run's file of them; returns what to tell about it."""
        path = self.run / run_files.ERRORS
        story = "".join(traceback.format_exception(error))
        if not self.ranks.first:
            return f":\n{story}"
        try:
            with open(path, "a", encoding="utf-8", opener=no_follow) as file:
                file.write(f"after iteration {self.iteration}:\n{story}\n")
        except OSError as failed:
            return f"; its traceback could not be written ({failed}):\n{story}"
        return f"; its traceback is in {path}"

    def _notice(self, text: str) -> None:
        self.logger.message(f"notice: {text}")

    def _go_on(self) -> str:
        return f"go on with: metarl resume {run_dir.shown(self.run)}"

    def _loss(self) -> str:
        """What a stop at once would lose."""
        kept = max(self._saved, 0)
        return f"which loses what came after iteration {kept}; from there: metarl resume {run_dir.shown(self.run)}"

    def _faults(self) -> dict[str, int]:
        """Faults survived since the run began, by kind."""
        return total([self._before.faults, self.experiment.executor.faults, self._agreement.faults_elsewhere])

    def _seconds(self) -> float:
        return self._before.seconds + time.monotonic() - self._started

    def _out_of_time(self) -> bool:
        limit = self.config.time_limit_s
        return limit is not None and self._agreement.any(time.monotonic() - self._started >= limit)

    def _look_around(self) -> None:
        """Raise what ends this rank's sampling: a signal, or the failure of another rank."""
        self._stop.raise_if_made()
        self.ranks.raise_if_another_failed()


def is_finished(config: RunConfig, counters: Counters) -> bool:
    """Whether the last iteration is done: by their number, or by the environment steps they took."""
    limit = config.env_steps
    return counters.iteration >= config.iterations or (limit is not None and counters.env_steps >= limit)


def _last_evaluation(run: Path) -> int:
    """The iteration of the newest evaluation on record; 0 without one."""
    return max((record["iteration"] for record in MetricsFile.read(run / run_files.EVALUATIONS)), default=0)


def _outcomes(batches: Sequence[Trajectory]) -> Metrics:
    """What the episodes of each phase came to: returns, successes where known, divergences.

    Episodes that were cut off by a divergence have no return, NaN where all were, and succeed if they had until then.
    """
    outcomes: Metrics = {}
    for k, batch in enumerate(batches):
        outcomes[f"train/return/{k}"] = batch.mean_return()
        success = batch.episode_success()
        if success is not None:
            outcomes[f"train/success/{k}"] = float(success.any.double().mean())
    outcomes["env/diverged"] = float(sum(int(batch.diverged.sum()) for batch in batches))
    return outcomes
