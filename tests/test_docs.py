"""The documentation is true: every command in it is understood, every link, key and metric in it exists.

``make docs-test`` runs the commands, at reduced size: tests/test_documented_commands.py.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented import PAGES, ROOT, SMALL, commands, metarl_arguments, metarl_commands

from metarl import cli, studies
from metarl.config import loading, lookup


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run, for the commands that need one."""
    root = tmp_path_factory.mktemp("docs")
    assert cli.main(["train", "maml_trpo_point", *SMALL, f"run_dir={root}"]) == 0
    return next((root / "maml_trpo_point").iterdir())


def test_there_are_commands_to_test() -> None:
    texts = " ".join(commands())
    for name in ("make train", "python train.py", "metarl resume", "metarl evaluate", "metarl hash", "metarl bench"):
        assert name in texts


@pytest.mark.parametrize("command", metarl_commands())
def test_every_metarl_command_is_understood(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options are known, keys and values valid; tests/test_documented_commands.py runs it."""
    arguments = metarl_arguments(command) or []
    if "sampler.executor=ray" in arguments:
        pytest.importorskip("ray", reason="needs Ray: pip install 'metarl[ray]'")
    if arguments[0] == "train":
        arguments.append("--print-config")
    else:
        monkeypatch.setattr(cli, "_run", lambda options: f"understood {options.handler.__name__}")
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a parser and of its commands."""
    found = {*parser._option_string_actions}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(options_of, action.choices.values()))
    return found


def test_options_named_in_sentences_exist() -> None:
    """``--jobs N``, and `` `metarl evaluate RUN --json` ``; those of sbatch and torchrun are not ours."""
    parsers = [cli._parser(["reproduce", name])[0] for name in studies.available()]
    examples = "".join(path.read_text("utf-8") for path in (ROOT / "docs" / "examples").glob("*.py"))
    known = set().union(*map(options_of, parsers), re.findall(r'add_argument\("(--[a-z-]+)"', examples))
    for page in PAGES:
        named = re.findall(r"`(?:metarl [^`]*?)?(--[a-z][a-z-]+)", page.read_text("utf-8"))
        assert {*named} - {"--signal", "--shutdown-timeout", "--max-restarts"} <= known, page.name


def test_make_targets_exist() -> None:
    for command in commands():
        if command.startswith("make "):
            target = command.split()[1]
            shown = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
            assert shown.returncode == 0, f"{command}: {shown.stderr}"


def test_make_train_runs_a_shipped_config() -> None:
    recipe = subprocess.run(["make", "-n", "train"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    match = re.search(r"train\.py (\S+)", recipe)
    assert match and match[1] in lookup.available("configs")


def test_continuous_integration_runs_the_documented_commands() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make test" in lines and "make docs-test" in lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_modules_named_on_the_page_of_the_architecture_exist() -> None:
    """`run/trainer.iterate` is a file of metarl/ with a function, or a method, of that name."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z]+/[\w/]*)((?:\.\w+)*)`", page))
    assert len(named) > 25
    for path, members in named:
        places = [root / path for root in (ROOT, ROOT / "metarl")]
        files = [place.with_suffix(".py") for place in places if place.with_suffix(".py").is_file()]
        assert files or any(place.is_dir() for place in places), path
        for member in members.removesuffix(".py").split(".")[1:]:
            assert re.search(rf"(def|class) {member}\b", files[0].read_text(encoding="utf-8")), f"{path}{members}"


def test_keys_named_in_the_pages_exist() -> None:
    one_per_agent = {loading.load(name).config.agent.name: name for name in lookup.available("configs")}
    text = "\n".join(loading.describe(loading.load(name)) for name in one_per_agent.values())
    for page in PAGES:
        sections = "agent|eval|sampler|learner|checkpoint|wandb"
        for section, key in re.findall(rf"`({sections})\.(?!safetensors)(\w+)\b(?!\()", page.read_text("utf-8")):
            assert f"{section}.{key}" in text, f"{page.name}: {section}.{key}"


def test_every_logged_metric_is_explained(run: Path) -> None:
    page = (ROOT / "docs" / "maml.md").read_text(encoding="utf-8")
    assert_explained(page, run)


def test_every_metric_of_agents_with_a_memory_is_explained(tmp_path: Path) -> None:
    small = [*SMALL, "agent.episodes_per_trial=2", f"run_dir={tmp_path}"]
    page = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("maml.md", "rl2.md"))
    for name in ("rl2_ppo_bernoulli_bandit", "rl2_trpo_bernoulli_bandit"):
        assert cli.main(["train", name, *small]) == 0
        assert_explained(page, next((tmp_path / name).iterdir()))


def assert_explained(page: str, run: Path) -> None:
    metrics = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    for name in set(metrics) - {"iteration", "env_steps"}:
        assert f"`{re.sub(r'/[0-9]+$', '/<k>', name)}`" in page, name


def test_the_run_directory_is_as_documented(run: Path) -> None:
    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    found = {path.name for path in run.iterdir()}
    names = re.findall(r"`([a-z.]+)(?:/[^`]*)?`", "\n".join(re.findall(r"^\| (`[^|]+) \|", page, flags=re.MULTILINE)))
    assert found | {"wandb", "videos"} == set(names) - {"curves.csv", "errors.log"}  # the report's, and of faults


def test_exit_codes_are_as_documented() -> None:
    from metarl import errors

    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|", page, flags=re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(",")}
    own = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.MetarlError)}
    assert documented == {0, 130, 143} | own


def test_train_py_is_the_train_command() -> None:
    command = [sys.executable, "train.py", "maml_trpo_point", "--print-config"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == loading.dump(loading.load("maml_trpo_point").config)
