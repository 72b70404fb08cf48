"""An adapted policy as data: what goes in and out of its step, in which units, and the numbers that lie between."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from torch import Tensor

from metarl.api.export import steps
from metarl.api.policy_files import Stored
from metarl.errors import ConfigError
from metarl.nn import parameters
from metarl.nn.distributions import Categorical, DiagonalGaussian
from metarl.nn.memories.memory import Memory
from metarl.nn.memories.memory_network import MemoryNetwork
from metarl.nn.memories.ntm import NTM
from metarl.nn.memories.recurrent import GRU, LSTM
from metarl.nn.memories.retrieval import Retrieval
from metarl.nn.memories.transformer import Transformer
from metarl.nn.memory_policy import MemoryPolicy
from metarl.nn.policies import MLPPolicy, Policy
from metarl.run.interface import Interface
from metarl.sampling.trial_state import TrialState
from metarl.version import __version__

FORMAT_VERSION = 1
Arrays = dict[str, NDArray[Any]]
DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")  # of actions, in all formats


@dataclass(frozen=True)
class Described:
    """All that an exported policy consists of."""

    about: dict[str, Any]  # JSON data
    memory: functools.partial[Any] | None  # the function of its memory
    weights: Arrays
    start: Arrays  # what a memory is fed first, where adaptation left it; empty without a memory
    empty: Arrays  # the same at the beginning of a trial

    def data(self) -> dict[str, Any]:
        """What there is to know of its files, as JSON data; arrays as their bytes, little-endian, in base64."""
        return {**self.about, "start": _texts(self.start), "empty": _texts(self.empty)}

    def example(self) -> Arrays:
        """Inputs by name, of the right shapes and dtypes."""
        own = {entry["name"]: np.zeros(entry["shape"], entry["dtype"]) for entry in self.about["inputs"]}
        return {**own, **self.start}


def describe(policy: Policy, stored: Stored) -> Described:
    """The policy as data.

    Raises:
        ConfigError: it is of another kind than those that can be exported, or has several memories.
    """
    fit = replace(stored.fit, lanes=None)
    numbers = parameters_of(policy, stored.parameters)
    memory = None
    if isinstance(policy, MemoryPolicy):
        if stored.fit.lanes is not None:
            raise ConfigError(
                f"expected a policy of a single environment, got one with {stored.fit.lanes} memories, one for each "
                "lane of a vector environment"
            )
        memory = remembered(policy.memory)
    weights: Arrays = {name: tensor.numpy().copy() for name, tensor in numbers.items()}
    if fit.task_vector.size:
        weights["task"] = fit.task_vector[np.newaxis]
    if fit.action.kind == "box":
        divisor = np.where(fit.half_range > 0, fit.half_range, 1.0)
        weights |= {"centre": fit.centre, "half_range": fit.half_range, "divisor": divisor}
        weights |= {"low": fit.low, "high": fit.high}
    start, empty = {}, {}
    if memory is not None:
        assert stored.trial is not None
        names = [f"state_{name}" for name in memory.state]
        start = _fed(stored.trial, names)
        empty = _fed(TrialState.at_start(policy, fit.action, 1), names)
    return Described(_about(policy, stored, memory, start), memory and memory.function, weights, start, empty)


class Remembered(NamedTuple):
    """A memory as a function."""

    function: functools.partial[Any]
    state: dict[str, str]  # names of its state's tensors, in their order, with what they are


def remembered(memory: Memory) -> Remembered:
    """The step of a memory, for NumPy and torch. Raises ConfigError: there is none of that kind."""
    layers = range(getattr(memory, "layers", 1))
    hidden = {f"h{layer}": f"hidden state of layer {layer}" for layer in layers}
    cells = {
        f"{name}{layer}": f"{what} state of layer {layer}"
        for layer in layers
        for name, what in (("h", "hidden"), ("c", "cell"))
    }
    count = {"count": "steps of the trial so far"}
    partial = functools.partial
    if type(memory) is GRU:
        return Remembered(partial(steps.gru), hidden)
    if type(memory) is LSTM:
        return Remembered(partial(steps.lstm), cells)
    if type(memory) is Transformer:
        rings = {f"{name}{layer}": f"{name} of layer {layer}" for layer in layers for name in ("keys", "values")}
        return Remembered(partial(steps.transformer, heads=memory.heads), {**count, **rings})
    if type(memory) is Retrieval:
        last = {"last_key": "key of the last situation"}
        rings = {"keys": "keys of the latest situations", "values": "what came of them"}
        return Remembered(partial(steps.retrieval, metric=memory.metric), {**hidden, **last, **count, **rings})
    if type(memory) is NTM:
        own = {"reads": "what was read", "addresses": "where the heads are", "memory": "the slots"}
        return Remembered(partial(steps.ntm), {**cells, **own})
    if type(memory) is MemoryNetwork:
        rings = {"memory": "items, as they are asked for", "output": "items, as they answer"}
        return Remembered(partial(steps.memory_network, hops=memory.hops), {**count, "last": "the last input", **rings})
    raise ConfigError(f"expected a memory of metarl's own, got {type(memory).__name__}: it cannot be exported")


def parameters_of(policy: Policy, params: Tensor) -> dict[str, Tensor]:
    """The parameters [1, P] that a step needs, by the names that it has for them.

    Raises:
        ConfigError: a policy of another kind.
    """
    if not isinstance(policy, MLPPolicy | MemoryPolicy) or type(policy) not in (MLPPolicy, MemoryPolicy):
        raise ConfigError(
            f"expected a feed-forward policy of metarl's own, or one with a memory, got {type(policy).__name__}: it "
            "cannot be exported"
        )
    if type(policy.distribution) not in (DiagonalGaussian, Categorical):
        actions = type(policy.distribution).__name__
        raise ConfigError(f"expected Gaussian actions, or choices, got {actions}: it cannot be exported")
    named = parameters.views(policy.shapes(), params[0].detach().cpu())
    if isinstance(policy, MLPPolicy):
        last = len(policy.mlp.sizes) - 2
        network = {f"layer{layer}": f"encoder.layer{layer}" for layer in range(last)} | {f"layer{last}": "head"}
        renamed = {}
        for name, tensor in named.items():
            layer, _, kind = name.partition(".")
            renamed[f"{network[layer]}.{kind}" if kind else name] = tensor
        named = renamed
    return {name: tensor for name, tensor in named.items() if name != "log_std" and not name.startswith("value.")}


def _about(policy: Policy, stored: Stored, memory: Remembered | None, start: Arrays) -> dict[str, Any]:
    fit, interface = stored.fit, Interface.from_state(stored.described["interface"], "the policy")
    assert isinstance(policy, MLPPolicy | MemoryPolicy)
    mlp = policy.mlp if isinstance(policy, MLPPolicy) else policy.encoder
    layers = 0 if mlp is None else len(mlp.sizes) - 1 - (memory is None)
    seen, done = fit.observation_space, fit.action_space
    action: dict[str, Any] = {"kind": fit.action.kind, "shape": list(done.shape or ()), "dtype": _dtype(done)}
    if isinstance(done, Discrete):
        action |= {"n": int(done.n), "start": int(done.start)}
    else:
        sides = ("centre", "half_range", "low", "high")
        action |= {"scale": fit.action_scale, **{side: getattr(fit, side).tolist() for side in sides}}
    observation: dict[str, Any] = {"kind": "box"}
    if isinstance(seen, Discrete):
        observation = {"kind": "discrete", "n": int(seen.n), "start": int(seen.start)}
    dtype = "int64" if isinstance(seen, Discrete) else "float32"
    inputs = [_entry("obs", seen.shape or (), dtype, _meaning_of_obs(fit.task_vector.size, interface))]
    outputs = [_entry("action", action["shape"], action["dtype"], _meaning_of_action(action))]
    if memory is not None:
        meanings = _meanings_of_told(action) | {f"state_{name}": what for name, what in memory.state.items()}
        inputs += [_entry(name, array.shape, array.dtype.name, meanings[name]) for name, array in start.items()]
        for entry in inputs[1:]:
            if entry["name"] == "prev_action" or entry["name"].startswith("state_"):
                name = entry["name"]
                outputs.append({**entry, "name": f"next_{name}", "meaning": f"feed it as {name} in the next step"})
    return {
        "format_version": FORMAT_VERSION,
        "metarl": __version__,
        "agent": stored.described["name"],
        "remembers": memory is not None,
        "horizon": interface.horizon,
        "wrappers": interface.state()["wrappers"],
        "inputs": inputs,
        "outputs": outputs,
        "observation": observation,
        "action": action,
        "network": {
            "layers": layers,
            "activation": "tanh" if mlp is None else mlp.activation,
            "reward_scale": getattr(policy, "reward_input_scale", 1.0),
            "state": [f"state_{name}" for name in memory.state] if memory else [],
        },
    }


def _entry(name: str, shape: Any, dtype: str, meaning: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape), "meaning": meaning}


def _dtype(space: Any) -> str:
    """The dtype of actions. Raises ConfigError where not all formats have it."""
    name = str(np.dtype(space.dtype).name)
    if name not in DTYPES:
        raise ConfigError(f"{space}: expected actions of {', '.join(DTYPES)}; others cannot be exported")
    return name


def _meaning_of_obs(told: int, interface: Interface) -> str:
    text = "the observation as the environment gives it: not flattened, not normalised"
    if interface.wrappers.wrappers or interface.wrappers.observation_keys:
        text += "; behind the wrappers named here"
    return text + (f"; the {told} numbers of the task are in the policy" if told else "")


def _meaning_of_action(action: Mapping[str, Any]) -> str:
    if action["kind"] == "discrete":
        return f"the most likely choice, from {action['start']} to {action['start'] + action['n'] - 1}"
    return "the most likely action, in the environment's units, between action.low and action.high"


def _meanings_of_told(action: Mapping[str, Any]) -> dict[str, str]:
    shown = "(executed - action.centre) / action.half_range"
    if action["kind"] == "discrete":
        shown = f"executed - {action['start']}; -1 at the beginning of a trial"
    return {
        "prev_action": "the action that was executed in the step before: next_prev_action of that step, or, where "
        f"another one was executed, {shown}",
        "prev_reward": "the reward of the step before, in the units of training; 0 at the beginning of a trial",
        "prev_terminated": "the step before ended the task itself",
        "prev_truncated": "the step before ended its episode by a limit",
        "first": "this is the first step of an episode",
    }


def _fed(trial: TrialState, names: list[str]) -> Arrays:
    """What a memory is fed beside the observation, of a trial with one row; copies."""
    reward, terminated, truncated, first = trial.outcome[:, 0].numpy()
    flags = {"prev_terminated": terminated, "prev_truncated": truncated, "first": first}
    told = {"prev_action": trial.action[0].numpy().copy(), "prev_reward": np.asarray(reward, np.float32)}
    state = {name: tensor.numpy().copy() for name, tensor in zip(names, trial.policy_state, strict=True)}
    return {**told, **{name: np.asarray(flag != 0) for name, flag in flags.items()}, **state}


def _texts(arrays: Arrays) -> dict[str, str]:
    return {name: text_of(array) for name, array in arrays.items()}


def text_of(array: NDArray[Any]) -> str:
    """An array's bytes, row by row and little-endian, in base64."""
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(content).decode()
