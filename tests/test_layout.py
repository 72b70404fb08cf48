"""The shape of the source: which way imports point, what is never called, and what every file has."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from source_names import imported_as, qualified

import metarl
import metarl.agents
import metarl.configs
import metarl.envs
from metarl.config import loading

ROOTS = {module.__name__: Path(module.__file__).parent for module in (metarl, metarl.envs, metarl.agents)}


def module_name(root: str, path: Path) -> str:
    """``metarl.nn.mlp`` of a file; a package's name for its ``__init__.py``."""
    parts = path.relative_to(ROOTS[root]).with_suffix("").parts
    return ".".join([root, *(part for part in parts if part != "__init__")])


SOURCES = {
    module_name(root, path): path
    for root, folder in ROOTS.items()
    for path in sorted(folder.rglob("*.py"))
    if root != "metarl" or path.relative_to(folder).parts[0] not in ("envs", "agents", "configs")  # installed within
}
CONFIGS = sorted(Path(metarl.configs.__file__).parent.glob("*.yaml"))
LONG_FILE, LONG_FUNCTION = 400, 60  # lines at which a reader would be glad of a split

# The order of the layers: what each folder of the core may import beside itself. See docs/architecture.md.
VOCABULARY = {
    *("errors", "faults", "parallel", "ranks", "run_files", "safe_path", "seeding", "spaces", "statistics", "storage"),
    *("finite", "surroundings", "types", "version", "visible", "wire"),
}
BASE = {"vocabulary", "config"}
LAYERS = {
    "vocabulary": set(),
    "config": {"vocabulary"},
    "tasks": BASE,
    "nn": BASE,
    "monitor": BASE,
    "agent": BASE | {"nn"},
    "sampling": BASE | {"tasks", "nn", "agent"},
    "learning": BASE | {"nn", "agent"},
    "report": BASE | {"monitor"},
    "run": BASE | {"tasks", "nn", "monitor", "agent", "sampling", "learning", "report"},
    "studies": BASE | {"tasks", "nn", "monitor", "report", "run"},
    "bench": BASE | {"tasks", "nn", "agent", "sampling", "learning", "run"},
    "api": BASE | {"tasks", "nn", "monitor", "agent", "sampling", "run"},
    "cli": BASE | {"tasks", "monitor", "sampling", "report", "run", "studies", "bench", "api"},
    "agents": BASE | {"nn", "learning", "agent"},
    "envs": BASE | {"tasks"},
}
DOORS = {"metarl", "metarl.__main__"}  # lazy names for users, and the command; nothing inside imports them
FORMER = {"metarl.schema", "metarl.loop_env", "metarl.mujoco_batch"}  # former places, for one release
# Libraries that a layer has no business with.
LIBRARIES = {
    "agents": {"gymnasium", "mujoco", "metaworld", "wandb"},
    "learning": {"gymnasium", "mujoco", "metaworld", "wandb"},
    "nn": {"gymnasium", "mujoco", "metaworld", "wandb"},
    "envs": {"torch", "wandb"},
    "tasks": {"torch", "wandb"},
    "config": {"gymnasium", "mujoco", "metaworld", "wandb"},
}

# What runs code, uses a shell or forks is refused in tests/security/test_source_gate.py.
BANNED_CALLS = {
    *("torch.rand_like", "torch.randn_like", "torch.randint_like", "torch.poisson"),  # which take no generator
    *("torch.manual_seed", "torch.seed", "torch.rand", "torch.randint", "torch.randperm", "torch.set_rng_state"),
}
DRAWING = {  # functions and methods of tensors that draw from torch's global generator, if they are not given another
    *("normal_", "uniform_", "exponential_", "bernoulli_", "cauchy_", "geometric_", "log_normal_", "random_"),
    *("bernoulli", "multinomial"),
}
IMPORTS_BY_NAME = {  # what they import is found by listing a folder, chosen by a user, or optional
    *("metarl", "metarl.config.lookup", "metarl.studies", "metarl.surroundings", "metarl.envs._gymnasium_ids"),
}
GLOBAL_NUMPY = re.compile(
    r"(np|numpy)\.random\.(?!Generator$|PCG64$|SeedSequence$|RandomState$|default_rng$|bit_generator$)\w+"
)


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(SOURCES[name].read_text(encoding="utf-8"))


def package_of(name: str) -> str:
    return name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]


def imports(name: str) -> list[tuple[str, int, bool]]:
    """(absolute name, line, was it written relatively) of everything that a module imports, wherever in the file."""
    return imports_in(tree(name), name)


