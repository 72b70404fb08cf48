"""Any Gymnasium environment whose constructor arguments or attributes make the task, from a configuration alone."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Annotated, Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from pydantic import Field, JsonValue, field_validator, model_validator

from metarl.config.schema import Frozen, TaskConfig
from metarl.errors import ConfigError, MetarlError, nearest
from metarl.faults import PASSES
from metarl.surroundings import import_without_graphics
from metarl.tasks import Floats, Split, Task, TaskDistribution, VectorTaskEnv, balanced_sample, hold_out
from metarl.tasks.closing import close_quietly
from metarl.tasks.loop_env import Env, LoopEnv, reports_success, spaces_of
from metarl.tasks.wrappers import Wrappers, refusal

from ._gymnasium_ids import MODULE_AND_ID, registered_id

Choice = bool | int | float | str
Attribute = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]*$")]

RESERVED_ARGUMENTS = {"id", "max_episode_steps", "disable_env_checker", "render_mode", "vectorization_mode"}
IMPORTING_IDS = {"GymV21Environment-v0", "GymV26Environment-v0"}


class Wrapper(Frozen):
    """One wrapper around the environment."""

    name: str = Field(description="class in gymnasium.wrappers")
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="its keyword arguments")

    @field_validator("name")
    @classmethod
    def _usable(cls, value: str) -> str:
        why_not = refusal(value)
        if why_not is not None:
            raise ValueError(why_not)
        return value


class Assignment(Frozen):
    """One attribute of ``env.unwrapped`` that follows a parameter's value v: factor · v · Π times + Σ plus."""

    attribute: Attribute = Field(description="attribute that is set; the environment must have it already")
    factor: float = Field(1.0, description="constant factor")
    times: list[Attribute] = Field(default_factory=list, description="attributes that multiply it")
    plus: list[Attribute] = Field(default_factory=list, description="attributes that are added to it")

    @property
    def is_plain(self) -> bool:
        """Whether the attribute takes the parameter's value itself."""
        return self.factor == 1.0 and not self.times and not self.plus

    def value(self, value: Choice, env: Env) -> Any:
        """What the attribute becomes, from the parameter's value and the environment's present attributes."""
        if self.is_plain:
            return value
        product = math.prod((getattr(env, name) for name in self.times), start=self.factor * value)  # type: ignore
        return product + sum(getattr(env, name) for name in self.plus)


