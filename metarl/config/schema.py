"""Typed, frozen configuration: what every run has, and the bases that task families and agents extend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from metarl.spaces import SpaceSpec


@dataclass(frozen=True)
class Lineage:
    """A published line of code whose choices can be taken together: ``task.lineage`` and ``agent.lineage`` fill
    these in.

    ``pins`` holds the values, ``why`` where they come from, ``differs`` what cannot be reproduced here.
    """

    pins: Mapping[str, Any]
    why: str
    differs: str = ""


LARGEST = 3.4e38  # numbers are handed on to torch


class Frozen(BaseModel):
    """Strict and immutable: an unknown key, a wrong type, a NaN or an infinity is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _as_torch_has_it(cls, value: Any) -> Any:
        if isinstance(value, float) and abs(value) > LARGEST:
            raise ValueError(f"expected at most {LARGEST:.2g}, as single precision holds no more")
        return value


class TaskConfig(Frozen):
    """Keys that every task family has; a family extends it with its own."""

    lineages: ClassVar[Mapping[str, Lineage]] = {}
    actions_are_choices: ClassVar[bool] = False  # in every task of the family, as its config alone tells

    name: str = Field(description="module in envs/ that defines the task family")
    lineage: str | None = Field(
        None, description="published definition whose values fill in what is not given explicitly"
    )
    horizon: PositiveInt = Field(description="steps after which an episode is truncated")
    action_scale: PositiveFloat = Field(
        1.0, description="policy outputs in ±action_scale span the control range; what lies beyond is clipped"
    )
    reveal: bool = Field(False, description="append the task to the observation: the oracle")

    def imports(self) -> dict[str, str]:
        """Code from outside metarl that a family with these keys imports: key → what ``--allow`` must name for it."""
        return {}

    def without_effect(self, run: RunConfig) -> dict[str, str]:
        """Keys that change nothing in that run, of which this is the task: ``task.<key>`` → why. A notice names those
        that the user has set."""
        return {"task.action_scale": "actions are choices"} if self.actions_are_choices else {}


class AgentConfig(Frozen):
    """Keys that every agent has; an agent extends it with its own."""

    lineages: ClassVar[Mapping[str, Lineage]] = {}
    usual_rollouts: ClassVar[int] = 20  # rollouts_per_task where nothing says so
    threads_matter: ClassVar[bool] = False  # whether the learner.threads of a new run decide the last bits it learns

    # what takes less of a GPU's memory where that has run out
    less_memory: ClassVar[str] = "a smaller learner.tasks_per_chunk, which `metarl resume` takes, too"

    name: str = Field(description="module in agents/ that defines the agent")
    lineage: str | None = Field(None, description="published setting whose values fill in what is not given explicitly")

    def work(self, run: RunConfig) -> int:
        """Multiply-adds of the policy's hidden layers over a phase of that run: by it ``device: auto`` decides between
        the CPU and a GPU. 0: the CPU."""
        return 0

    def conflicts(self, run: RunConfig) -> list[str]:
        """What cannot work in that run, of which this is the agent, although every key on its own is valid: one line
        each, with the key, its value, what is expected, and why. ``run.task`` is plain data if its name is not known.
        """
        return []

    def num_parameters(self, spaces: SpaceSpec) -> int:
        """Numbers that the policy has at least, without making any: a checkpoint with fewer is not of that agent."""
        return 0

    def memory_needs(self, run: RunConfig, spaces: SpaceSpec) -> dict[str, int]:
        """Bytes that the learner of that resolved run is certain to need at once, besides trajectories.

        Key: what needs them, as the beginning of an error: the key of the configuration, its value, and what helps.
        """
        return {}

    def parts(self, run: RunConfig) -> tuple[str, int]:
        """The key that says into how many parts that resolved run's meta-batch is cut, and their number. Ranks take
        whole ones."""
        chunk = run.learner.tasks_per_chunk
        assert chunk != "auto"
        return f"learner.tasks_per_chunk = {chunk}", -(-run.meta_batch_size // chunk)

    def without_effect(self, run: RunConfig) -> dict[str, str]:
        """Keys that change nothing in that run, of which this is the agent: ``agent.<key>``, ``eval.<key>``, … → why.
        A notice names those that the user has set."""
        return {}


class SamplerConfig(Frozen):
    """Who runs the rollouts. No key here changes a result, except the last bits of a memory agent's: tasks_per_unit."""

    executor: Literal["in_process", "processes", "ray"] = Field(
        "processes", description="where rollout units run; ray: also on other machines (pip install 'metarl[ray]')"
    )
    workers: NonNegativeInt | Literal["auto"] = Field(
        "auto",
        description="worker processes, at most one per unit of tasks; auto = one per usable core, with ray_address one "
        "per core of the cluster; 0 = in_process",
    )
    ray_address: str | None = Field(
        None,
        description="Ray cluster to join, host:port, or auto for the one that this machine is a node of; null = one of "
        "the run's own, on this machine alone",
    )
    tasks_per_unit: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="whole tasks stepped together; auto = one unit per worker, at most 20 tasks each (memory agents: "
        "up to 8 equal units, and this key decides the last bits)",
    )
    unit_timeout_s: PositiveFloat = Field(
        300.0, description="seconds after which a worker counts as hung and is replaced"
    )
    unit_retries: NonNegativeInt = Field(
        1, description="times that a unit is run again after its worker died, hung or raised"
    )
    worker_restarts: NonNegativeInt = Field(
        10, description="workers replaced within an hour before the run stops with exit code 5"
    )
    rank_timeout_s: PositiveFloat = Field(
        1800.0,
        description="where several ranks train: seconds that one waits for the others before the run stops with exit "
        "code 5; more than the longest phase of sampling takes",
    )
    max_diverged: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="share of the training episodes of 10 iterations that may be cut off because the simulation "
        "diverged, before the run stops with exit code 4; 1 = all",
    )


