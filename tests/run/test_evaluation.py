"""Evaluation: the curve of an agent whose adaptation has a known effect, and no trace of it in training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probe_envs import ProbeConfig, ProbeDistribution
from probe_policies import MirrorPolicy, ScriptDistribution
from torch import Tensor

from metarl.agent import Agent
from metarl.agents.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from metarl.config import loading
from metarl.config.schema import EvalConfig, LearnerConfig, TaskConfig
from metarl.envs.half_cheetah_dir import HalfCheetahDirConfig, HalfCheetahDirDistribution
from metarl.envs.point import PointConfig, PointDistribution
from metarl.nn.policies import Policy
from metarl.run import runs
from metarl.run.evaluation import AdaptationCurve, Evaluator
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, Stream, generator
from metarl.statistics import UNDEFINED, mean_interval, rate_interval
from metarl.tasks import Split, Task, TaskDistribution
from metarl.types import Metrics, Trajectory


class StepAgent(Agent):
    """Acts with its one parameter, 0 at first; adaptation adds a hundredth of the task id that its batch shows.

    So after k steps the action in task i is k·i/100, if and only if it adapts to batches of the right tasks.
    """

    def __init__(self, scale: float = 0.0) -> None:
        self.num_adapt_steps = 1  # in training; evaluation takes as many as it is configured to
        self.scale = scale
        self.adaptations: list[tuple[int, tuple[int, ...], float]] = []

    def policy(self) -> Policy:
        return MirrorPolicy(scale=self.scale)

    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        return torch.zeros(num_tasks, 1)

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        self.adaptations.append((step, tuple(batch.reward.shape), float(rng.random())))
        return adapted + batch.obs[..., 0].mean((1, 2))[:, None] / 100

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        raise NotImplementedError("expected evaluation not to train")

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        raise NotImplementedError("expected evaluation not to load")

    def load_parameters(self, state: dict[str, Tensor]) -> None:
        raise NotImplementedError("expected evaluation not to load")


class LateSuccess(ScriptDistribution):
    """Task 0 would succeed in step 7, behind its end, the others succeed in step 1."""

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"n": n, "lengths": [[3], [3]], "succeeds": [1] if n else [7]} for n in range(num_tasks)]


class CountsItsOwnWay(LateSuccess):
    def official_success(self, tasks: Sequence[Task], first_step: np.ndarray) -> float:
        assert [task["n"] for task in tasks] == [0, 1] and first_step.shape == (2, 2)
        return float(first_step[1].sum())


class SpySampler(Sampler):
    """A sampler that remembers what it was asked for and what it gave."""

    def __init__(self, distribution: TaskDistribution) -> None:
        super().__init__(distribution, InProcess(), tasks_per_unit=3)
        self.calls: list[tuple[Stream, dict[str, Any]]] = []
        self.batches: list[Trajectory] = []

    def collect(
        self, policy: Policy, params: Tensor, tasks: Sequence[Task], stream: Stream, **kwargs: Any
    ) -> Trajectory:
        self.calls.append((stream, kwargs))
        self.batches.append(super().collect(policy, params, tasks, stream, **kwargs))
        return self.batches[-1]


SMALL = EvalConfig(num_tasks=4, adapt_steps=2, adapt_episodes=3, score_episodes=2)


def spy(**kwargs: Any) -> SpySampler:
    return SpySampler(ProbeDistribution(ProbeConfig(**kwargs)))


def maml(distribution: TaskDistribution) -> MAMLTRPO:
    """A real agent, small."""
    settings = MAMLTRPOConfig(hidden_sizes=[8])
    learner = LearnerConfig(threads=1, tasks_per_chunk=2)
    return MAMLTRPO(distribution.spaces, settings, learner, device=torch.device("cpu"), rng=generator(0, Domain.INIT))


def point() -> PointDistribution:
    return PointDistribution(PointConfig(name="point", horizon=8))


def test_the_curve_of_a_known_adaptation() -> None:
    """Reward is id + action, five steps: the return in task i after k steps is 5·(i + k·i/100), in every episode."""
    evaluator = Evaluator(spy(), SMALL, seed=0)
    curve = evaluator.evaluate(StepAgent())
    assert curve.returns.shape == (3, 4, 2)  # [points, tasks, episodes]
    ids = np.array([task["id"] for task in evaluator.tasks])
    expected = 5 * (ids + np.arange(3)[:, None] * ids / 100)
    np.testing.assert_allclose(curve.returns, np.repeat(expected[..., None], 2, axis=2), rtol=1e-6)
    np.testing.assert_allclose(curve.by_task, expected, rtol=1e-6)


def test_zero_adaptation_steps_give_one_point() -> None:
    sampler, agent = spy(), StepAgent()
    curve = Evaluator(sampler, SMALL.model_copy(update={"adapt_steps": 0}), seed=0).evaluate(agent)
    assert curve.returns.shape == (1, 4, 2)
    assert agent.adaptations == []
    assert len(sampler.calls) == 1


def test_every_point_is_scored_on_fresh_episodes() -> None:
    """Scores and adaptation data alternate, each with its own number of episodes and its own streams."""
    sampler, agent = spy(), StepAgent()
    Evaluator(sampler, SMALL, seed=0).evaluate(agent)
    assert [kwargs["lanes"] for _, kwargs in sampler.calls] == [2, 3, 2, 3, 2]
    assert [(step, shape) for step, shape, _ in agent.adaptations] == [(0, (4, 3, 5)), (1, (4, 3, 5))]
    assert len({draw for _, _, draw in agent.adaptations}) == 2  # learner randomness differs from step to step
    draws = [batch.obs[:, :, 0, 1].flatten().tolist() for batch in sampler.batches]
    assert len({draw for batch in draws for draw in batch}) == 4 * (2 + 3 + 2 + 3 + 2)


def test_only_scores_are_deterministic_where_that_is_asked_for() -> None:
    sampler = spy()
    Evaluator(sampler, SMALL.model_copy(update={"deterministic": True}), seed=0).evaluate(StepAgent(scale=1.0))
    modes = [bool((batch.action == batch.action[:, :1, :1]).all()) for batch in sampler.batches]
    assert modes == [True, False, True, False, True]


def test_episodes_are_gathered_until_there_are_as_many_steps_as_asked_for() -> None:
    """Episodes of 1 to 5 steps, three at a time: whole ones, none more than needed, each on streams of its own."""
    sampler, agent = spy(ends="random"), StepAgent()
    seen: list[Trajectory] = []
    agent.adapt = lambda adapted, batch, *, step, rng: (seen.append(batch), adapted)[1]  # type: ignore[method-assign]
    Evaluator(sampler, SMALL.model_copy(update={"adapt_env_steps": 30}), seed=0).evaluate(agent)
    assert len(seen) == 2
    for batch in seen:
        steps = batch.valid.sum(-1)
        for task in range(4):
            lanes = steps[task][: int(steps[task].nonzero().max()) + 1]
            assert (lanes > 0).all() and int(lanes.sum()) >= 30 > int(lanes[:-1].sum())
        assert not batch.reward[~batch.valid].any()
        starts = batch.obs[:, :, 0, 1][steps > 0].tolist()  # the resets' random numbers
        assert len(set(starts)) == len(starts)
    exact = spy(ends="random")
    Evaluator(exact, SMALL, seed=0).evaluate(StepAgent())
    first = exact.batches[1]  # the batch that is adapted to without a number of steps begins the longer one
    assert torch.equal(seen[0].obs[:, :3, : first.obs.shape[2]], first.obs)


def test_enough_steps_cost_no_further_episodes() -> None:
    sampler = spy()
    config = SMALL.model_copy(update={"adapt_env_steps": 15})  # three episodes of five steps
    Evaluator(sampler, config, seed=0).evaluate(StepAgent())
    assert len(sampler.calls) == 5


def test_evaluation_has_streams_of_its_own() -> None:
    sampler = spy()
    Evaluator(sampler, SMALL, seed=7).evaluate(StepAgent())
    streams = [stream for stream, _ in sampler.calls]
    assert all(stream.evaluation and stream.root == 7 for stream in streams)
    assert len(set(streams)) == len(streams)


def test_repeats_bit_for_bit() -> None:
    evaluator, agent = Evaluator(SpySampler(point()), SMALL, seed=1), maml(point())
    first, again = evaluator.evaluate(agent).returns, evaluator.evaluate(agent).returns
    anew = Evaluator(SpySampler(point()), SMALL, seed=1).evaluate(maml(point())).returns
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(anew, first)
    other = Evaluator(SpySampler(point()), SMALL, seed=2).evaluate(agent).returns
    assert not np.array_equal(other, first)


def test_the_agent_is_as_before() -> None:
    agent = maml(point())
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    Evaluator(SpySampler(point()), SMALL, seed=0).evaluate(agent)
    after = agent.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_training_is_the_same_with_and_without_evaluation() -> None:
    """One iteration of the loop, after an evaluation with the same sampler or not: the same data, the same θ."""

    def train(evaluate: bool) -> Tensor:
        distribution, sampler = point(), SpySampler(point())
        agent = maml(distribution)
        if evaluate:
            Evaluator(sampler, SMALL, seed=0).evaluate(agent)
        tasks = distribution.sample(3, split="train", rng=generator(0, Domain.TASKS))
        adapted = agent.init_adapted(3)
        batches = []
        for phase in range(2):
            batches.append(sampler.collect(agent.policy(), adapted, tasks, Stream(0, 0, phase), lanes=4))
            if phase == 0:
                adapted = agent.adapt(adapted, batches[0], step=0, rng=generator(0, Domain.LEARNER))
        agent.meta_update(batches, adapted, rng=generator(0, Domain.LEARNER, phase=1))
        return agent.theta

    assert torch.equal(train(evaluate=True), train(evaluate=False))


def test_held_out_tasks_are_fixed_at_construction() -> None:
    """Probe tasks 0 to 5 are for training, 6 to 11 held out."""
    evaluator = Evaluator(spy(), SMALL, seed=0)
    tasks = list(evaluator.tasks)
    assert {task["id"] for task in tasks} < set(range(6, 12))
    evaluator.evaluate(StepAgent())
    evaluator.evaluate(StepAgent())
    assert evaluator.tasks == tasks
    assert Evaluator(spy(), SMALL, seed=0).tasks == tasks
    assert any(Evaluator(spy(), SMALL, seed=seed).tasks != tasks for seed in range(1, 4))


def test_a_family_with_two_tasks_gets_balanced_trials() -> None:
    distribution = HalfCheetahDirDistribution(HalfCheetahDirConfig(name="half_cheetah_dir"))
    evaluator = Evaluator(SpySampler(distribution), SMALL.model_copy(update={"num_tasks": 10}), seed=0)
    assert sorted(task["direction"] for task in evaluator.tasks) == [-1] * 5 + [1] * 5


def test_trials_of_one_task_run_on_different_streams() -> None:
    """Two held-out tasks, six trials: no two episodes start alike."""
    sampler = spy(num_tasks=2)
    evaluator = Evaluator(sampler, SMALL.model_copy(update={"num_tasks": 6}), seed=0)
    evaluator.evaluate(StepAgent())
    assert sorted(task["id"] for task in evaluator.tasks) == [2, 2, 2, 3, 3, 3]
    assert len(set(sampler.batches[0].obs[:, :, 0, 1].flatten().tolist())) == 6 * 2


def test_the_summary_has_the_intervals_of_the_tasks_means() -> None:
    returns = np.random.default_rng(0).normal(size=(3, 20, 5)) + np.arange(3)[:, None, None]
    summary = AdaptationCurve(returns).summary(seed=4)
    assert summary["steps"] == [0, 1, 2]
    assert summary["mean"] == pytest.approx(returns.mean((1, 2)))
    np.testing.assert_allclose(summary["returns"], returns.mean(2))
    rng = generator(4, Domain.BOOTSTRAP)
    intervals = [mean_interval(returns[point].mean(1), rng=rng)[:2] for point in range(3)]
    assert list(zip(summary["low"], summary["high"], strict=True)) == intervals
    assert summary["interval"] == "studentised bootstrap over tasks"
    for low, mean, high in zip(summary["low"], summary["mean"], summary["high"], strict=True):
        assert low < mean < high
    assert AdaptationCurve(returns).summary(seed=4) == summary


def test_success_has_its_own_curve() -> None:
    """Two tasks, four episodes: after no step 0 and 1 of 4 succeed, after one step 2 and 4 of 4."""
    success = np.array([[[0, 0, 0, 0], [1, 0, 0, 0]], [[1, 0, 1, 0], [1, 1, 1, 1]]], dtype=np.float64)
    first_step = np.where(success > 0, np.arange(1.0, 5.0), np.nan)
    summary = AdaptationCurve(np.zeros((2, 2, 4)), np.stack([success, 1 - success, first_step])).summary(seed=4)
    assert summary["success"]["mean"] == [0.125, 0.75]
    low, high = zip(*(rate_interval(episodes)[:2] for episodes in success), strict=True)
    assert (summary["success"]["low"], summary["success"]["high"]) == (list(low), list(high))
    assert summary["success"]["interval"] == rate_interval(success[0]).method
    assert summary["low"] == [None, None] and summary["interval"] == UNDEFINED.format(
        units="tasks"
    )  # all returns are 0
    assert summary["success_final"]["mean"] == [0.875, 0.25]
    assert summary["first_success_step"] == [1.0, pytest.approx((1 + 3 + 1 + 2 + 3 + 4) / 6)]
    never = AdaptationCurve(np.zeros((1, 1, 2)), np.stack([np.zeros((1, 1, 2))] * 2 + [np.full((1, 1, 2), np.nan)]))
    assert never.summary(seed=4)["first_success_step"] == [None]
    assert "success" not in AdaptationCurve(np.zeros((2, 2, 4))).summary(seed=4)


def test_success_is_measured_where_the_family_knows_it() -> None:
    distribution = LateSuccess(TaskConfig(name="script", horizon=3))
    config = SMALL.model_copy(update={"num_tasks": 2, "score_episodes": 2, "adapt_steps": 0})
    curve = Evaluator(Sampler(distribution, InProcess()), config, seed=0).evaluate(StepAgent())
    assert curve.success is not None
    succeeded, final, first_step = curve.success
    assert succeeded.tolist() == [[[0, 0], [1, 1]]] and not final.any()
    assert first_step[0, 1].tolist() == [2, 2] and np.isnan(first_step[0, 0]).all()


def test_a_benchmarks_own_count_stands_beside() -> None:
    config = SMALL.model_copy(update={"num_tasks": 2, "score_episodes": 2, "adapt_steps": 0})

    def summary(distribution: LateSuccess) -> dict[str, Any]:
        return Evaluator(Sampler(distribution, InProcess()), config, seed=0).evaluate(StepAgent()).summary(0)

    script = TaskConfig(name="script", horizon=3)
    assert "official_success" not in summary(LateSuccess(script))
    assert summary(CountsItsOwnWay(script))["official_success"] == [4.0]  # two episodes, in step 2 each


def test_the_summary_counts_tasks_not_episodes() -> None:
    """Many episodes of one task do not narrow the interval: ten tasks at 0 or 1, a thousand equal episodes each."""
    by_task = np.tile([0.0, 1.0], 5)
    by_episode = [np.repeat(by_task[None, :, None], episodes, axis=2) for episodes in (1, 1000)]
    few, many = (AdaptationCurve(values, np.stack([values] * 3)).summary(0) for values in by_episode)
    assert few["low"] == many["low"]
    assert few["low"][0] <= 0.3
    assert few["success"]["low"][0] <= 0.3
    assert many["success"]["low"][0] == pytest.approx(few["success"]["low"][0], abs=0.05)  # t of 9 and 9999 degrees
    assert few["high"][0] >= 0.7


def test_a_run_is_evaluated_as_it_was_in_training(tmp_path: Path) -> None:
    """The newest checkpoint with the run's own settings gives the run's last curve; overrides change only ``eval``."""
    settings = [
        "iterations=1",
        "meta_batch_size=2",
        "rollouts_per_task=2",
        "task.horizon=8",
        "agent.hidden_sizes=[8]",
        "agent.num_adapt_steps=1",
        "sampler.workers=0",
        "eval.num_tasks=3",
        "eval.adapt_steps=1",
        "eval.adapt_episodes=2",
        "eval.adapt_env_steps=null",
        "eval.score_episodes=2",
        "wandb.mode=disabled",
        f"run_dir={tmp_path}",
    ]
    run = runs.train(loading.load("maml_trpo_point", settings))
    files = sorted(path.relative_to(run) for path in run.rglob("*"))
    result = runs.evaluate(run)
    (line,) = (run / "evaluations.jsonl").read_text().splitlines()
    recorded = json.loads(line)
    assert result["run"] == str(run)
    assert {key: result[key] for key in recorded} == recorded
    assert len(runs.evaluate(run, ["eval.adapt_steps=2"])["mean"]) == 3
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == files
