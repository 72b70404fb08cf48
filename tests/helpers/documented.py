"""What the pages of the documentation tell to type, and how it is run at reduced size."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
from pathlib import Path

import tiny_runs

import metarl
from metarl.config import lookup

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SMALL = [
    "iterations=2",
    "meta_batch_size=2",
    "rollouts_per_task=2",
    "task.horizon=5",
    "eval.every=null",
    "eval.num_tasks=2",
    "eval.adapt_steps=1",
    "eval.score_every=1",
    "eval.adapt_episodes=2",
    "eval.adapt_env_steps=null",
    "eval.score_episodes=2",
    "sampler.executor=in_process",
    "sampler.workers=0",
    "wandb.mode=disabled",
]
SIZES = ("iterations", "meta_batch_size", "rollouts_per_task")  # are reduced even where a page gives them


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks of that language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands() -> list[str]:
    """Every line of every bash block of every page, without comments; continued lines joined."""
    found = []
    for block in itertools.chain.from_iterable(blocks(page, "bash") for page in PAGES):
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


def metarl_commands() -> list[str]:
    """Those of the commands that are metarl's."""
    return [command for command in commands() if metarl_arguments(command) is not None]


def is_trained_elsewhere(command: str) -> bool:
    """Whether it trains a shipped configuration as it stands: tests/tasks/test_families.py does so with each."""
    words = metarl_arguments(command) or []
    return len(words) == 2 and words[0] == "train" and words[1] in lookup.available("configs")


def reduced(command: str, run: Path, folder: Path) -> list[str]:
    """The arguments of a documented command on a given run, writing below a folder, of a size that takes seconds."""
    arguments = [
        {"RUN": str(run), "latest": str(run), "CONFIG": "maml_trpo_half_cheetah_dir"}.get(word, word)
        for word in metarl_arguments(command) or []
    ]
    if "REFERENCE" in arguments:
        arguments[arguments.index("REFERENCE")] = str(shutil.copytree(run, folder / "reference"))
    if "--out" in arguments and arguments[0] != "video":
        place = arguments.index("--out") + 1
        arguments[place] = str(folder / arguments[place])
    if (arguments[0] == "train" and "--help" not in arguments) or arguments[0] == "bench":
        # tests/bench/test_device_bench.py has every agent; one is enough here
        return _small([word for word in arguments if word != "--every-agent"], folder)
    if arguments[0] == "reproduce":  # tests/studies runs small ones from beginning to end
        return [*arguments, "--dry-run", "--out", str(folder / "study")]
    if arguments[0] == "sweep":  # test_documented_commands runs a small one
        if "--slurm" in arguments:  # whose options stand last
            arguments = arguments[: arguments.index("--slurm")]
        return [*arguments, *({"--print-commands"} - {*arguments}), "--out", str(folder / "sweep")]
    if arguments[0] == "video":  # test_documented_commands films chosen tasks; the run here is of another family
        options = dict(itertools.pairwise(arguments))
        kept = [word for word in ("--steps", "--episodes", "--seed") if word in options]
        out = ["--out", str(folder / Path(options["--out"]).name)] if "--out" in options else []
        return [*arguments[:2], *(part for word in kept for part in (word, options[word])), *out]
    if arguments[0] == "export":  # tests/cli/test_export_command.py exports what has adapted
        return ["export", str(metarl.load(run).before().save(folder / "policy")), *arguments[2:]]
    if arguments[0] == "resume":
        return [word if not word.startswith("iterations") else "iterations=3" for word in arguments]
    return arguments


def _small(arguments: list[str], folder: Path) -> list[str]:
    arguments = [word for word in arguments if word.split("=")[0] not in SIZES]
    given = {word.split("=")[0] for word in arguments if "=" in word}
    arguments += [word for word in [*SMALL, f"run_dir={folder}"] if word.split("=")[0] not in given]
    if "sampler.workers" in given:
        arguments.remove("sampler.executor=in_process")
    if arguments[1] in lookup.available("configs"):
        arguments += tiny_runs.short_chunks(arguments[1])
    return arguments
