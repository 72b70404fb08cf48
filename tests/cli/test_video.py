"""``metarl video``: the files that it writes, and what it refuses before it writes any."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import pytest
import tiny_runs
from PIL import Image

from metarl.cli import video
from metarl.errors import ConfigError
from metarl.report import film_files

pytestmark = pytest.mark.usefixtures("one_torch_thread")
HERE, THERE = '{"goal": [0.3, -0.2]}', '{"goal": [-0.4, 0.1]}'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.train(tmp_path_factory.mktemp("video"), "iterations=1", "eval.every=null")


def pictures_in(path: Path) -> tuple[int, tuple[int, int]]:
    """How many a video has, and their size."""
    reader = imageio_ffmpeg.read_frames(str(path))
    size = next(reader)["size"]
    return len(list(reader)), size


def test_both_files_are_in_the_run_and_their_paths_alone_are_printed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten steps: eleven pictures, and the last one for a second more, which is ten."""
    before = tiny_runs.tree(run)
    assert tiny_runs.metarl("video", run, "--task", HERE) == 0
    said = capsys.readouterr()
    movie, gif = (Path(line) for line in said.out.splitlines())
    assert (movie, gif) == tuple(run / "videos" / f"1_goal=0.3,-0.2{suffix}" for suffix in (".mp4", ".gif"))
    assert pictures_in(movie)[0] == Image.open(gif).n_frames + held_back(gif) == 11 + 10
    assert (
        "adapting: 1 × 2 episodes" in said.err
        and "filming before adaptation\nfilming after 1 step, 2 episodes" in said.err
    )
    assert gif.stat().st_size < film_files.MOST_GIF_BYTES
    new = set(tiny_runs.tree(run)) - set(before)
    assert {name for name in new if name != "videos"} == {f"videos/{path.name}" for path in (movie, gif)}


def held_back(gif: Path) -> int:
    """Pictures that a GIF does not repeat, but shows longer: its last one."""
    image = Image.open(gif)
    image.seek(image.n_frames - 1)
    return int(image.info["duration"]) // 100 - 1


@pytest.mark.pages
def test_more_tasks_are_more_rows_and_more_episodes_are_more_scenes(run: Path, tmp_path: Path) -> None:
    """And the same command gives the same bytes."""
    sizes = []
    for tasks, episodes in (([HERE], 1), ([HERE, THERE], 2)):
        out = tmp_path / f"{episodes}.mp4"
        given = [word for task in tasks for word in ("--task", task)]
        assert tiny_runs.metarl("video", run, *given, "--episodes", episodes, "--out", out) == 0
        sizes.append(pictures_in(out))
    assert [count for count, _ in sizes] == [21, 42] and sizes[1][1][1] > 1.5 * sizes[0][1][1]
    assert {path.name for path in tmp_path.iterdir()} == {"1.mp4", "2.mp4"}
    again = tmp_path / "again.mp4"
    assert tiny_runs.metarl("video", run, "--task", HERE, "--out", again) == 0
    assert again.read_bytes() == (tmp_path / "1.mp4").read_bytes()


REFUSED = [
    (["--task", '{"direction": 1}'], 2, "expected a task of point, got {'direction': 1}: it lacks 'goal'"),
    (["--task", "{goal: 1}"], 2, "--task: expected JSON such as"),
    (["--task", "[]", "--episodes", "0"], 2, "--episodes 0: expected a positive number"),
    (["--steps", "-1"], 2, "--steps -1: expected a positive number"),
    (["--seed", "-1"], 2, "--seed -1: expected 0 or more"),
    (["--out", "film.avi"], 2, "--out film.avi: expected a file that ends in .mp4 or .gif"),
    (["--checkpoint", "7"], 3, "no checkpoint of iteration 7; there are: 0, 1"),
    (["--task", str([{"goal": [0.1, 0.1]}] * 30).replace("'", '"')], 2, "30 tasks would be too small to be seen"),
]


@pytest.mark.parametrize(("options", "code", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_what_cannot_be_filmed_is_refused_before_anything_is_written(
    options: list[str], code: int, message: str, run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = tiny_runs.tree(run)
    assert tiny_runs.metarl("video", run, *options) == code
    said = capsys.readouterr()
    assert message in said.err and "adapting" not in said.err and said.out == ""
    assert tiny_runs.tree(run) == before and not list(tmp_path.iterdir())


def test_a_memory_has_no_adaptation_steps() -> None:
    agent: Any = SimpleNamespace(remembers=True)
    with pytest.raises(ConfigError, match="--steps: this agent has no adaptation steps"):
        video.make(agent, tasks=[], episodes=None, steps=1, seed=0, out=None)


def test_without_ffmpeg_nothing_is_done_but_a_gif(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    assert tiny_runs.metarl("video", run, "--out", tmp_path / "film.mp4") == 2
    assert "no ffmpeg" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert tiny_runs.metarl("video", run, "--out", tmp_path / "film.gif") == 0


def test_a_link_in_the_place_of_the_videos_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tiny_runs.train(tmp_path / "runs", "iterations=1", "eval.every=null")
    (tmp_path / "elsewhere").mkdir()
    (own / "videos").symlink_to(tmp_path / "elsewhere")
    assert tiny_runs.metarl("video", own) == 6
    assert "expected a folder, found a link" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.pages
def test_a_robot_is_filmed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And where there are no graphics, that is told before anything is done."""
    own = tiny_runs.train(tmp_path, "iterations=1", "task.horizon=3", name="maml_trpo_half_cheetah_dir_small")
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    assert tiny_runs.metarl("video", own) == 2
    assert "no graphics library that can draw pictures (MUJOCO_GL = nonsense)" in capsys.readouterr().err
    assert not (own / "videos").exists()
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert tiny_runs.metarl("video", own) == 0
    movie = Path(capsys.readouterr().out.splitlines()[0])
    assert pictures_in(movie)[0] == 4 + 20
