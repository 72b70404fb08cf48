"""R21 to R24: wandb that fails, configurations that are bad or malicious, a GPU that is not there."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import scorecard
import tiny_runs
from scorecard import KINDS, TAKES_TIME, Kind, case
from tiny_runs import metarl, only_run, outcome

from tests.cli.test_cli_errors import BAD_FILES, BAD_OVERRIDES, GOOD

pytestmark = pytest.mark.slow

MALICIOUS = ("alias bomb", "tag", "code", "custom tag", "deep")  # of BAD_FILES

NOBODY = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}  # no server listens there
WANDB = {  # what is wrong: variables, mode
    "unreachable": (NOBODY, "online"),
    "no key": ({}, "online"),
    "bad key": ({**NOBODY, "WANDB_API_KEY": "nonsense"}, "online"),
    "its process is killed": ({}, "offline"),
}


@case(21)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", WANDB)
def test_r21_wandb_fails(what: str, kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path) -> None:
    """The slowest needs 20 s more than the run alone: the program must end in its time and that."""
    variables, mode = WANDB[what]
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_API_KEY": "", **variables}
    process = kind.start(tmp_path / "runs", f"wandb.mode={mode}", *TAKES_TIME, variables=home)
    if what == "its process is killed":
        tiny_runs.wait_for_iteration(tmp_path / "runs", 1, process)
        scorecard.wait_until(lambda: of_wandb(process), 20, "wandb's process")
        for found in of_wandb(process):
            found.kill()
    code, errors = scorecard.ended(process, 40)
    assert code == 0, errors
    assert outcome(only_run(tmp_path / "runs")) == outcome(clean(kind))
    assert errors.count("wandb") >= 1 and "Traceback" not in errors


def of_wandb(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [found for found in tiny_runs.family(process) if "wandb" in " ".join(found.cmdline())]


@case(22)
def test_r22_bad_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    assert len(BAD_OVERRIDES) >= 40
    for override, start in BAD_OVERRIDES:
        assert metarl("train", "good.yaml", override) == 2, override
        assert capsys.readouterr().err.startswith(f"error: {start}"), override
    assert metarl("train", "good.yaml", *(override for override, _ in BAD_OVERRIDES[:3])) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all("did you mean" in error for error in errors)
    assert {path.name for path in Path().iterdir()} == {"good.yaml"}


@case(22)
@pytest.mark.parametrize("override", ["agent.inner_lrr=0.1", "task.name=pointt", "rollouts_per_task=1"])
def test_r22_within_three_seconds(override: str, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    alone = ["sampler.workers=0", f"run_dir={tmp_path / 'runs'}"]  # else another process imports torch meanwhile
    assert processor_seconds(["train", tmp_path / "good.yaml", override, *alone]) < 3
    assert not (tmp_path / "runs").exists()


def processor_seconds(arguments: list[object], **variables: str) -> float:
    """What a program that must end with exit code 2 takes of one core, which starts no worker beside it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = scorecard.program(*arguments, variables=variables)
    code, errors = scorecard.ended(process, 10)
    assert code == 2 and errors.startswith("error: ")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@case(23)
@pytest.mark.parametrize("name", MALICIOUS)
def test_r23_malicious_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content, start = BAD_FILES[name]
    Path("bad.yaml").write_bytes(content)
    assert metarl("train", "bad.yaml") == 2
    assert start in capsys.readouterr().err
    assert {path.name for path in Path().iterdir()} == {"bad.yaml"}


@case(23)
@pytest.mark.parametrize(
    "override",
    [
        "task._target_=os.mkdir",
        "task.name=os:mkdir",
        "agent.name=os:mkdir",
        "run_dir=!!python/object/apply:os.mkdir [canary]",
        "run_dir=${oc.env:HOME}",
        "task.name=pwned:Family",
        "task.env_id=pwned:Env-v0",
    ],
)
def test_r23_malicious_overrides(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pwned.py").write_text("import os\nos.mkdir('canary')\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = "maml_trpo_pendulum" if "env_id" in override else "maml_trpo_point"
    assert metarl("train", name, override) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert os.listdir() == ["pwned.py"]


@case(24)
@pytest.mark.parametrize("kind", KINDS)
def test_r24_no_gpu(kind: Kind, tmp_path: Path) -> None:
    """By processor time: a busy machine takes longer by the clock. With workers=0 nothing else is started meanwhile."""
    arguments = ["train", *kind.settings(tmp_path / "runs", "device=cuda", "sampler.workers=0")]
    assert processor_seconds(arguments, CUDA_VISIBLE_DEVICES="") < 3
    assert not (tmp_path / "runs").exists()
