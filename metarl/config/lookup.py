"""Names to classes, without a registry: ``task.name`` and ``agent.name`` are modules in envs/ and agents/.

What can be named is a directory listing: every module whose name does not begin with ``_``. A class from elsewhere,
``package.module:Class``, has to be allowed by the person at the command line; a configuration cannot do so.
"""

from __future__ import annotations

import ast
import importlib
import importlib.resources
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metarl import safe_path
from metarl.errors import ConfigError, nearest

if TYPE_CHECKING:  # pydantic would make `metarl --version` slow
    from metarl.config.schema import TaskConfig

Package = Literal["envs", "agents", "configs"]

# What a module of a package must define: a child of this class, named and not imported, as it lies in a higher layer.
_BASE = {"envs": "metarl.tasks.distribution.TaskDistribution", "agents": "metarl.agent.Agent"}
_KIND = {"envs": "task", "agents": "agent"}
_CLASS_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


def available(package: Package) -> list[str]:
    """Sorted names that a configuration may use: task families, agents, or shipped configurations.

    No module is imported. One that is not valid Python counts, so that its import shows why.
    """
    if package == "configs":
        files = importlib.resources.files("metarl.configs").iterdir()
        return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))
    return sorted(_sources(package))


def agent_of_pair(config: str, words: Sequence[str]) -> str | None:
    """The AGENT among the words of a command line that begins with TASK and AGENT; None where it begins with CONFIG."""
    agents = [word for word in words if "=" not in word]
    return agents[0] if len(agents) == 1 and config in available("envs") else None


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


def task_distribution(name: str, allow: Sequence[str] = ()) -> Any:
    """The :class:`~metarl.tasks.TaskDistribution` that a module in envs/ defines, or one of the user's own, if allowed.

    Raises:
        ConfigError: no such family, or a ``package.module:Class`` that is not allowed or not a task distribution.
    """
    return _find("envs", name, allow)


def agent(name: str, allow: Sequence[str] = ()) -> Any:
    """The :class:`~metarl.agent.Agent` that a module in agents/ defines, or one of the user's own, if allowed.

    Raises:
        ConfigError: no such agent, or a ``package.module:Class`` that is not allowed or not an agent.
    """
    return _find("agents", name, allow)


def require_allowed(config: TaskConfig, allow: Sequence[str]) -> None:
    """Whether the person at the command line has allowed what a task family's keys import.

    Raises:
        ConfigError: one line per key whose value is not in ``allow``.
    """
    refused = [
        f"task.{key} = {path}: code from outside metarl is only imported if the command line has --allow {path}"
        for key, path in config.imports().items()
        if path not in allow
    ]
    if refused:
        raise ConfigError("\n".join(refused))


def _find(package: Package, name: str, allow: Sequence[str]) -> type:
    if ":" in name:
        return _allowed_class(package, name, allow)
    names = available(package)
    if name not in names:
        raise ConfigError(f"no such {_KIND[package]}: {nearest(name, names)}available: {', '.join(names) or 'none'}")
    module = importlib.import_module(f"metarl.{package}.{name}")
    own = [cls for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == module.__name__]
    found = [cls for cls in own if _is_concrete(cls, package)]
    if len(found) != 1:
        raise ConfigError(
            f"expected exactly one concrete {_base_name(package)} with a config_class in {module.__name__}, "
            f"found {[cls.__name__ for cls in found]}; a module that others share has a name that begins with _"
        )
    return found[0]


def _allowed_class(package: Package, path: str, allow: Sequence[str]) -> type:
    match = _CLASS_PATH.fullmatch(path)
    if match is None:
        raise ConfigError("expected a name, or package.module:Class")
    if path not in allow:
        raise ConfigError(f"a class from outside metarl is only imported if the command line has --allow {path}")
    module_name, class_name = match.groups()
    safe_path.look_here_too(module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"cannot import {module_name} ({error}); is its folder on PYTHONPATH?") from error
    if not hasattr(module, class_name):
        raise ConfigError(
            f"module {module_name} ({getattr(module, '__file__', None) or 'built in'}) has no class {class_name}"
        )
    cls = getattr(module, class_name)
    if not (inspect.isclass(cls) and _is_concrete(cls, package)):
        raise ConfigError(f"expected a concrete {_base_name(package)} with a config_class")
    return cls


def _is_concrete(cls: type, package: Package) -> bool:
    bases = {f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__}
    return _BASE[package] in bases and hasattr(cls, "config_class") and not inspect.isabstract(cls)


def _base_name(package: Package) -> str:
    return _BASE[package].rpartition(".")[2]


def _sources(package: Package) -> dict[str, Path]:
    """Module name → source file of what can be named in a package; neither is imported."""
    found: dict[str, Path] = {}
    for info in pkgutil.iter_modules(_folders(f"metarl.{package}")):
        spec = info.module_finder.find_spec(info.name, None)
        if not info.name.startswith("_") and spec is not None and spec.origin and spec.origin.endswith(".py"):
            found[info.name] = Path(spec.origin)
    return found


def _folders(package: str) -> Sequence[str]:
    """Where a package's modules lie, also while it is not imported yet."""
    if package in sys.modules:
        return list(sys.modules[package].__path__)
    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or ()) if spec else []