@cache
def imports_in(module: ast.Module, name: str) -> list[tuple[str, int, bool]]:
    found: list[tuple[str, int, bool]] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (package_of(name) if node.level else "", node.module or "") if part)
            assert node.level < 2, f"{SOURCES[name]}:{node.lineno} imports from above its package"
            found += [(f"{base}.{alias.name}", node.lineno, node.level > 0) for alias in node.names]
        elif isinstance(node, ast.Attribute) and qualified(node).startswith("metarl."):  # the door imports it then
            found.append((qualified(node), node.lineno, False))
    return found


def module_of(imported: str) -> str | None:
    """The module of ours that an imported name is, or is taken from."""
    return next((name for name in (imported, imported.rpartition(".")[0]) if name in SOURCES), None)


def layer_of(name: str) -> str:
    """The folder below metarl, ``agents`` and ``envs`` among them; ``vocabulary`` for what lies in metarl itself."""
    part = (name + ".").split(".")[1]
    return "vocabulary" if part in VOCABULARY else part


def arrows() -> Iterator[tuple[str, str, int]]:
    """(importer, imported, line) between modules of ours, imports inside functions included."""
    for name in SOURCES:
        for imported, line, _ in imports(name):
            target = module_of(imported)
            if target is not None:
                yield name, target, line


def test_the_sources_are_found() -> None:
    """Otherwise everything below would pass on nothing."""
    assert {"metarl.sampling.rollout", "metarl.cli", "metarl.envs.point", "metarl.agents.maml_trpo"} <= SOURCES.keys()
    assert len(SOURCES) > 120 and len(list(arrows())) > 300
    assert len(CONFIGS) >= 4
    assert {layer_of(name) for name in SOURCES.keys() - DOORS - FORMER} == LAYERS.keys()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_sees_only_what_lies_below_it(layer: str) -> None:
    allowed = LAYERS[layer] | {layer}
    wrong = [
        f"{SOURCES[importer]}:{line} imports {imported}"
        for importer, imported, line in arrows()
        if importer not in DOORS | FORMER and layer_of(importer) == layer
        if imported in DOORS | FORMER or layer_of(imported) not in allowed
    ]
    assert wrong == []


