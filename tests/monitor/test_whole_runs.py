"""What wandb and TensorBoard themselves read back of a whole run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import tiny_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.config import loading

CHANGES = ["wandb.mode=offline", "wandb.checkpoint=true", "tensorboard=true", "eval.every=2", "iterations=4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four iterations, stopped after the third and gone on with."""
    stopped = tiny_runs.train(tmp_path_factory.mktemp("runs"), *CHANGES[:-1], "iterations=3")
    (stopped / "videos").mkdir()  # as `metarl video` would
    writer = imageio_ffmpeg.write_frames(str(stopped / "videos" / "film.mp4"), (32, 32))
    writer.send(None)
    writer.send(bytes(3 * 32 * 32))
    writer.close()
    assert tiny_runs.metarl("resume", stopped, "iterations=4") == 0
    return stopped


def records(folder: Path) -> list[dict[str, Any]]:
    """By wandb's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in found if record["type"] == kind]


def test_wandb_has_one_row_per_iteration_with_tables_picture_summary_and_checkpoint(run: Path) -> None:
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    first, second = map(records, folders)
    (identity,) = {record["run_id"] for record in of_kind(first, "run") + of_kind(second, "run")}  # one run, resumed
    assert folders[0].name.partition(identity)[2] == "" and of_kind(second, "run")[0]["job_type"] == "train"

    rows = [record["item"] for record in of_kind(first, "history") + of_kind(second, "history")]
    # the third is logged by its iteration, and by the evaluation with which the first part ended
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert ["eval/return/1" in row for row in rows] == [False, True, True, True]
    assert rows[1]["eval/curve._type"] == rows[1]["eval/tasks._type"] == "table-file"
    assert rows[3]["report._type"] == "image-file" and rows[3]["videos/film._type"] == "video-file"
    film = folders[1] / "files" / rows[3]["videos/film.path"]
    assert film.read_bytes() == (run / "videos" / "film.mp4").read_bytes()
    table = json.loads((folders[0] / "files" / rows[1]["eval/tasks.path"]).read_text())
    assert table["columns"] == ["task", "return after 0", "return after 1"]
    returns = tiny_runs.evaluations(run)[0]["returns"]
    assert [[row[1] for row in table["data"]], [row[2] for row in table["data"]]] == [pytest.approx(r) for r in returns]
    assert [set(json.loads(row[0])) for row in table["data"]] == [{"goal"}] * len(returns[0])

    evaluation = json.loads((run / "summary.json").read_text())["evaluation"]
    told = {key: value for record in of_kind(second, "summary") for key, value in record["update"].items()}
    for which in ("final", "best"):
        expected = evaluation[which]["after"]["return"]["mean"]
        assert told[f"evaluation/{which}/after/return/mean"] == pytest.approx(expected)
    assert told["evaluation/best/note"].startswith("the highest of 3 evaluations")
    (artifact,) = [a for a in of_kind(second, "artifact") if a["type"] == "model"]
    assert {entry["path"] for entry in artifact["manifest"]["contents"]} >= {"manifest.json"}


def test_tensorboard_reads_the_run(run: Path) -> None:
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    scalars = accumulator.Scalars("train/return/1")
    logged = tiny_runs.training(run)
    assert [event.step for event in scalars] == [line["env_steps"] for line in logged]
    assert [event.value for event in scalars] == pytest.approx([line["train/return/1"] for line in logged], rel=1e-6)
    assert "eval/return/1" in accumulator.Tags()["scalars"]


def test_tensorboard_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    real = loading.importlib.util.find_spec
    monkeypatch.setattr(
        loading.importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else real(name, *rest)
    )
    assert tiny_runs.metarl("train", tiny_runs.POINT, *tiny_runs.overrides(tmp_path, "tensorboard=true")) == 2
    assert "pip install 'metarl[tensorboard]'" in capsys.readouterr().err
