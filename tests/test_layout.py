"""The shape of the source: which way imports point, what is never called, and what every file has."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import metarl.agents
import metarl.checks
import metarl.configs
import metarl.envs
import metarl.memories
import metarl.studies
from metarl import config

CORE = (metarl, metarl.checks, metarl.memories, metarl.studies)
PACKAGES = {module.__name__: Path(module.__file__).parent for module in (*CORE, metarl.envs, metarl.agents)}
SOURCES = {
    f"{package}.{path.stem}": path for package, folder in PACKAGES.items() for path in sorted(folder.glob("*.py"))
}
CONFIGS = sorted(Path(metarl.configs.__file__).parent.glob("*.yaml"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# The part of the core that an agent has no business with, and what it reaches through no library either.
NOT_FOR_AGENTS = [
    *(f"metarl.{name}" for name in ("envs", "tasks", "mujoco_batch", "rollout", "sampler", "executors", "worker")),
    *(f"metarl.{name}" for name in ("evaluation", "experiment", "trainer", "logger", "wandb_sink", "config", "cli")),
    *("gymnasium", "mujoco", "metaworld", "wandb"),
]
NOT_FOR_ENVS = [
    "metarl.agents",
    "metarl.agent",
    "metarl.policies",
    "metarl.sampler",
    "metarl.trainer",
    "torch",
    "wandb",
]

BANNED_CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *(
        f"{module}.{name}"
        for module in ("pickle", "marshal", "dill", "cloudpickle", "joblib")
        for name in ("load", "loads")
    ),
    *("pickle.Unpickler", "shelve.open", "torch.load", "numpy.load", "np.load", "torch.hub.load"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("os.system", "os.popen", "os.fork", "os.forkpty", "pty.fork"),
    *("torch.manual_seed", "torch.seed", "torch.rand", "torch.randint", "torch.randperm", "torch.set_rng_state"),
}
ALLOWED_CALLS = {("metarl.worker", "pickle.loads")}  # bytes between a process and its own workers, never a file
GLOBAL_NUMPY = re.compile(r"(np|numpy)\.random\.(?!Generator$|PCG64$|SeedSequence$|default_rng$|bit_generator$)\w+")


def tree(name: str) -> ast.Module:
    return ast.parse(SOURCES[name].read_text(encoding="utf-8"))


def imports(name: str) -> Iterator[tuple[str, int, bool]]:
    """(absolute name, line, was it written relatively) of everything that a module imports, wherever in the file."""
    package = name.rpartition(".")[0]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (package if node.level else "", node.module or "") if part)
            assert node.level < 2, f"{SOURCES[name]}:{node.lineno} imports from above its package"
            yield from ((f"{base}.{alias.name}", node.lineno, node.level > 0) for alias in node.names)


def starts_with(name: str, prefixes: list[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def offences(package: str, forbidden: list[str]) -> list[str]:
    return [
        f"{SOURCES[name]}:{line} imports {imported}"
        for name in SOURCES
        if name.rpartition(".")[0] == package
        for imported, line, _ in imports(name)
        if starts_with(imported, forbidden)
    ]


def qualified(node: ast.expr) -> str:
    """``a.b.c`` of a name or an attribute of one; empty for anything else."""
    if isinstance(node, ast.Attribute):
        base = qualified(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def test_the_sources_are_found() -> None:
    """Otherwise everything below would pass on nothing."""
    assert {"metarl.rollout", "metarl.cli", "metarl.envs.point", "metarl.agents.maml_trpo"} <= SOURCES.keys()
    folders = {path.parent for path in Path(metarl.__file__).parent.glob("*/__init__.py")}
    assert folders <= set(PACKAGES.values()) | {CONFIGS[0].parent}
    assert len(CONFIGS) >= 4


def test_the_core_imports_neither_environments_nor_agents() -> None:
    families = ["metarl.envs", "metarl.agents", "metarl.configs", "envs", "agents", "configs"]
    assert [found for package in CORE for found in offences(package.__name__, families)] == []


def test_agents_never_see_environments_samplers_or_loggers() -> None:
    assert offences("metarl.agents", NOT_FOR_AGENTS) == []


def test_environments_never_see_learners() -> None:
    assert offences("metarl.envs", NOT_FOR_ENVS) == []


@pytest.mark.parametrize("package", ["metarl.envs", "metarl.agents"])
def test_siblings_are_imported_relatively_and_the_core_absolutely(package: str) -> None:
    """``import envs`` would make a second copy of a module, with other classes."""
    assert offences(package, ["envs", "agents", "configs"]) == []
    for name in SOURCES:
        if name.rpartition(".")[0] == package:
            for imported, line, relative in imports(name):
                assert relative == starts_with(imported, [package]), f"{SOURCES[name]}:{line} {imported}"


def test_the_core_imports_itself_absolutely() -> None:
    core = [name for name in SOURCES if name.rpartition(".")[0] in {package.__name__ for package in CORE}]
    relative = [found for name in core for found in imports(name) if found[2]]
    assert relative == []


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_banned_is_called(name: str) -> None:
    """Calls that run code from data, use a shell or a global generator, or fork."""
    for node in ast.walk(tree(name)):
        place = f"{SOURCES[name]}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute | ast.Name):
            assert not GLOBAL_NUMPY.fullmatch(qualified(node)), f"{place} uses numpy's global generator"
        if isinstance(node, ast.Call):
            called = qualified(node.func)
            assert called not in BANNED_CALLS or (name, called) in ALLOWED_CALLS, f"{place} calls {called}"
            if called in ("torch.randn", "torch.normal"):
                assert any(keyword.arg == "generator" for keyword in node.keywords), f"{place} has no generator"
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                assert off or keyword.arg not in ("shell", "allow_pickle"), f"{place} passes {keyword.arg}"
            arguments = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            starts = called.rpartition(".")[2] in ("get_context", "set_start_method")
            assert not (starts and "fork" in arguments), f"{place} forks"
        if isinstance(node, ast.ImportFrom):
            hidden = {f"{node.module}.{alias.name}" for alias in node.names} & BANNED_CALLS
            assert not hidden, f"{place} imports {hidden} by name"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{place} is a bare except"


def documented_nodes(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("name", SOURCES)
def test_everything_public_is_documented(name: str) -> None:
    """Modules, functions and classes by their own docstring; a method may inherit that of the method it overrides."""
    module = tree(name)
    assert ast.get_docstring(module) or (SOURCES[name].name == "__init__.py" and not module.body), name
    for node in documented_nodes(module.body):
        assert ast.get_docstring(node), f"{SOURCES[name]}:{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef):
            cls = getattr(importlib.import_module(name.removesuffix(".__init__")), node.name)
            for method in documented_nodes(node.body):
                docs = [vars(base)[method.name].__doc__ for base in cls.__mro__ if method.name in vars(base)]
                described = any((doc or "").strip() for doc in docs)
                assert described, f"{SOURCES[name]}:{method.lineno} {node.name}.{method.name}"


@pytest.mark.parametrize("name", SOURCES)
def test_files_and_functions_are_short(name: str) -> None:
    text = SOURCES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) < MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length < MAX_FUNCTION_LINES, f"{SOURCES[name]}:{node.lineno} {node.name}: {length} lines"


@pytest.mark.parametrize("path", [*SOURCES.values(), *CONFIGS], ids=lambda path: path.stem)
def test_nothing_is_left_to_do_and_no_machine_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    assert not re.search(r"/(home|root|Users|work|mnt)/", text)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_is_explained_and_loads(path: Path) -> None:
    """Its first line says what it is; its name is made of its agent and its task; it loads without a notice."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert sum("#" in line for line in lines) >= 3
    loaded = config.load(path.stem)
    assert loaded.name == path.stem
    assert loaded.notices == []
    agent, task = loaded.config.agent.name, loaded.config.task.name
    env_id = getattr(loaded.config.task, "env_id", task).partition("-")[0].lower()  # CartPole-v1 as cartpole
    assert path.stem.startswith(f"{agent}_")
    assert any(name in path.stem.removeprefix(f"{agent}_") for name in (task, env_id))


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    path = [str(Path(metarl.__file__).parent.parent), *filter(None, sys.path)]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path += {path!r}; {code}"], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("module", ["metarl.envs.point", "metarl.envs.half_cheetah_dir", "metarl.config"])
def test_configurations_and_tasks_load_without_torch_and_mujoco(module: str) -> None:
    """A wrong configuration is refused at once, and tasks are of use without a learner."""
    loaded = modules_after(f"import {module}")
    assert "metarl" in loaded
    assert loaded & {"torch", "mujoco", "wandb", "matplotlib"} == set()
