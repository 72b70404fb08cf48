"""An exported policy as one Python file: the class, the step, the functions that it calls, and the numbers."""

from __future__ import annotations

import ast
import functools
import inspect
import pprint
import textwrap
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from metarl.api.export import robot, steps
from metarl.api.export.description import Arrays, Described, text_of

WIDTH = 116  # of lines
HEAD = '''"""A policy that metarl exported. It needs NumPy, and Python 3.10 or later.

    from policy import Policy

    policy = Policy()
    action = policy(obs)
    policy.observe(obs, reward, terminated, truncated)

``policy.about`` says what goes in and out, in which shapes and units.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = Any  # of NumPy, which is xp below
Weights = Mapping[str, Array]
Memory = Callable[[Any, Weights, Array, Sequence[Array]], "tuple[Array, Sequence[Array]]"]
'''


def text(described: Described) -> str:
    """The file. What comes from the policy is in it as literals, and nothing of that as code."""
    memory = described.memory
    functions = _called(steps.Step, *([] if memory is None else [memory.func]))
    constants = {name: value for name, value in vars(steps).items() if isinstance(value, float)}
    sources = [inspect.getsource(part) for part in (robot.Policy, steps.Step, *functions, robot.arrays)]
    used = {name: value for name, value in constants.items() if any(name in _names(source) for source in sources)}
    lines = [HEAD, *(f"{name} = {value!r}" for name, value in used.items())]
    numbers = {"WEIGHTS": described.weights, "START": described.start, "EMPTY": described.empty}
    return "\n".join(
        [
            *lines,
            *(f"\n\n{source}" for source in sources),
            f"\nMEMORY = {_expression(memory)}",
            f"ABOUT = {pprint.pformat(described.about, width=WIDTH, sort_dicts=False)}",
            *(f"{name} = {_literal(arrays)}" for name, arrays in numbers.items()),
            "",
        ]
    )


def load(path: Path) -> Any:
    """The policy of such a file. It runs the file."""
    loader = _Uncached("exported_policy", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module.Policy()


class _Uncached(SourceFileLoader):
    """It leaves no compiled copy beside the file."""

    def set_data(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


def _called(*roots: Any) -> list[Any]:
    """The functions of the steps that these call, and they themselves but for the class, in the order of the module."""
    functions = {name: value for name, value in vars(steps).items() if inspect.isfunction(value)}
    functions = {name: value for name, value in functions.items() if value.__module__ == steps.__name__}
    wanted, new = {*roots} & {*functions.values()}, {*roots}
    while new:
        names = set().union(*(_names(inspect.getsource(part)) for part in new))
        new = {functions[name] for name in names & functions.keys()} - wanted
        wanted |= new
    return [function for function in functions.values() if function in wanted]


def _names(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(textwrap.dedent(source))) if isinstance(node, ast.Name)}


def _expression(memory: functools.partial[Any] | None) -> str:
    if memory is None:
        return "None"
    given = "".join(f", {name}={value!r}" for name, value in memory.keywords.items())
    return f"functools.partial({memory.func.__name__}{given})"


def _literal(arrays: Arrays) -> str:
    """Arrays as (dtype, shape, numbers in base64), by name."""
    if not arrays:
        return "{}"
    entries = []
    for name, array in arrays.items():
        wrapped = "\n".join(textwrap.wrap(text_of(array), WIDTH))
        entries.append(f'    {name!r}: ({array.dtype.name!r}, {array.shape!r}, """\n{wrapped}\n"""),\n')
    return "{\n" + "".join(entries) + "}"
