"""Secrets of the environment are in nothing that a run writes, sends to wandb's process, or prints."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import tiny_runs

from metarl.config.schema import WandbConfig
from metarl.monitor import wandb_sink
from metarl.monitor.wandb_sink import WandbSink
from metarl.report.files import write_files
from metarl.storage import replace_file

pytestmark = pytest.mark.timeout(240)
KEY, TOKEN = "c0ffee" * 6 + "beef", "canary-token-73b1"
FAILS = """
import os
from metarl.envs.point import PointDistribution

class Fails(PointDistribution):
    def sample(self, num_tasks, *, split, rng):
        if split == "train":
            raise RuntimeError("the environment fails")
        return super().sample(num_tasks, split=split, rng=rng)
"""


def secrets_in(folder: Path) -> list[str]:
    """The files below a folder that have one of them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files for secret in (KEY, TOKEN) if secret.encode() in path.read_bytes()]


def test_no_secret_is_in_a_run_whether_it_succeeds_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With wandb's own process, offline; and with a traceback in errors.log."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fails.py").write_text(FAILS)
    small = tiny_runs.overrides(tmp_path / "runs", "iterations=1", "wandb.mode=offline", "eval.every=null")
    assert tiny_runs.metarl("train", tiny_runs.POINT, *small) == 0
    bad = ["--allow", "fails:Fails", "task.name=fails:Fails", "name=failed", "wandb.mode=disabled"]
    assert tiny_runs.metarl("train", tiny_runs.POINT, *[word for word in small if "wandb" not in word], *bad) == 5
    out, err = capfd.readouterr()
    assert "the environment fails" in err and not any(secret in out + err for secret in (KEY, TOKEN))
    runs = tmp_path / "runs"
    assert list(runs.glob("*/*/wandb/offline-run-*/*.wandb")) and list(runs.glob("*/*/errors.log"))
    assert secrets_in(runs) == []
    assert not [path for path in runs.rglob("*") if path.suffix in (".py", ".patch", ".diff")]  # no code is kept


def test_wandb_is_told_to_keep_neither_code_nor_git_nor_output() -> None:
    settings = wandb_sink._settings()
    off = {"save_code": False, "disable_code": True, "disable_git": True, "disable_job_creation": True}
    assert settings.items() >= {**off, "console": "off"}.items()


def test_no_secret_is_among_the_words_or_the_input_of_wandbs_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments of a process can be read by every user of a machine."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    seen: list[Any] = []

    def refuse(command: list[str], **options: Any) -> None:
        seen.append(command)
        raise OSError("no process here")

    monkeypatch.setattr(wandb_sink.subprocess, "Popen", refuse)
    sink = WandbSink(tmp_path, WandbConfig(mode="online"), name="x", config={"a": 1}, warn=seen.append)
    request = sink._lines.queue[0] if sink._lines.qsize() else ""
    sink.finish()
    assert seen and not any(secret in json.dumps(seen) + str(request) for secret in (KEY, TOKEN))


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_files_have_the_permissions_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "file", b"")
        write_files({tmp_path / "folder" / "page": b""})
    finally:
        os.umask(before)
    for path, most in (("file", 0o666), ("folder", 0o777), ("folder/page", 0o666)):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == most & ~umask


def test_a_temporary_name_that_somebody_has_foreseen_leads_nowhere(tmp_path: Path) -> None:
    """A link under the name that the next write will use, to a file of the user's."""
    mine = tmp_path / "mine"
    mine.write_text("keep")
    for name in ("a", "b"):
        (tmp_path / f".tmp-{os.getpid()}-{name}").symlink_to(mine)
    replace_file(tmp_path / "a", b"new")
    write_files({tmp_path / "b": b"new"})
    assert mine.read_text() == "keep"
    assert all((tmp_path / name).read_bytes() == b"new" and not (tmp_path / name).is_symlink() for name in ("a", "b"))


def test_a_page_takes_the_place_of_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("keep")
    (tmp_path / "page.html").symlink_to(mine)
    write_files({tmp_path / "page.html": b"new"})
    assert mine.read_text() == "keep" and not (tmp_path / "page.html").is_symlink()