class Parameter(Frozen):
    """One number or choice in which tasks differ, and where it goes."""

    range: Annotated[tuple[float, float], Field(strict=False)] | None = Field(
        None, description="lowest and highest value, drawn uniformly, the same in both splits"
    )
    choices: list[Choice] | None = Field(None, min_length=1, description="values, different from one another")
    test_choices: list[Choice] | None = Field(
        None,
        min_length=1,
        description="values of test tasks. null = choices: where all parameters have choices and none has "
        "test_choices, every fourth combination is held out for testing, if there are four or more",
    )
    argument: str | None = Field(None, description="constructor argument that takes the value")
    set: list[Assignment] = Field(default_factory=list, description="attributes that follow the value, in this order")

    @model_validator(mode="after")
    def _complete(self) -> Parameter:
        if (self.range is None) == (self.choices is None):
            raise ValueError("expected either range: [lowest, highest] or choices: [...]")
        if self.range is not None and self.range[0] > self.range[1]:
            raise ValueError(f"expected range: [lowest, highest], got {list(self.range)}")
        if self.test_choices is not None and self.choices is None:
            raise ValueError("test_choices go with choices; a range is the same in both splits")
        for values in (self.choices or [], self.test_choices or []):
            if len(set(values)) < len(values):
                raise ValueError(f"expected choices that differ from one another, got {values}")
        if (self.argument is None) == (not self.set):
            raise ValueError("expected either argument: name or set: [{attribute: name}, ...]")
        if self.argument in RESERVED_ARGUMENTS:
            raise ValueError(f"argument: {self.argument} is gymnasium.make's own, not the environment's")
        if not self.is_number and not all(assignment.is_plain for assignment in self.set):
            raise ValueError("factor, times and plus need a parameter whose values are numbers")
        return self

    @property
    def is_number(self) -> bool:
        """Whether all values are numbers."""
        return not any(isinstance(value, bool | str) for value in self.all_choices)

    @property
    def all_choices(self) -> list[Choice]:
        """The choices of both splits; none of a range."""
        choices = [*(self.choices or []), *(self.test_choices or [])]
        return [value for index, value in enumerate(choices) if value not in choices[:index]]

    def extremes(self) -> list[Choice]:
        """Both ends of a range, or all choices."""
        return self.all_choices if self.range is None else list(dict.fromkeys(self.range))

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError unless ``value`` is one that a task may have."""
        if self.range is None:
            if value not in self.all_choices:
                raise ValueError(f"expected {name} to be one of {self.all_choices}, got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"expected {name} to be a number, got {value!r}")
        elif not self.range[0] <= value <= self.range[1]:
            raise ValueError(f"expected {name} within {list(self.range)}, got {value!r}")

    def vector(self, value: Choice) -> list[float]:
        """A value for ``reveal``: a number as it is, another choice as one-hot."""
        return [float(value)] if self.is_number else [float(value == choice) for choice in self.all_choices]


class GymnasiumEnvConfig(TaskConfig):
    """Keys of the family that is made of any Gymnasium environment."""

    env_id: str = Field(
        description="id of an environment registered with Gymnasium, such as CartPole-v1; or module:id, whose module "
        "registers it and is imported if the command line allows it (--allow module:id)"
    )
    env_arguments: dict[str, JsonValue] = Field(
        default_factory=dict, description="constructor arguments that are the same in every task"
    )
    env_wrappers: list[Wrapper] = Field(default_factory=list, description="wrappers, the innermost first")
    observation_keys: list[str] | None = Field(
        None, min_length=1, description="dictionary observations: the entries that are shown, flattened, in this order"
    )
    parameters: dict[str, Parameter] = Field(min_length=1, description="what tasks differ in, by name")

    @field_validator("env_id")
    @classmethod
    def _registered(cls, value: str) -> str:
        if value.startswith("metarl/"):
            raise ValueError("this is a family of metarl's own: use its task.name")
        if value in IMPORTING_IDS:
            raise ValueError("this id imports what its arguments name, which a configuration must not")
        if value not in gymnasium.registry and not MODULE_AND_ID.fullmatch(value):
            raise ValueError(
                f"{nearest(value, list(gymnasium.registry))}expected an id registered with Gymnasium, or module:id for "
                "one that an installed package or a module of your own registers"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> GymnasiumEnvConfig:
        used = [parameter.argument for parameter in self.parameters.values() if parameter.argument]
        twice = sorted({name for name in used if used.count(name) > 1 or name in self.env_arguments})
        if twice:
            raise ValueError(f"expected one value per constructor argument, got more for {', '.join(twice)}")
        reserved = sorted(RESERVED_ARGUMENTS & set(self.env_arguments))
        if reserved:
            raise ValueError(f"env_arguments: {', '.join(reserved)} is gymnasium.make's own, not the environment's")
        choices = [value for parameter in self.parameters.values() for value in parameter.all_choices]
        paths = [] if ":" in self.env_id else list(filter(_is_path, _texts([self.env_arguments, choices])))
        if paths:  # MuJoCo's environments read the model that xml_file names: input like code, see docs/own_robot.md
            raise ValueError(f"{paths[0]!r:.60} could be the path of a file, which a configuration must not name")
        return self

    def wrappers(self) -> Wrappers:
        """What stands around the environment."""
        keys = None if self.observation_keys is None else tuple(self.observation_keys)
        return Wrappers(tuple((wrapper.name, wrapper.arguments) for wrapper in self.env_wrappers), keys)

    def imports(self) -> dict[str, str]:
        return {"env_id": self.env_id} if ":" in self.env_id else {}


class GymnasiumEnvDistribution(TaskDistribution):
    """Tasks ``{parameter: value}``: ranges uniform, the same in both splits; choices in balanced combinations.

    Where all parameters have choices and none has ``test_choices``, some combinations are held out for testing.

    Building one also tries the environment with every extreme value, so that what is wrong shows before a run.

    Raises:
        ConfigError: an unknown argument or attribute, spaces that no policy here can use, or an environment that
            raises when it is built, reset or stepped.
    """

    config_class = GymnasiumEnvConfig
    config: GymnasiumEnvConfig

    def __init__(self, config: GymnasiumEnvConfig) -> None:
        super().__init__(config)
        self.wrappers = config.wrappers()
        tasks = self._extreme_tasks()
        try:
            with closing(ParametrisedEnv(config)) as env:
                env.set_task(tasks[0])
                self.spaces = spaces_of(env, len(self._task_vector(tasks[0])) if config.reveal else 0)
                self._reports_success = reports_success(env)
                for task in tasks:
                    env.set_task(task)
                    env.reset(seed=0)
                    env.check_assignments()
            with closing(self.make_vector(1)) as vector:
                for task in tasks:
                    vector.set_tasks([task])
                    vector.reset(seed=[0])
                    vector.step(np.zeros_like(vector.action_space.sample()))
        except PASSES:
            raise
        except BaseException as error:
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            reason = str(error) if isinstance(error, MetarlError) else text
            raise ConfigError(f"task.env_id = {config.env_id}: {reason}") from error

    def size(self, split: Split) -> int | None:
        if any(parameter.range is not None for parameter in self.config.parameters.values()):
            return None
        return len(self._combinations(split))

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        tasks: list[dict[str, Any]] = [
            dict(task) for task in balanced_sample(self._combinations(split), num_tasks, rng)
        ]
        for name, parameter in self.config.parameters.items():
            if parameter.range is not None:
                for task, value in zip(tasks, rng.uniform(*parameter.range, num_tasks).tolist(), strict=True):
                    task[name] = value
        return [{name: task[name] for name in self.config.parameters} for task in tasks]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return LoopEnv(
            num_lanes,
            self.spaces,
            self.config,
            functools.partial(ParametrisedEnv, self.config),
            task_vector=self._task_vector,
            reports_success=self._reports_success,
        )

    def _combinations(self, split: Split) -> list[Task]:
        """The finite parameters' values, all combinations of a split."""
        parameters = self.config.parameters
        choices = {
            name: parameter.test_choices if split == "test" and parameter.test_choices else parameter.choices
            for name, parameter in parameters.items()
            if parameter.choices is not None
        }
        found: list[Task] = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
        choices_alone = all(parameter.choices and not parameter.test_choices for parameter in parameters.values())
        return hold_out(found, split) if choices_alone else found

    def _extreme_tasks(self) -> list[Task]:
        """One task per end of each range and per choice, the other parameters at their first value."""
        extremes = {name: parameter.extremes() for name, parameter in self.config.parameters.items()}
        first = {name: values[0] for name, values in extremes.items()}
        return [first, *({**first, name: value} for name, values in extremes.items() for value in values[1:])]

    def _task_vector(self, task: Task) -> Floats:
        parameters = self.config.parameters
        return np.array([number for name in parameters for number in parameters[name].vector(task[name])])


