"""What a run tells of itself before it begins: where, what, how much, on what."""

from __future__ import annotations

from pathlib import Path

from metarl.config.naming import task_in_words
from metarl.monitor.console import count
from metarl.monitor.curve_text import counted
from metarl.run import run_dir
from metarl.run.experiment import Experiment
from metarl.spaces import Space

_WORKERS = {"processes": ("worker process", "es"), "ray": ("Ray actor", "s")}


def header(run: Path, experiment: Experiment, wandb_mode: str) -> list[str]:
    """The lines, names in front; then notices."""
    config, agent, spaces = experiment.config, experiment.agent, experiment.distribution.spaces
    task, parameters = task_in_words(config.task.model_dump()), agent.policy_parameters(agent.init_adapted(1)).numel()
    training, final = training_steps(experiment), evaluation_steps(experiment)
    bound = "" if config.env_steps is None else f", at most {count(config.env_steps)} by env_steps"
    every, threads = config.eval.every, f" with {counted(int(config.learner.threads), 'thread')}"
    when = (
        "at the end"
        if every is None
        else f"every {'iteration' if every == 1 else f'{every} iterations'} and at the end"
    )
    shown, alone = run_dir.shown(run), config.sampler.executor == "in_process" or config.sampler.workers == 0
    where = "this process alone" if alone else counted(experiment.executor.workers, *_WORKERS[config.sampler.executor])
    if experiment.ranks.world > 1:
        where = f"{experiment.ranks.world} ranks, each with {'no workers' if alone else where}"
    wandb = wandb_mode if wandb_mode != "offline" else f"offline; later: wandb sync {shown}/wandb/offline-run-*"
    lines = [
        f"run         {shown}",
        f"task        {task}: {_size(spaces.observation)} observed, {_size(spaces.action)} done, "
        f"horizon {experiment.distribution.horizon}",
        f"agent       {config.agent.name}: {count(parameters)} parameters, seed {config.seed}",
        f"training    {counted(config.iterations, 'iteration')}, at most {count(training)} env steps{bound}",
        f"evaluation  {when}, {counted(config.eval.num_tasks, 'task')}, at most {count(final)} env steps",
        f"on          {where}, learner on {config.device}{threads if config.device == 'cpu' else ''}",
        f"wandb       {wandb}",
    ]
    if final > (training if config.env_steps is None else min(training, config.env_steps)) / 2:
        lines.append(
            "notice: the final evaluation takes more than half as many env steps as training: "
            "eval.num_tasks, eval.score_episodes and eval.adapt_episodes make it smaller"
        )
    return lines


def training_steps(experiment: Experiment) -> int:
    """Environment steps of all iterations, if no episode ends early."""
    config, agent = experiment.config, experiment.agent
    episodes = config.meta_batch_size * config.rollouts_per_task * agent.episodes_per_trial
    return config.iterations * (agent.num_adapt_steps + 1) * episodes * experiment.distribution.horizon


def evaluation_steps(experiment: Experiment) -> int:
    """Environment steps of an evaluation, if no episode ends early."""
    settings, horizon = experiment.config.eval, experiment.distribution.horizon
    if experiment.agent.policy().remembers:
        trial = experiment.agent.episodes_per_trial
        episodes = settings.score_episodes * (3 * trial + settings.restored_episodes)
        return settings.num_tasks * episodes * horizon
    gathered = settings.adapt_steps * max(settings.adapt_episodes * horizon, settings.adapt_env_steps or 0)
    return settings.num_tasks * (len(settings.scored_steps) * settings.score_episodes * horizon + gathered)


def _size(space: Space) -> str:
    return counted(space.size, "number") if space.kind == "box" else f"one of {space.size} choices"
