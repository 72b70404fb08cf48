"""Names to modules, without a registry: ``task.name`` and ``agent.name`` are modules in envs/ and agents/.

Files are looked at before anything is imported, and only what lies in these two folders can be named. A class from
elsewhere, ``package.module:Class``, has to be allowed by the person at the command line; a configuration cannot do so.
"""

from __future__ import annotations

import ast
import importlib
import importlib.resources
import inspect
import pkgutil
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from metarl.errors import ConfigError, nearest

if TYPE_CHECKING:  # torch takes most of the start-up time: only what needs an agent pays for it
    from metarl.agent import Agent
    from metarl.tasks import TaskDistribution

Package = Literal["envs", "agents", "configs"]
T = TypeVar("T")

_ABSTRACT_METHOD = {"TaskDistribution": "make_vector", "Agent": "meta_update"}
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_CLASS_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


def available(package: Package) -> list[str]:
    """Sorted names that a configuration may use: task families, agents, or shipped configurations.

    No module is imported; its source is looked at. It counts if its name does not start with ``_`` and one of its
    top-level classes assigns ``config_class`` and is not plainly abstract: a direct child of ``TaskDistribution``
    without ``make_vector``, or of ``Agent`` without ``meta_update``. A module that is not valid Python counts, so that
    its import shows why.
    """
    if package == "configs":
        files = importlib.resources.files("metarl.configs").iterdir()
        return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))
    sources = _sources(package)
    return sorted(name for name, path in sources.items() if _defines_family(path.read_text(encoding="utf-8")))


def summary(package: Package, name: str) -> str:
    """One line about a name: the first of the module's docstring, or of the configuration's leading comment."""
    if package == "configs":
        first = shipped_config(name).decode(errors="replace").partition("\n")[0]
        return first.removeprefix("#").strip() if first.startswith("#") else ""
    try:
        docstring = ast.get_docstring(ast.parse(_sources(package)[name].read_text(encoding="utf-8")))
    except SyntaxError as error:
        return f"(not valid Python: {error})"
    return (docstring or "").partition("\n")[0]


def shipped_config(name: str) -> bytes:
    """The text of a configuration that comes with metarl; ``name`` is one of ``available("configs")``."""
    return importlib.resources.files("metarl.configs").joinpath(f"{name}.yaml").read_bytes()


def task_distribution(name: str, allow: Sequence[str] = ()) -> type[TaskDistribution]:
    """The task family that a module in envs/ defines, or a class of the user's own listed in ``allow``.

    Raises:
        ConfigError: no such family, or a ``package.module:Class`` that is not allowed or not a task distribution.
    """
    from metarl.tasks import TaskDistribution

    return _find("envs", name, TaskDistribution, allow)  # type: ignore[type-abstract]


def agent(name: str, allow: Sequence[str] = ()) -> type[Agent]:
    """The agent that a module in agents/ defines, or a class of the user's own listed in ``allow``.

    Raises:
        ConfigError: no such agent, or a ``package.module:Class`` that is not allowed or not an agent.
    """
    if ":" not in name:
        _check_name("agents", name)  # before the import below
    from metarl.agent import Agent

    return _find("agents", name, Agent, allow)  # type: ignore[type-abstract]


def _find(package: Package, name: str, base: type[T], allow: Sequence[str]) -> type[T]:
    if ":" in name:
        return _allowed_class(name, base, allow)
    _check_name(package, name)
    module = importlib.import_module(f"metarl.{package}.{name}")
    found: list[type[T]] = [cls for cls in vars(module).values() if _is_concrete(cls, base, module)]
    if len(found) != 1:
        raise ConfigError(
            f"expected exactly one concrete {base.__name__} with a config_class in {module.__name__}, "
            f"found {[cls.__name__ for cls in found]}"
        )
    return found[0]


def _check_name(package: Package, name: str) -> None:
    names = available(package)
    if not _NAME.fullmatch(name) or name not in names:
        kind = {"envs": "task", "agents": "agent"}[package]
        raise ConfigError(f"no such {kind}: {nearest(name, names)}available: {', '.join(names) or 'none'}")


def _is_concrete(cls: Any, base: type, module: ModuleType) -> bool:
    return (
        inspect.isclass(cls)
        and cls.__module__ == module.__name__
        and issubclass(cls, base)
        and hasattr(cls, "config_class")
        and not inspect.isabstract(cls)
    )


def _allowed_class(path: str, base: type[T], allow: Sequence[str]) -> type[T]:
    match = _CLASS_PATH.fullmatch(path)
    if match is None:
        raise ConfigError("expected a name, or package.module:Class")
    if path not in allow:
        raise ConfigError(f"a class from outside metarl is only imported if the command line has --allow {path}")
    module_name, class_name = match.groups()
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"cannot import {module_name} ({error}); is its folder on PYTHONPATH?") from error
    except AttributeError as error:
        raise ConfigError(f"module {module_name} has no class {class_name}") from error
    if not (inspect.isclass(cls) and issubclass(cls, base) and hasattr(cls, "config_class")) or inspect.isabstract(cls):
        raise ConfigError(f"expected a concrete {base.__name__} with a config_class")
    allowed: type[T] = cls
    return allowed


def _sources(package: Package) -> dict[str, Path]:
    """Module name → source file of the modules in a package, without importing them."""
    found: dict[str, Path] = {}
    for info in pkgutil.iter_modules(importlib.import_module(f"metarl.{package}").__path__):
        spec = info.module_finder.find_spec(info.name, None)
        if not info.name.startswith("_") and spec is not None and spec.origin and spec.origin.endswith(".py"):
            found[info.name] = Path(spec.origin)
    return found


def _defines_family(source: str) -> bool:
    if "config_class" not in source:
        return False
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return True
    return any(isinstance(node, ast.ClassDef) and _may_be_concrete(node) for node in tree.body)


def _may_be_concrete(node: ast.ClassDef) -> bool:
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return any(_assigns_config_class(item) for item in node.body) and all(
        method in methods for base, method in _ABSTRACT_METHOD.items() if base in bases
    )


def _assigns_config_class(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target] if statement.value is not None else []
    else:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "config_class" for target in targets)
