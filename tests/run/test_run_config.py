"""A run's config.yaml: whole or as before, checked to the last byte, replaced by the checkpoint's copy when lost."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import POINT, ROOT, metarl, outcome, overrides, saved_state, tree

from metarl import storage
from metarl.config import loading
from metarl.errors import CheckpointError, ConfigError, StorageError
from metarl.run import checkpoint, run_config, run_dir
from metarl.run.saved_state import Counters, SavedState
from metarl.run.trainer import Trainer

pytestmark = pytest.mark.mistakes

SIZE = ("iterations=2", "eval.every=null", "eval.num_tasks=2")
OLD = ROOT / "tests" / "data" / "made_by_0_1_0" / "maml_trpo_point" / "run"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two iterations. Tests must leave it as it is."""
    return tiny_runs.train(tmp_path_factory.mktemp("reference"), *SIZE)


@pytest.fixture
def run(reference: Path, tmp_path: Path) -> Path:
    """A finished run to play with."""
    return Path(shutil.copytree(reference, tmp_path / POINT / reference.name))


# Damage


def test_flipped_bits_are_refused(run: Path) -> None:
    """Every ninth, and another bit each time."""
    good, flips = (run / "config.yaml").read_bytes(), random.Random(0)
    kept = saved_state(run)["config"]
    for position in range(0, len(good), 9):
        changed = good[:position] + bytes([good[position] ^ 1 << flips.randrange(8)]) + good[position + 1 :]
        (run / "config.yaml").write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"config\.yaml: damaged or changed"):
            run_config.read(run, kept)


