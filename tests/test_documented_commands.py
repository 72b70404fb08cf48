"""Every command of README and docs, run at reduced size, and the Python of the page on videos.

What other files run: shipped configurations as they stand (tests/tasks/test_families.py), the examples and the pages
on trained agents and on one's own (tests/examples), grids and Slurm (tests/studies).
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
from documented import ROOT, SMALL, blocks, commands, is_trained_elsewhere, metarl_arguments, metarl_commands, reduced

import metarl
from metarl import cli
from metarl.bench import metaworld

pytestmark = pytest.mark.pages
DOCS = ROOT / "docs"
# What is not metarl's to test; what its torchrun and Ray amount to is in tests/run/test_{many_ranks,ray_runs}.py.
TOOLS = ("make ", "git ", ". ", "pip install ", "torchrun ", "ray ", "RAY_AUTH_MODE=token ", "srun ")
GOAL, FAR = '{"goal": [0.3, -0.2]}', '{"goal": [-0.4, 0.4]}'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run, for the commands that need one."""
    root = tmp_path_factory.mktemp("docs")
    assert cli.main(["train", "maml_trpo_point", *SMALL, f"run_dir={root}"]) == 0
    return tiny_runs.only_run(root)


@pytest.mark.parametrize("command", [c for c in metarl_commands() if not is_trained_elsewhere(c)])
def test_every_metarl_command_runs(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As documented, but for sizes and places."""
    if metarl_arguments(command) == ["bench", "metaworld"]:  # it takes no sizes
        monkeypatch.setattr(metaworld, "measure", functools.partial(metaworld.measure, rounds=1, steps=5))
        arguments = ["bench", "metaworld"]
    else:
        arguments = reduced(command, run, tmp_path)
        if "sampler.executor=ray" in arguments:
            pytest.skip("needs Ray: tests/run/test_ray_runs.py runs it")
        if arguments[0] == "export" and importlib.util.find_spec("onnxruntime") is None:
            pytest.skip("needs ONNX: pip install 'metarl[export]'")
        if arguments[0] == "resume":  # what others use stays as it is
            arguments[1] = str(shutil.copytree(run, tmp_path / "run"))
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()


def test_every_other_command_stands_in_a_test() -> None:
    """Programs of the examples, and what trains them."""
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for command in commands():
        files = re.findall(r"[\w/]+\.(?:py|yaml)|(?<=--allow )\w+", command)
        if metarl_arguments(command) is None and not command.startswith(TOOLS):
            assert files and all(Path(file).name in tests or Path(file).stem in tests for file in files), command


# What pages say within sentences and tables: page, words of it, the command that it amounts to

FILES = ("FILE.json", "FILE.gif", "FILE.mp4")
SAID = [
    ("runs.md", "`metarl evaluate RUN RUN …`", ["evaluate", "RUN", "OTHER"]),
    ("runs.md", "`--checkpoint ITERATION`", ["evaluate", "RUN", "--checkpoint", "2"]),
    ("runs.md", "`--tasks` takes others", ["evaluate", "RUN", "--tasks", f"[{GOAL}]"]),
    ("runs.md", "`--out FILE` writes it to a file", ["evaluate", "RUN", "--json", "--out", "FILE.json"]),
    ("runs.md", "`task.*` keys make another distribution", ["evaluate", "RUN", "task.horizon=4"]),
    ("runs.md", "`metarl resume RUN`", ["resume", "RUN"]),
    ("runs.md", "`metarl report RUN`", ["report", "RUN"]),
    ("compare.md", "`--baseline NAME`", ["compare", "RUN", "OTHER", "--baseline", "maml_trpo"]),
    ("compare.md", "`--by KEY`", ["compare", "RUN", "OTHER", "--by", "agent.inner_lr"]),
    ("videos.md", "`--task JSON`", ["video", "RUN", "--task", GOAL, "--task", FAR, "--out", "FILE.gif"]),
    ("videos.md", "`--episodes N`", ["video", "RUN", "--episodes", "2", "--out", "FILE.mp4"]),
    ("videos.md", "`--checkpoint N`", ["video", "RUN", "--checkpoint", "2", "--out", "FILE.gif"]),
]


@pytest.mark.parametrize(("page", "words", "arguments"), SAID, ids=[words for _, words, _ in SAID])
def test_what_sentences_say_runs(
    page: str, words: str, arguments: list[str], run: Path, other: Path, tmp_path: Path, capsys: Any
) -> None:
    assert words in (DOCS / page).read_text("utf-8")
    places = {"RUN": str(run), "OTHER": str(other), **{name: str(tmp_path / name) for name in FILES}}
    assert cli.main([places.get(word, word) for word in arguments]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()
    assert [*map(str, tmp_path.iterdir())] == [places[word] for word in arguments if "FILE." in word]


@pytest.fixture(scope="module")
def other(run: Path) -> Path:
    """The run's like with another seed."""
    root = run.parents[1] / "other"
    assert cli.main(["train", "maml_trpo_point", "seed=1", *SMALL, f"run_dir={root}"]) == 0
    return tiny_runs.only_run(root)


# Whole blocks


def test_three_agents_with_three_seeds_are_compared_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """bash says which commands the page's loop amounts to."""
    (loop,) = [block for block in blocks(DOCS / "compare.md", "text") if block.startswith("for ")]
    given = "iterations=24 task.horizon=50"
    script = 'metarl() { echo "$*"; }\n' + loop.replace(given, " ".join(SMALL))
    assert given in loop
    lines = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout.splitlines()
    monkeypatch.chdir(tmp_path)
    assert len(lines) == 10
    for line in lines:
        capsys.readouterr()
        assert cli.main(line.split()) == 0, capsys.readouterr().err
    table = capsys.readouterr().out
    for part in ("maml_trpo  (3 runs", "promp  (3 runs", "reptile  (3 runs", "minus maml_trpo, on the same seeds"):
        assert part in table


def test_a_sweep_of_a_task_and_an_agent_and_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [c for c in commands() if c.startswith("metarl sweep point maml_vpg")]
    words = [*command.replace("seed=0..2", "seed=0").split()[1:], *SMALL, "--out", str(tmp_path / "sweep")]
    assert cli.main([*words, "--jobs", "2"]) == 0, capsys.readouterr().err
    table = capsys.readouterr().out
    assert re.search(r"^inner_lr +runs +before: IQM .* after: IQM .*\n0\.1 +1 .*\n0\.2 +1 ", table)
    assert cli.main([*words, "--report-only"]) == 0
    assert capsys.readouterr().out == table


def test_the_python_of_the_page_on_videos_runs_as_it_stands(run: Path, tmp_path: Path) -> None:
    """A run of ours knows goals; robots need a graphics library, and tests/tasks/rendering say what without one."""
    (block,) = blocks(DOCS / "videos.md", "python")
    robot, own = block.rsplit("\n\n", 1)
    names: dict[str, Any] = {"agent": metarl.load(run)}
    assert '{"direction": -1}, render_mode' in own
    exec(robot, names)
    assert names["frame"].shape == (480, 480, 3) and names["frame"].std() > 10
    exec(own.replace('{"direction": -1}', GOAL), names)
    assert len(names["episodes"]) == 2 and len(names["episodes"][0].frames) == len(names["episodes"][0].steps)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_targets_that_test_the_pages_run_this_file() -> None:
    recipe = subprocess.run(["make", "-n", "docs-test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert " -m pages " in recipe