class ParametrisedEnv(gymnasium.Env[Any, Any]):
    """The configured environment in its present task; another task sets attributes, or builds a new object.

    There is no time limit within: the family's ``horizon`` is the only one, unless the environment truncates itself.

    Raises:
        TypeError: ``render_mode`` is none of the environment's.
    """

    def __init__(self, config: GymnasiumEnvConfig, render_mode: str | None = None) -> None:
        self.config, self.render_mode = config, render_mode
        if render_mode is not None:
            _require_render_mode(registered_id(config.env_id), render_mode)
        self._env: Env | None = None
        self._arguments: dict[str, Any] = {}
        self._nominal: dict[str, Any] = {}
        self._assigned: dict[str, Any] = {}

    def set_task(self, task: Task) -> None:
        """Take over a task; the next reset starts it.

        Raises:
            ValueError: not a task of this family.
            ConfigError: an argument or attribute that the environment does not have.
        """
        parameters = self.config.parameters
        if set(task) != set(parameters):
            raise ValueError(f"expected a task with {', '.join(parameters)}, got {dict(task)}")
        for name, parameter in parameters.items():
            parameter.check(name, task[name])
        arguments = {parameter.argument: task[name] for name, parameter in parameters.items() if parameter.argument}
        if self._env is None or arguments != self._arguments:
            self._build(arguments)
        assert self._env is not None
        env = self._env.unwrapped
        # Every assignment starts from the environment's own values: none compounds, and earlier tasks leave no trace.
        for attribute, value in self._nominal.items():
            setattr(env, attribute, value)
        for name, parameter in parameters.items():
            for assignment in parameter.set:
                setattr(env, assignment.attribute, assignment.value(task[name], env))
        self._assigned = {attribute: getattr(env, attribute) for attribute in self._nominal}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        assert self._env is not None
        return self._env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``."""
        assert self._env is not None
        return self._env.step(action)

    def render(self) -> Any:
        """See ``gymnasium.Env``."""
        assert self._env is not None
        return self._env.render()

    def close(self) -> None:
        """Close the environment; another task builds it again."""
        env, self._env = self._env, None
        if env is not None:
            close_quietly(env)

    def __str__(self) -> str:
        return str(self._env or self.config.env_id)

    def check_assignments(self) -> None:
        """Raises ConfigError where a reset has overwritten an attribute that makes the task."""
        assert self._env is not None
        for attribute, value in self._assigned.items():
            if getattr(self._env.unwrapped, attribute) != value:
                raise ConfigError(f"the environment's reset overwrites {attribute}, so it cannot make a task")

    def _build(self, arguments: dict[str, Any]) -> None:
        self.close()
        config = self.config
        env_id = registered_id(config.env_id)
        _check_arguments(env_id, config, arguments)
        env: Env = gymnasium.make(
            env_id,
            max_episode_steps=-1,
            disable_env_checker=True,
            **({} if self.render_mode is None else {"render_mode": self.render_mode}),
            **config.env_arguments,
            **arguments,
        )
        try:
            env = config.wrappers().around(env)
            self._nominal = _nominal_values(config.parameters, env.unwrapped)
        except BaseException:
            close_quietly(env)
            raise
        self.observation_space, self.action_space, self.metadata = env.observation_space, env.action_space, env.metadata
        self._env, self._arguments = env, arguments


def _texts(data: Any) -> Iterator[str]:
    """All text in JSON data, keys aside."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping | list):
        for value in data.values() if isinstance(data, Mapping) else data:
            yield from _texts(value)


