"""No source of ours runs code from data, uses a shell, downloads, listens on a network, or forks.

The syntax tree is looked at, so that another name (``import pickle as p``) hides nothing, and a comment is no offence.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from source_names import imported_as, qualified

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("metarl", "envs", "agents", "docs/examples")
SOURCES = [ROOT / "train.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]

PICKLES = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "jsonpickle", "marshal")
BANNED_CALLS = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "runpy.run_path"),
    *(f"{module}.{name}" for module in PICKLES for name in ("load", "loads", "Unpickler")),
    *("shelve.open", "pandas.read_pickle", "torch.load", "torch.hub.load", "torch.jit.load", "torch.package"),
    *("numpy.load", "np.load", "numpy.fromfile", "torch.distributed.checkpoint.load"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load_all"),
    *("omegaconf.OmegaConf.load", "omegaconf.OmegaConf.resolve", "omegaconf.OmegaConf.register_new_resolver"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "os.fork", "os.forkpty"),
    *("pty.fork", "pty.spawn", "tempfile.mktemp", "tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive"),
    *("urllib.request.urlopen", "urllib.request.urlretrieve", "requests.get", "requests.post"),
    *("torch.hub.load_state_dict_from_url", "socket.create_server", "multiprocessing.connection.Listener"),
}
BANNED_IMPORTS = {"shelve", "dill", "cloudpickle", "joblib", "marshal", "imp", "telnetlib", "ftplib", "http.server"}
BANNED_IMPORTS |= {"socketserver", "xmlrpc.server", "multiprocessing.managers", "xml.etree.ElementTree"}
BANNED_KEYWORDS = {"shell": True, "allow_pickle": True, "weights_only": False}
# file, call → why it may be there.
ALLOWED = {
    ("metarl/sampling/executors/codec.py", "pickle.loads"): "bytes between a process and its own workers, over a pipe "
    "that nobody else has; never a file, never a network",
}


def offences(path: str, module: ast.Module) -> list[str]:
    """What a module does that none of ours may do, with its line."""
    names, found = imported_as(module), []
    for node in ast.walk(module):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            taken = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                taken = [f"{node.module}.{name}" for name in taken] + [node.module or ""]
            banned = (set(taken) & (BANNED_IMPORTS | BANNED_CALLS)) - {call for place, call in ALLOWED if place == path}
            found += [f"{path}:{line} imports {name}" for name in sorted(banned)]
        if isinstance(node, ast.Call):
            called = qualified(node.func, names)
            if called in BANNED_CALLS and (path, called) not in ALLOWED:
                found.append(f"{path}:{line} calls {called}")
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "something"
                if keyword.arg in BANNED_KEYWORDS and value in (BANNED_KEYWORDS[keyword.arg], "something"):
                    found.append(f"{path}:{line} passes {keyword.arg}={value}")
            texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if called.rpartition(".")[2] in ("get_context", "set_start_method") and (not texts or "fork" in texts):
                found.append(f"{path}:{line} forks")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_does_what_none_may_do(path: Path) -> None:
    assert offences(str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_sources_are_found_and_every_exception_is_needed() -> None:
    assert len(SOURCES) > 150
    for path, call in ALLOWED:
        module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.Call) and qualified(node.func) == call for node in ast.walk(module))


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import pickle as p\np.loads(b'')", "calls pickle.loads"),
        ("from pickle import loads as read\nread(b'')", "imports pickle.loads"),
        ("from torch import load as read\nread('x')", "imports torch.load"),
        ("import torch\ntorch.load('x', weights_only=True)", "calls torch.load"),
        ("import torch\nf(weights_only=False)", "passes weights_only=False"),
        ("import yaml\nyaml.load(x, Loader=yaml.Loader)", "calls yaml.load"),
        ("import yaml as y\ny.full_load(x)", "calls yaml.full_load"),
        ("from omegaconf import OmegaConf\nOmegaConf.resolve(x)", "calls omegaconf.OmegaConf.resolve"),
        ("eval('1')", "calls eval"),
        ("import numpy\nnumpy.loadtxt(x, allow_pickle=True)", "passes allow_pickle=True"),
        ("import subprocess\nsubprocess.run('x', shell=True)", "passes shell=True"),
        ("import subprocess\nsubprocess.run('x', shell=flag)", "passes shell=something"),
        ("import os\nos.system('x')", "calls os.system"),
        ("import shelve", "imports shelve"),
        ("from cloudpickle import dumps", "imports cloudpickle"),
        ("import tempfile as t\nt.mktemp()", "calls tempfile.mktemp"),
        ("import multiprocessing\nmultiprocessing.get_context('fork')", "forks"),
        ("import multiprocessing\nmultiprocessing.get_context()", "forks"),
        ("import multiprocessing as m\nm.set_start_method('fork')", "forks"),
        ("from urllib.request import urlopen", "imports urllib.request.urlopen"),
    ],
)
def test_what_is_banned_is_found_under_any_name(code: str, complaint: str) -> None:
    assert any(complaint in found for found in offences("metarl/types.py", ast.parse(code)))


def test_what_is_fine_is_no_offence() -> None:
    code = "# pickle.loads\nimport subprocess\nsubprocess.run(['x'], shell=False)\nmodel.eval()\n'eval(x)'"
    assert offences("metarl/types.py", ast.parse(code)) == []


def test_torch_is_new_enough_to_be_safe_with_weights() -> None:
    """Older versions run code from files even with weights_only (CVE-2025-32434, CVE-2026-24747)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "torch>=2.10" in project["dependencies"]
    pinned = re.search(r"^torch==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None and (int(pinned[1]), int(pinned[2])) >= (2, 10)


def test_no_workflow_upgrades_by_itself() -> None:
    """What is installed for tests are the versions of constraints.txt."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if "pip install" in line]
    assert installs and all("--constraint constraints.txt" in line for line in installs)