class LearnerConfig(Frozen):
    """How the learner computes. Resolved values are kept on resume: all but ``threads`` decide the last bits."""

    threads: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="CPU threads of the learner, of every rank where there are several; auto = one per core, which "
        "the ranks of a machine share",
    )
    shares: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="agents with a memory: parts of the trials that are computed together, at least one per rank; "
        "auto = learner.threads, or one per core, whatever the number of ranks",
    )
    tasks_per_chunk: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="gradient agents: tasks whose activations are computed together; auto fits the CPU's cache, or "
        "takes all on a GPU",
    )
    tf32: bool = Field(
        False, description="on a GPU, products and recurrent networks with inputs of 10 bits: faster, not float32"
    )
    deterministic: bool = Field(
        False, description="on a GPU, the same bits in every run on the same model of card, at a price in speed"
    )


class EvalConfig(Frozen):
    """The adaptation curve on held-out tasks; independent of training and without influence on it."""

    every: PositiveInt | None = Field(10, description="iterations between evaluations; null = only at the end")
    num_tasks: PositiveInt = Field(
        40, description="held-out tasks (trials on unseen streams where a family has fewer tasks)"
    )
    adapt_steps: NonNegativeInt = Field(3, description="adaptation steps on the curve")
    score_every: PositiveInt = Field(
        1, description="adaptation steps from one point of the curve to the next; adapt_steps is a multiple of it"
    )
    adapt_episodes: PositiveInt = Field(20, description="episodes per task gathered for each adaptation step")
    adapt_env_steps: PositiveInt | None = Field(
        None, description="gather further episodes until a task has this many steps (Finn 2017: 4000); null = do not"
    )
    score_episodes: PositiveInt = Field(
        20, description="fresh episodes per task that score each point of the curve; memory agents: trials per task"
    )
    restored_episodes: PositiveInt = Field(
        3, description="memory agents: episodes that each start with the memory which a trial has left"
    )
    deterministic: bool = Field(
        False, description="score the policy's mode instead of its samples, which are what it adapts by"
    )

    @model_validator(mode="after")
    def _a_curve_that_ends_with_a_point(self) -> EvalConfig:
        if self.adapt_steps % self.score_every:
            raise ValueError(
                f"score_every = {self.score_every} leaves the last of adapt_steps = {self.adapt_steps} steps without a "
                "score: expected adapt_steps to be a multiple of it"
            )
        return self

    @property
    def scored_steps(self) -> range:
        """After which adaptation steps the curve has points."""
        return range(0, self.adapt_steps + 1, self.score_every)