def _is_path(text: str) -> bool:
    """Whether text may lead out of the folder that an environment takes its own files from."""
    return text.startswith(("~", ".")) or "/" in text or "\\" in text


def _check_arguments(env_id: str, config: GymnasiumEnvConfig, arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError for an argument that the environment's constructor does not take."""
    taken = inspect.signature(_creator(env_id)).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    names = sorted(set(taken) - RESERVED_ARGUMENTS)
    for name in {**config.env_arguments, **arguments}:
        if name not in names:
            raise ConfigError(f"no constructor argument {name}: {nearest(name, names)}it takes {', '.join(names)}")


def _creator(env_id: str) -> Callable[..., Any]:
    """What makes a registered environment: its class, or a function."""
    entry_point = gymnasium.spec(env_id).entry_point
    if isinstance(entry_point, str):
        import_without_graphics(entry_point.partition(":")[0])
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    assert creator is not None
    return creator


def _require_render_mode(env_id: str, render_mode: str) -> None:
    """Raises TypeError for a render mode that is none of the environment's, as far as it says."""
    metadata = getattr(_creator(env_id), "metadata", None)
    modes = metadata.get("render_modes") if isinstance(metadata, dict) else [render_mode]
    if render_mode not in (modes or ()):
        raise TypeError(f"expected render_mode=None, got {render_mode!r}: {env_id} has no such pictures, but {modes}")


def _nominal_values(parameters: Mapping[str, Parameter], env: Env) -> dict[str, Any]:
    """The environment's own values of all attributes that tasks set.

    Raises:
        ConfigError: an attribute that does not exist, or that holds something else than what is to be set.
    """
    nominal: dict[str, Any] = {}
    known = [name for name in dir(env) if not name.startswith("_")]
    for parameter in parameters.values():
        for assignment in parameter.set:
            for name in (assignment.attribute, *assignment.times, *assignment.plus):
                if name not in known:
                    raise ConfigError(f"no attribute {name}: {nearest(name, known)}expected one of {env}")
                value = getattr(env, name)
                if not any(_same_kind(value, choice) for choice in parameter.extremes()):
                    raise ConfigError(f"attribute {name} holds {value!r}: expected what a task can set")
            nominal[assignment.attribute] = getattr(env, assignment.attribute)
    return nominal


def _same_kind(value: Any, choice: Choice) -> bool:
    """Whether an attribute that holds ``value`` may be set to ``choice``."""
    if isinstance(value, bool | np.bool_) or isinstance(choice, bool):
        return isinstance(value, bool | np.bool_) and isinstance(choice, bool)
    if isinstance(choice, str):
        return isinstance(value, str)
    return isinstance(value, numbers.Real)
