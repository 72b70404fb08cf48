"""``metarl export``: what it prints and writes, and what it refuses before it writes anything."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

import metarl
from metarl.api.export import check, exporting, numpy_file
from metarl.cli import commands

pytestmark = pytest.mark.usefixtures("one_torch_thread")
MEMORY = ["agent.name=rl2_ppo", "agent.memory=transformer", "agent.memory_size=8", "agent.episodes_per_trial=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.train(tmp_path_factory.mktemp("gradients"), "iterations=1", "eval.every=null")


@pytest.fixture(scope="module")
def policy(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent = metarl.load(run)
    adapted = agent.adapt(agent.make_env(), steps=1, episodes=2, seed=0)
    return adapted.save(tmp_path_factory.mktemp("policies") / "adapted")


@pytest.fixture(scope="module")
def memory_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("memory")
    kept = [word for word in tiny_runs.overrides(root) if not word.startswith(("agent.", "eval.", "iterations"))]
    words = ["train", tiny_runs.POINT, *kept, *MEMORY, "agent.minibatches=1", "iterations=1", "eval.every=null"]
    assert tiny_runs.metarl(*words, "eval.num_tasks=2", "eval.score_episodes=1") == 0
    return tiny_runs.only_run(root)


def test_the_files_are_where_it_says_with_their_differences_and_times(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "robot"
    assert tiny_runs.metarl("export", policy, "--format", "numpy", "pt2", "numpy", "--out", out) == 0
    printed, errors = capsys.readouterr()
    head, first, second, itself, note = printed.splitlines()
    assert re.split(r"  +", head) == ["file", "largest difference", "µs per action"]
    for line, name in ((first, "policy.py"), (second, "policy.pt2")):
        path, largest, took = line.split()
        assert (path, float(largest) <= check.TOLERANCE, float(took) > 0) == (str(out / name), True, True)
    assert re.fullmatch(r"the policy itself +– +\d+", itself.strip())
    assert note.startswith(f"{out / 'policy.json'} describes them; differences of actions are in units of action_scale")
    assert "Traceback" not in errors and {path.name for path in out.iterdir()} == {
        "policy.py",
        "policy.pt2",
        "policy.json",
    }
    described = json.loads((out / "policy.json").read_text())
    assert {name: entry["file"] for name, entry in described["files"].items()} == {
        "numpy": "policy.py",
        "pt2": "policy.pt2",
    }


def test_a_run_with_a_memory_is_exported_as_it_begins_a_trial(
    memory_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_runs.metarl("export", memory_run, "--format", "numpy") == 0
    assert str(memory_run / "exported" / "policy.py") in capsys.readouterr().out
    robot, policy = numpy_file.load(memory_run / "exported" / "policy.py"), metarl.load(memory_run).before()
    for number in range(30):
        obs = np.full(2, 0.1 * number)
        assert np.allclose(robot(obs), policy(obs), rtol=0, atol=1e-6)
        for each in (robot, policy):
            each.observe(obs, -0.1 * number, False, number % 10 == 9)
    described = json.loads((memory_run / "exported" / "policy.json").read_text())
    assert described["start"] == described["empty"] and described["horizon"] == 10


def test_a_run_that_adapts_by_gradients_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tiny_runs.tree(run)
    assert tiny_runs.metarl("export", run, "--format", "numpy") == 2
    errors = capsys.readouterr().err
    assert "expected a policy that has adapted, as policy.save writes it, got a run: its agent, maml_trpo" in errors
    assert tiny_runs.tree(run) == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--format", "onx"], 2, "invalid choice: 'onx' (choose from"),
        (["--format"], 2, "expected at least one argument"),
        (["--formt", "numpy"], 2, "unrecognized arguments: --formt numpy"),
        (["--format", "numpy", "--out", "taken"], 6, "there is something already; choose another place"),
        (["--format", "numpy", "--out", "file/robot"], 6, "cannot write file/robot"),
    ],
)
def test_what_cannot_be_done_is_refused(
    words: list[str], code: int, message: str, policy: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("file").touch()
    before = tiny_runs.tree(policy)
    assert tiny_runs.metarl("export", policy, *words) == code
    printed, errors = capsys.readouterr()
    assert printed == "" and message in errors and "Traceback" not in errors
    assert tiny_runs.tree(policy) == before and {*tiny_runs.tree(tmp_path)} == {"taken", "file"}


def test_a_policy_that_is_not_there_or_is_damaged_is_code_3(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_runs.metarl("export", tmp_path / "nothing", "--format", "numpy") == 3
    assert "expected policy.json and tensors.safetensors" in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in policy.iterdir():
        if path.is_file():
            (damaged / path.name).write_bytes(path.read_bytes().replace(b"maml_trpo", b"maml_trpx"))
    assert tiny_runs.metarl("export", damaged, "--format", "numpy") == 3
    assert "damaged or changed" in capsys.readouterr().err and not (damaged / "exported").exists()


def test_without_the_extra_it_says_what_to_install_before_anything_else(
    policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is where only metarl is installed; without --format there is ONNX among the files."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    before = tiny_runs.tree(policy)
    for path in (policy, policy / "nothing"):
        assert tiny_runs.metarl("export", path) == 2
        errors = capsys.readouterr().err
        assert "onnxruntime" in errors and "pip install 'metarl[export]', or take numpy and pt2" in errors
    assert tiny_runs.tree(policy) == before


def test_a_file_that_acts_otherwise_is_code_4_and_nothing_is_left(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = numpy_file.text
    monkeypatch.setattr(
        numpy_file, "text", lambda described: text(described).replace("clip(-1.0, 1.0)", "clip(0.0, 1.0)")
    )
    assert tiny_runs.metarl("export", policy, "--format", "numpy", "--out", tmp_path / "robot") == 4
    assert (
        "policy.py: expected the policy's actions but for 1e-05 · action_scale, they differ" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_the_command_offers_what_there_is() -> None:
    assert commands.FORMATS == exporting.FORMATS