def test_the_table_of_layers_in_the_docs_is_this_one() -> None:
    page = (ROOTS["metarl"].parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([\w, –]+) \|$", page.partition("| layer | sees |")[2].partition("\n\n")[0], re.M)
    assert {layer: set(seen.split(", ")) - {"–"} for layer, seen in rows} == LAYERS


def test_the_files_to_follow_how_maml_trpo_learns_lead_to_no_others() -> None:
    """But for pure functions, of which the page says so, and the protocol of what is read."""
    page = (ROOTS["metarl"].parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(\.\./([\w/]+)\.py\)", page.partition("## To follow")[2].partition("\n## ")[0])
    read = {f"metarl.{path.removeprefix('metarl/')}".replace("/", ".") for path in linked}
    needed = {to for name, to, _ in arrows() if name in read and layer_of(to) in ("learning", "agents")}
    pure = {f"metarl.learning.{name}" for name in ("baselines", "returns")}
    assert read <= SOURCES.keys() and needed - read == pure | {"metarl.learning.adaptation.interface"}


def test_layers_have_an_order() -> None:
    """What a layer may see, and what that may see, never leads back to it."""
    seen: dict[str, set[str]] = {}
    for layer, below in LAYERS.items():  # listed from the bottom up
        assert below <= seen.keys(), layer
        seen[layer] = set.union(below, *(seen[other] for other in below))
        assert layer not in seen[layer]


@pytest.mark.parametrize("layer", ["agents", "envs"])
def test_agents_and_families_take_nothing_of_the_configuration_but_its_schema(layer: str) -> None:
    taken = {imported for name, imported, _ in arrows() if layer_of(name) == layer and ".config" in imported}
    assert taken == {"metarl.config.schema"}


def test_no_import_goes_in_a_circle() -> None:
    """Modules are taken away whose imports are all taken away; what is left in the end is in a circle, or above one."""
    left = {name: set() for name in SOURCES.keys() - {"metarl"}}
    for importer, imported, _ in arrows():
        if "metarl" not in (importer, imported):
            left[importer].add(imported)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert {name: sorted(needs & left.keys()) for name, needs in left.items()} == {}


NOTICE_HALF_MADE = """
import importlib._bootstrap
import sys

def noted(name, real=importlib._bootstrap._lock_unlock_module):  # called for a module that is found half-made
    asking = sys._getframe(1).f_globals.get("__name__", "")
    own = f"{asking}.".startswith(f"{name}.")  # a package gathers its own modules
    if name.startswith(("metarl.", "half_made")) and not own:
        print(asking, "meets", name)
    return real(name)

importlib._bootstrap._lock_unlock_module = noted
"""


def test_no_module_is_met_half_made() -> None:
    """The same as it happens, imports by name in functions included: none reaches a module that is still being made."""
    code = """
import metarl.envs
from metarl.config import lookup
for package, find in (("envs", lookup.task_distribution), ("agents", lookup.agent)):
    for name in lookup.available(package):
        find(name)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
    modules = sorted(SOURCES.keys() - DOORS - FORMER)
    assert run_python(f"import importlib{NOTICE_HALF_MADE}{code}", *modules) == ""


def test_a_module_that_is_met_half_made_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "half_made_a.py").write_text("import half_made_b")
    (tmp_path / "half_made_b.py").write_text("import half_made_a")
    code = f"sys.path.append({str(tmp_path)!r}); import half_made_a"
    assert run_python(f"{NOTICE_HALF_MADE}{code}") == "half_made_b meets half_made_a\n"


def run_python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter that finds metarl."""
    environment = {**os.environ, "PYTHONPATH": str(ROOTS["metarl"].parent)}
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("layer", LIBRARIES)
def test_a_layer_stays_away_from_libraries_that_are_not_its_business(layer: str) -> None:
    wrong = [
        f"{SOURCES[name]}:{line} imports {imported}"
        for name in SOURCES.keys() - DOORS - FORMER
        if layer_of(name) == layer
        for imported, line, _ in imports(name)
        if imported.partition(".")[0] in LIBRARIES[layer]
    ]
    assert wrong == []


def test_the_door_has_lazy_names_only() -> None:
    """Whoever imports metarl gets none of its modules, until one is asked for."""
    code = """
import sys, metarl
print(*sorted(name for name in sys.modules if name.startswith("metarl")))
print(*dir(metarl))
print(metarl.tasks.TaskDistribution.__name__, metarl.errors.ConfigError.exit_code)
"""
    loaded, offered, used = run_python(code).splitlines()
    assert loaded == "metarl metarl.version"
    offers = "Adaptation AdaptedPolicy MetaWorldAgent Notice Run TrainedAgent __version__ agent agents envs errors load"
    assert offered == f"{offers} load_policy record tasks train types"
    assert used == "TaskDistribution 2"
    with pytest.raises(AttributeError, match="module 'metarl' has no attribute 'task'; it has Adaptation"):
        _ = metarl.task


def test_the_version_is_told_at_once() -> None:
    """Within a tenth of a second on an idle machine: nothing heavy is imported."""
    code = """
import sys
from metarl.cli import main
try:
    main(["--version"])
finally:
    print(*sys.modules)
"""
    version, loaded = run_python(code + "\n").splitlines()[:2]
    assert version.startswith("metarl 0.") and "metarl.cli" in loaded.split()
    assert set(loaded.split()) & {"torch", "numpy", "gymnasium", "pydantic", "omegaconf", "rich"} == set()


def test_the_core_names_neither_a_family_nor_an_agent() -> None:
    assert [
        a for a in arrows() if layer_of(a[1]) in ("envs", "agents") and layer_of(a[0]) not in ("envs", "agents")
    ] == []


@pytest.mark.parametrize("package", ["metarl.envs", "metarl.agents"])
def test_siblings_are_imported_relatively_and_the_core_absolutely(package: str) -> None:
    """``import envs`` would make a second copy of a module, with other classes."""
    for name in SOURCES:
        if package_of(name) == package:
            for imported, line, relative in imports(name):
                assert imported.partition(".")[0] not in ("envs", "agents", "configs"), f"{SOURCES[name]}:{line}"
                assert relative == imported.startswith(f"{package}."), f"{SOURCES[name]}:{line} {imported}"


def test_the_core_imports_itself_absolutely() -> None:
    core = [name for name in SOURCES if layer_of(name) not in ("envs", "agents")]
    assert [found for name in core for found in imports(name) if found[2]] == []


@pytest.mark.parametrize(
    ("former", "now"),
    [("schema", "config.schema"), ("loop_env", "tasks.loop_env"), ("mujoco_batch", "tasks.mujoco_batch")],
)
def test_former_places_lead_to_the_new_ones_and_say_so(former: str, now: str) -> None:
    sys.modules.pop(f"metarl.{former}", None)
    with pytest.warns(DeprecationWarning, match=rf"metarl\.{former} is metarl\.{now} now"):
        old = importlib.import_module(f"metarl.{former}")
    new = importlib.import_module(f"metarl.{now}")
    public = {name for name, value in vars(new).items() if getattr(value, "__module__", "") == new.__name__}
    assert public and all(getattr(old, name) is getattr(new, name) for name in public if not name.startswith("_"))


@pytest.mark.parametrize(
    "code",
    [
        "from metarl import sampling",
        "import metarl.types\nuse = metarl.sampling.trial",
        "if TYPE_CHECKING:\n    from metarl.sampling.trial import TrainingTrial",
        "def late():\n    import metarl.sampling.trial as own",
        "import metarl",
    ],
)
def test_a_forbidden_import_is_found_however_it_is_written(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "tree", lambda name: ast.parse(code if name == "metarl.nn.mlp" else ""))
    with pytest.raises(AssertionError, match="imports metarl"):
        test_a_layer_sees_only_what_lies_below_it("nn")


def test_modules_are_imported_by_a_computed_name_in_few_places() -> None:
    """Such an import can be seen in no table of layers."""
    found = set()
    for name in SOURCES:
        module = tree(name)
        names = imported_as(module)
        used = {qualified(node, names) for node in ast.walk(module) if isinstance(node, ast.Attribute | ast.Name)}
        if used & {"importlib.import_module", "importlib.__import__", "pkgutil.resolve_name", "runpy.run_module"}:
            found.add(name)
    assert found == IMPORTS_BY_NAME


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_banned_is_called(name: str) -> None:
    refuse_what_is_banned(name, tree(name))


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("from torch import rand as draw\ndraw(3)", "imports .*torch.rand"),
        ("import numpy.random as r\nr.rand()", "numpy's global generator"),
        ("from numpy import random\nrandom.shuffle([])", "numpy's global generator"),
        ("from numpy.random import rand", "numpy's global generator"),
        ("import random", "the global generator of random"),
        ("from random import choice", "the global generator of random"),
        ("import torch\ntorch.zeros(3).normal_()", "has no generator"),
        ("import torch\ntorch.multinomial(torch.ones(3), 1)", "has no generator"),
        ("import torch\ntorch.randn_like(torch.ones(3))", "calls torch.randn_like"),
        ("try:\n    pass\nexcept:\n    pass", "bare except"),
    ],
)
def test_what_is_banned_is_found_under_any_name(code: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        refuse_what_is_banned("metarl.types", ast.parse(code))


def refuse_what_is_banned(name: str, module: ast.Module) -> None:
    """No calls that draw from a global generator, in whatever name they come."""
    names = imported_as(module)
    for node in ast.walk(module):
        place = f"{SOURCES[name]}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute | ast.Name):
            assert not GLOBAL_NUMPY.fullmatch(qualified(node, names)), f"{place} uses numpy's global generator"
        if isinstance(node, ast.Import | ast.ImportFrom):
            taken = [alias.name for alias in node.names]
            from_module = node.module if isinstance(node, ast.ImportFrom) else None
            assert "random" not in ([from_module] if from_module else taken), f"{place}: the global generator of random"
            assert not any(GLOBAL_NUMPY.fullmatch(f"{from_module}.{part}") for part in taken), (
                f"{place} uses numpy's global generator"
            )
        if isinstance(node, ast.Call):
            called = qualified(node.func, names)
            assert called not in BANNED_CALLS, f"{place} calls {called}"
            method = node.func.attr if isinstance(node.func, ast.Attribute) else called.rpartition(".")[2]
            if called in ("torch.randn", "torch.normal") or method in DRAWING:
                assert any(keyword.arg == "generator" for keyword in node.keywords), f"{place} has no generator"
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
            cls = getattr(importlib.import_module(name), node.name)
            for method in documented_nodes(node.body):
                docs = [vars(base)[method.name].__doc__ for base in cls.__mro__ if method.name in vars(base)]
                described = any((doc or "").strip() for doc in docs)
                assert described, f"{SOURCES[name]}:{method.lineno} {node.name}.{method.name}"


def test_long_files_and_functions_are_pointed_out() -> None:
    """A warning, not an error: a split that makes a circle of imports costs more than it gives."""
    for name, path in SOURCES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONG_FILE:
            warnings.warn(f"{path.name}: {lines} lines", stacklevel=1)
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONG_FUNCTION:
                    warnings.warn(f"{path.name}:{node.lineno} {node.name}: {length} lines", stacklevel=1)


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
    loaded = loading.load(path.stem)
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


@pytest.mark.parametrize("module", ["metarl.envs.point", "metarl.envs.half_cheetah_dir", "metarl.config.loading"])
def test_configurations_and_tasks_load_without_torch_and_mujoco(module: str) -> None:
    """A wrong configuration is refused at once, and tasks are of use without a learner."""
    loaded = modules_after(f"import {module}")
    assert "metarl" in loaded
    assert loaded & {"torch", "mujoco", "wandb", "matplotlib"} == set()
