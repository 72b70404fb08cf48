"""The documentation is true: every command in it runs at reduced size, every link, key and metric in it exists."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

from metarl import cli
from metarl.config import loading, lookup

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SMALL = [
    "iterations=2",
    "meta_batch_size=2",
    "rollouts_per_task=2",
    "task.horizon=5",
    "eval.every=null",
    "eval.num_tasks=2",
    "eval.adapt_steps=1",
    "eval.adapt_episodes=2",
    "eval.adapt_env_steps=null",
    "eval.score_episodes=2",
    "sampler.executor=in_process",
    "sampler.workers=0",
    "wandb.mode=disabled",
]


def commands() -> list[str]:
    """Every line of every bash block of every page, without comments; continued lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split("  #")[0].strip()
                if command and command not in found:
                    found.append(command)
    return found


def metarl_arguments(command: str) -> list[str] | None:
    """The arguments of ``metarl`` that a documented command amounts to; None for other programs."""
    words = shlex.split(command)
    if words[:2] == ["python", "train.py"]:
        return ["train", *words[2:]]
    return words[1:] if words[0] == "metarl" else None


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


def is_trained_elsewhere(command: str) -> bool:
    """Whether it trains a shipped configuration as it stands: tests/tasks/test_families.py does so with each."""
    words = metarl_arguments(command) or []
    return len(words) == 2 and words[0] == "train" and words[1] in lookup.available("configs")


@pytest.mark.parametrize(
    "command", [c for c in commands() if metarl_arguments(c) is not None and not is_trained_elsewhere(c)]
)
def test_every_metarl_command_runs(command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As documented, but for sizes: overrides behind the documented ones shrink what would take minutes."""
    arguments = metarl_arguments(command)
    assert arguments is not None
    arguments = [
        {"RUN": str(run), "latest": str(run), "CONFIG": "maml_trpo_half_cheetah_dir"}.get(word, word)
        for word in arguments
    ]
    if "sampler.executor=ray" in arguments:
        pytest.skip("needs Ray; tests/run/test_ray_runs.py runs it")
    if "REFERENCE" in arguments:
        arguments[arguments.index("REFERENCE")] = str(shutil.copytree(run, tmp_path / "reference"))
    small = [*SMALL, f"run_dir={tmp_path}"]
    given = {word.split("=")[0] for word in arguments if "=" in word}
    if arguments == ["bench", "metaworld"]:
        pytest.skip("takes a minute, whatever is given; its parts are tested in tests/envs/test_meta_world.py")
    if (arguments[0] == "train" and "--help" not in arguments) or arguments[0] == "bench":
        arguments += [word for word in small if word.split("=")[0] not in given]
        if "sampler.workers" in given:
            arguments.remove("sampler.executor=in_process")
        if arguments[1] in lookup.available("configs"):
            arguments += tiny_runs.short_chunks(arguments[1])
    if arguments[0] == "reproduce":  # tests/studies runs small ones from beginning to end
        arguments += ["--dry-run", "--out", str(tmp_path / "study")]
    if "--every-agent" in arguments:  # tests/bench/test_device_bench.py; one is enough here
        arguments.remove("--every-agent")
    if "--out" in arguments and arguments[0] in ("compare", "bench"):
        place = arguments.index("--out") + 1
        arguments[place] = str(tmp_path / arguments[place])
    if arguments[0] == "sweep":  # tests/studies runs small ones
        if "--slurm" in arguments:  # whose options stand last
            arguments = arguments[: arguments.index("--slurm")]
        arguments += [*({"--print-commands"} - {*arguments}), "--out", str(tmp_path / "sweep")]
    if arguments[0] == "video":  # tests/cli/test_video.py films chosen tasks; the run here is of another family
        options = dict(itertools.pairwise(arguments))
        kept = [word for word in ("--steps", "--episodes", "--seed") if word in options]
        out = ["--out", str(tmp_path / Path(options["--out"]).name)] if "--out" in options else []
        arguments = [*arguments[:2], *(part for word in kept for part in (word, options[word])), *out]
    if arguments[0] == "resume":
        arguments = [word if not word.startswith("iterations") else "iterations=3" for word in arguments]
    assert cli.main(arguments) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()


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


def test_continuous_integration_runs_the_documented_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


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
