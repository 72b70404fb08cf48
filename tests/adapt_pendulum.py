"""Trained agents adapt to a plain ``gymnasium.make("Pendulum-v1", g=12)``, beside metarl's own evaluation of that task.

    python tests/adapt_pendulum.py RUN … > adapt_pendulum.json

RUN: folders of ``metarl train maml_trpo_pendulum seed=…``, or of the same task with an agent that remembers. One line
of JSON per run: the evaluation's mean return before and after adaptation, with its 95 % interval over trials, and the
mean over as many adaptations in the plain environment with its standard error, by the loop of docs/trained_agents.md.
Evaluation and loop share no random numbers, so that a mean may lie outside of the interval by its own error. Every run
has seeds of its own. About a minute per run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import metarl

GRAVITY = 12.0
TRIALS = 20
EPISODES = 20  # to adapt on, and to be scored on


def evaluated(run: metarl.Run) -> dict[str, Any]:
    """metarl's own evaluation: every trial is one of the same task."""
    sizes = ["eval.adapt_steps=1", f"eval.adapt_episodes={EPISODES}", f"eval.score_episodes={EPISODES}"]
    if run.agent().remembers:
        sizes = ["eval.score_episodes=1"]
    found = run.evaluate(f"eval.num_tasks={TRIALS}", *sizes, tasks=[{"gravity": GRAVITY, "mass": 1.0}] * TRIALS)
    last = 1 if "trial" not in found else len(found["steps"]) // 2 - 1  # of a trial as long as in training
    return {name: [found[name][point] for point in (0, last)] for name in ("mean", "low", "high")}


def in_plain_environment(agent: metarl.TrainedAgent, first_seed: int) -> dict[str, list[float]]:
    """Mean return before and after adaptation, over the trials, and standard errors."""
    ends = []
    for trial in range(first_seed, first_seed + TRIALS):
        env = gymnasium.make("Pendulum-v1", g=GRAVITY)
        how = {} if agent.remembers else {"steps": 1, "episodes": EPISODES}
        policy = agent.adapt(env, seed=trial, **how)
        first, last = policy.history[0], policy.history[-1]
        after = np.mean(last.returns) if agent.remembers else scored(policy, env, trial)
        ends.append([np.mean(first.returns), after])
        env.close()
    return {
        "mean": np.mean(ends, axis=0).tolist(),
        "standard_error": (np.std(ends, axis=0, ddof=1) / np.sqrt(TRIALS)).tolist(),
    }


def scored(policy: metarl.AdaptedPolicy, env: gymnasium.Env[Any, Any], seed: int) -> float:
    """The mean return of an adapted policy, which acts by its samples as it does in an evaluation."""
    total = 0.0
    for episode in range(EPISODES):
        obs, _ = env.reset(seed=1000 * seed + episode)
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy(obs, sample=True))
            total, over = total + float(reward), terminated or truncated
    return total / EPISODES


def main() -> None:
    for number, path in enumerate(sys.argv[1:]):
        run = metarl.Run(path)
        by_us, plain = evaluated(run), in_plain_environment(run.agent(), number * TRIALS)
        within = [
            low <= value <= high for value, low, high in zip(plain["mean"], by_us["low"], by_us["high"], strict=True)
        ]
        print(json.dumps({"run": Path(path).name, "evaluation": by_us, "plain": plain, "within": within}), flush=True)


if __name__ == "__main__":
    main()