class CheckpointConfig(Frozen):
    """When to save, and how many to keep."""

    every: PositiveInt = Field(10, description="iterations between checkpoints; the last iteration is always saved")
    keep: PositiveInt = Field(3, description="newest checkpoints to keep")


class WandbConfig(Frozen):
    """Weights & Biases. It can neither slow nor stop a run, whose own files have everything without it."""

    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto = online with an API key, offline without one"
    )
    project: str = Field("metarl", description="project; where this is left as it is, WANDB_PROJECT counts")
    entity: str | None = Field(None, description="user or team; null = WANDB_ENTITY, or the account's default")
    group: str | None = Field(None, description="group; null = WANDB_RUN_GROUP, or the config's name")
    job_type: str = Field("train", description="job type; where this is left as it is, WANDB_JOB_TYPE counts")
    checkpoint: bool = Field(False, description="upload the final checkpoint as an artifact, too")
    tags: list[str] = Field(
        default_factory=list, description="tags; [] = those of WANDB_TAGS, with commas between them"
    )

    @field_validator("project")
    @classmethod
    def _can_name_a_project(cls, name: str) -> str:
        if not 1 <= len(name) <= 128 or set(name) & set("/\\#?%:"):
            raise ValueError("expected 1 to 128 characters, none of / \\ # ? % :")
        return name

    @field_validator("tags")
    @classmethod
    def _can_be_tags(cls, tags: list[str]) -> list[str]:
        if not all(1 <= len(tag) <= 64 for tag in tags):
            raise ValueError("expected tags of 1 to 64 characters each")
        return tags


class RunConfig(Frozen):
    """One run. ``task`` and ``agent`` hold the family's and the agent's own validated configs."""

    seed: int = Field(0, ge=0, lt=2**32, description="root of every random stream")
    device: Literal["auto", "cpu", "cuda"] | Annotated[str, Field(pattern="^cuda:[0-9]{1,3}$")] = Field(
        "auto",
        description="where the learner computes; workers stay on the CPU; auto = a GPU where there is one and the "
        "agent's network and batch are large",
    )
    iterations: PositiveInt = Field(description="meta-updates")
    env_steps: PositiveInt | None = Field(
        None, description="end earlier, with the iteration at which training has taken this many environment steps"
    )
    meta_batch_size: PositiveInt = Field(description="tasks per iteration")
    rollouts_per_task: PositiveInt = Field(
        description="episodes (memory agents: trials) per task and phase, run side by side"
    )
    time_limit_s: PositiveFloat | None = Field(
        None, description="seconds after which the run saves and stops; resume goes on"
    )
    run_dir: str = Field(
        "runs", min_length=1, description="folder that receives <config>/<timestamp>-s<seed>_<changed keys>/"
    )
    name: str | None = Field(
        None, pattern="^[A-Za-z0-9][A-Za-z0-9._=-]{0,39}$", description="becomes part of the run's folder name"
    )
    init_from: str | None = Field(
        None,
        description="run whose final parameters start this one, or a folder that has one run in it, as studies have",
    )
    tensorboard: bool = Field(False, description="write metrics for TensorBoard, too, to <run>/tensorboard/")
    task: TaskConfig
    agent: AgentConfig
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    learner: LearnerConfig = Field(default_factory=LearnerConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    wandb: WandbConfig = Field(default_factory=WandbConfig)

    def without_effect(self) -> dict[str, str]:
        """Keys that change nothing in this run, with dots, and why: what the run itself, task and agent say."""
        found: dict[str, str] = {}
        if self.wandb.mode == "disabled":
            for key in ("project", "entity", "group", "job_type", "checkpoint", "tags"):
                found[f"wandb.{key}"] = "wandb.mode = disabled records nothing there"
        if self.sampler.executor == "in_process" or self.sampler.workers == 0:
            for key in ("unit_timeout_s", "worker_restarts"):
                found[f"sampler.{key}"] = "rollouts run in this process, not in workers"
        if self.device == "cpu":
            for key in ("tf32", "deterministic"):
                found[f"learner.{key}"] = "it is about GPUs; a CPU computes in float32, the same bits every time"
        return found | self.task.without_effect(self) | self.agent.without_effect(self)