def test_every_cut_is_refused(run: Path) -> None:
    good, kept = (run / "config.yaml").read_bytes(), saved_state(run)["config"]
    for length in range(0, len(good), 53):
        (run / "config.yaml").write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"config\.yaml: damaged or changed"):
            run_config.read(run, kept)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 0", "seed: 1", "seed = 1, not 0"),
        ("horizon: 10", "horizon: 11", "task.horizon = 11, not 10"),
        ("iterations: 2", "iterations: 3", "iterations = 3, not 2"),
        ("  outer_phases: all\n", "", "agent.outer_phases is missing"),
    ],
)
def test_an_edited_file_is_refused_and_what_was_edited_is_named(
    old: str, new: str, said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "config.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    before = tree(run)
    for command in ("evaluate", "resume"):
        assert metarl(command, run) == 3
        errors = capsys.readouterr().err.splitlines()
        assert f"it does not fit the sum in its last line ({said})" in errors[0]
        assert errors[1] == (
            f"error: put it back as it was, or delete {path}: then the copy in the newest checkpoint is taken"
        )
        assert "metarl resume RUN iterations=200" in errors[2]
    assert tree(run) | {"lock": ""} == before | {"lock": ""}


def test_the_configuration_of_another_run_is_refused(run: Path) -> None:
    config = run_dir.read_config(run)
    run_config.write(run, run_config.encode(config.model_copy(update={"seed": 5, "iterations": 9})))
    with pytest.raises(CheckpointError, match="expected this run's configuration: seed = 5, not 0\n"):
        run_dir.read_config(run)


def test_a_lost_configuration_is_taken_from_the_checkpoint(
    run: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (run / "config.yaml").read_bytes()
    (run / "config.yaml").unlink()
    assert metarl("evaluate", run, "--json") == 0
    output = capsys.readouterr()
    notice = f"{run}/config.yaml is missing: its copy in the newest checkpoint is taken"
    assert output.err == f"notice: {notice}\n" and output.out.startswith("{")
    assert metarl("hash", run) == 0
    assert metarl("resume", run) == 0
    assert notice in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == good
    assert outcome(run) == outcome(reference)


def test_the_file_trains_again_and_a_resumed_run_rewrites_it(run: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.yaml", tmp_path / "again.yaml")
    assert metarl("train", tmp_path / "again.yaml", f"run_dir={tmp_path / 'runs'}") == 0
    assert run_dir.digest(tiny_runs.only_run(tmp_path / "runs")) == run_dir.digest(reference)
    assert metarl("resume", run, "iterations=3") == 0
    assert run_dir.read_config(run).iterations == 3
    assert saved_state(run)["config"]["iterations"] == 3


# Older runs


def test_an_older_run_without_a_sum_is_opened_unless_its_end_is_cut_off(tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    assert saved_state(run)["config"] is None
    config = run_dir.read_config(run)
    good = (run / "config.yaml").read_bytes()
    last_key = good.index(b"  tags")
    for length in [*range(0, last_key, 97), *range(last_key, last_key + len(b"  tags:"))]:
        (run / "config.yaml").write_bytes(good[:length])
        with pytest.raises((CheckpointError, ConfigError), match=r"config\.yaml|tags"):
            run_dir.read_config(run)
    (run / "config.yaml").write_bytes(good)
    assert run_dir.read_config(run) == config


# How it is written


DIES = """
import os, sys
from metarl import storage
from metarl.cli import main

replace, calls = os.replace, 0

def die(source, target):
    if str(target).endswith("config.yaml"):
        os.kill(os.getpid(), 9)
    replace(source, target)

os.replace = die
sys.exit(main(["resume", *sys.argv[1:]]))
"""


def test_killed_in_the_middle_of_the_write_the_old_file_stands(run: Path, reference: Path) -> None:
    before = (run / "config.yaml").read_bytes()
    process = tiny_runs.start("-c", DIES, run, "iterations=3")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert (run / "config.yaml").read_bytes() == before
    assert metarl("resume", run) == 0
    assert outcome(run) == outcome(reference)


FULL = """
import resource, sys
from metarl.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))  # as on a full disk
sys.exit(main(["train", *sys.argv[2:]]))
"""


@pytest.mark.parametrize(("size", "where"), [pytest.param(0, "lock", marks=pytest.mark.slow), (8000, "checkpoint")])
def test_without_space_for_its_first_files_a_run_is_not_made(size: int, where: str, tmp_path: Path) -> None:
    """A policy with 64 units has 17 kB, all other files less than 8 kB."""
    (tmp_path / "runs").mkdir()
    settings = overrides(tmp_path / "runs", *SIZE, "agent.hidden_sizes=[64, 64]")
    process = tiny_runs.start("-c", FULL, size, POINT, *settings)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 6, errors
    assert errors.count("\n") == 1 and where in errors and "space" in errors
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("name", ["lock", "config.yaml", "versions.json", "metrics.jsonl"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_place_that_cannot_be_written_leaves_no_run(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str, flags: int) -> int:
        if os.path.basename(path) == name:
            raise OSError(code, os.strerror(code), path)
        return opened(path, flags)

    def refuse_write(path: Path, data: bytes) -> None:
        if path.name.endswith(name):
            raise OSError(code, os.strerror(code), str(path))
        written(path, data)

    opened, written = storage.no_follow, storage.write_file
    monkeypatch.setattr(storage, "write_file", refuse_write)
    monkeypatch.setattr(run_dir, "no_follow", refuse)
    monkeypatch.setattr("metarl.monitor.metrics_file.no_follow", refuse)
    assert metarl("train", POINT, *overrides(tmp_path / "runs", *SIZE)) == 6
    errors = capsys.readouterr().err
    assert errors.startswith("error: cannot ") and os.strerror(code) in errors
    assert not list((tmp_path / "runs").iterdir())


# What is accepted can be read back


def gymnasium_run(root: Path, *changes: str) -> list[str]:
    (root / "spring.yaml").write_text(
        "{iterations: 1, meta_batch_size: 2, rollouts_per_task: 2, task: {name: gymnasium_env, env_id: Pendulum-v1, "
        "horizon: 5, parameters: {g: {argument: g, choices: [1.0, 2.0]}}}, agent: {name: maml_trpo}}"
    )
    return ["train", str(root / "spring.yaml"), f"run_dir={root / 'runs'}", *changes]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (f"task.parameters={{g: {{argument: g, choices: {list(range(80))}}}}}", "limit of 120"),
        (f"task.env_arguments={'{a: ' * 15}1{'}' * 15}", "nested deeper than 16 levels"),
        ("task.env_arguments={a: .inf}", "a number that JSON does not have"),
    ],
    ids=["a long list", "deep nesting", "an infinity"],
)
def test_a_configuration_that_could_not_be_read_back_is_refused_before_anything_is_made(
    change: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file is kept with all its keys, and so has more values than what was given. By default 10000 are too many."""
    monkeypatch.setenv("OMEGACONF_MAX_YAML_EXPANDED_NODES", "120" if "limit" in reason else "10000")
    assert metarl(*gymnasium_run(tmp_path, change)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "when its run goes on" in error and reason in error and len(error) < 300
    assert not (tmp_path / "runs").exists()


def test_every_shipped_configuration_can_be_read_back() -> None:
    for name in loading.lookup.available("configs"):
        config = loading.load(name).config
        assert loading.dump_to_keep(config) == loading.dump(config)


# Links in a run from elsewhere


FILES = ["lock", "config.yaml", "versions.json", "metrics.jsonl", "evaluations.jsonl", "errors.log"]
FOLDERS = ["checkpoints", "report", "wandb"]


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_a_link_where_a_run_writes_or_deletes_is_refused_by_name(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, place = tmp_path / "target", run / name
    if place.exists():
        place.rename(target)
    elif name in FOLDERS:
        target.mkdir()
    else:
        target.touch()
    place.symlink_to(target)
    before = tree(tmp_path)
    assert metarl("resume", run, "iterations=3", "checkpoint.keep=1") == 6
    kind = "a folder" if name in FOLDERS else "a plain file"
    assert f"{place}: expected {kind}, found a link; a run writes only inside its own folder" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_no_part_of_metarl_writes_through_a_link_by_itself(run: Path, tmp_path: Path) -> None:
    """The same where nobody has looked at the whole run before."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (run / "lock").unlink()
    (run / "lock").symlink_to(secret)
    with pytest.raises(StorageError, match="found a link"), run_dir.lock(run):
        pass
    (tmp_path / f".tmp-{os.getpid()}-file").symlink_to(secret)
    storage.replace_file(tmp_path / "file", b"new")
    elsewhere = Path(shutil.copytree(run / "checkpoints", tmp_path / "elsewhere"))
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(elsewhere)
    before = tree(elsewhere)
    with pytest.raises(StorageError, match="found a link"):
        checkpoint.save(run / "checkpoints", {}, SavedState(counters=Counters(iteration=9, env_steps=9)), keep=1)
    assert secret.read_text() == "mine" and tree(elsewhere) == before and not (tmp_path / "file").is_symlink()


def test_a_checkpoint_that_is_a_link_leaves_its_name_and_nothing_else_when_it_is_pruned(
    run: Path, tmp_path: Path
) -> None:
    target = (run / "checkpoints" / "2").rename(tmp_path / "elsewhere")
    (run / "checkpoints" / "2").symlink_to(target)
    before = tree(target)
    assert metarl("resume", run, "iterations=3", "checkpoint.keep=1") == 0
    assert [path.name for path in checkpoint.complete(run / "checkpoints")] == ["3"]
    assert tree(target) == before


# A finished run


def test_a_report_that_fails_is_a_warning_of_a_finished_run(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An odd line gets into the records while the run is on."""
    iterate = Trainer.iterate

    def with_an_odd_line(self: Trainer) -> object:
        if self.iteration == 1:
            with (self.run / "metrics.jsonl").open("a") as file:
                file.write('{"iteration": 1, "env_steps": "many"}\n')
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", with_an_odd_line)
    assert metarl("train", POINT, *overrides(tmp_path, *SIZE)) == 0
    output = capsys.readouterr().err
    assert "warning: the run is complete, but its report could not be written" in output
    assert "metrics.jsonl, iteration 1: expected a number for env_steps, got 'many'; correct or delete" in output
    assert run_dir.digest(tiny_runs.only_run(tmp_path)) == run_dir.digest(reference)


# The home folder


def test_a_tilde_is_the_home_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = run.parent.parent
    monkeypatch.setenv("HOME", str(home))
    assert metarl("hash", f"~/{POINT}/{run.name}") == 0
    digest = capsys.readouterr().out
    changes = overrides(Path("~/runs"), *SIZE, f"init_from=~/{POINT}/{run.name}")
    assert metarl("train", POINT, *changes) == 0
    assert digest and (home / "runs" / POINT).is_dir()
    shutil.copy(run / "config.yaml", home / "mine.yaml")
    assert metarl("train", "~/mine.yaml", "--print-config") == 0
