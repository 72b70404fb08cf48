"""Films: where panels and words are, and files that can be read back."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from metarl.errors import ConfigError, StorageError
from metarl.report import film_files
from metarl.report.film_frames import GAP, Layout, film_frames, layout, task_words

PLACE = Layout(columns=2, side=160, text=12)  # lines of 17 pixels
FPS = 10.0


@dataclass
class Shown:
    title: str
    episode: Any


def panel(title: str, level: int, length: int = 3, *, success: Any = None, terminated: bool = False) -> Shown:
    frames = [np.full((50, 50, 3), level + at, np.uint8) for at in range(length)]
    steps = [10 * at for at in range(length)]
    return Shown(title, SimpleNamespace(
        frames=frames, returns=[-1.5 * at for at in range(length)], steps=steps, success=success, terminated=terminated
    ))  # fmt: skip


def pictures(*panels: Shown, words: str = "goal (0.3, 0.2)") -> list[Any]:
    return list(film_frames("heading", [(words, panels)], PLACE, FPS))


def inside(picture: Any, column: int, row: int = 0) -> Any:
    """The middle of a panel's own picture: below the heading, the task, and two lines of its own."""
    top = GAP // 2 + 4 * PLACE.line + row * (PLACE.side + 2 * PLACE.line + GAP)
    left = GAP + column * (PLACE.side + GAP)
    return picture[top + 50, left + 50].tolist()


def test_panels_stand_side_by_side_and_the_shorter_waits() -> None:
    film = pictures(panel("before", 100, 3), panel("after", 200, 5))
    assert len(film) == 5 + 10  # the last one stands for a second
    assert {picture.shape for picture in film} == {
        (252, 356, 3)
    }  # 12 + 17 + 17 + (34 + 160 + 12), and 2 · (160 + 12) + 12
    assert [inside(film[at], 0)[0] for at in (0, 2, 4, 14)] == [100, 102, 102, 102]
    assert [inside(film[at], 1)[0] for at in (0, 2, 4, 14)] == [200, 202, 204, 204]


def dark(picture: Any, line: int, column: int = 0) -> int:
    """Dark pixels of a line of text."""
    top, left = GAP // 2 + line * PLACE.line, GAP + column * (PLACE.side + GAP)
    return int((picture[top : top + PLACE.line, left : left + PLACE.side] < 110).all(axis=2).sum())


def test_words_are_above_the_pictures_and_returns_move() -> None:
    shown, silent = pictures(panel("before", 100)), pictures(panel("", 100), words="")
    assert all(dark(shown[0], line) > 30 for line in range(4))
    assert dark(silent[0], 1) == dark(silent[0], 2) == 0 and dark(silent[0], 3) > 30
    top = GAP // 2 + 3 * PLACE.line
    lines = [picture[top : top + PLACE.line] for picture in shown]  # return 0.0, −1.5, −3.0
    assert not np.array_equal(lines[0], lines[1]) and not np.array_equal(lines[1], lines[2])
    assert np.array_equal(lines[2], lines[-1])


def green(picture: Any) -> int:
    return int((np.abs(picture.astype(int) - (0, 158, 115)) < 20).all(axis=2).sum())


def test_success_and_an_early_end_are_told_when_they_are_there() -> None:
    won = pictures(panel("after", 200, success=[False, True, True]))
    assert green(won[0]) == 0 and green(won[1]) > 10
    fallen, other = pictures(panel("after", 200, terminated=True)), pictures(panel("after", 200))
    assert np.array_equal(fallen[1], other[1]) and not np.array_equal(fallen[2], other[2])


def test_what_has_no_room_ends_in_dots_within_its_panel() -> None:
    film = pictures(panel("after " * 20, 200), panel("", 200))
    assert dark(film[0], 2) > 30 and dark(film[0], 2, column=1) == 0


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"direction": -1}, "direction −1"),
        ({"goal": [0.31234, -0.2]}, "goal (0.312, −0.2)"),
        ({"env": "reach-v3", "hard": True, "load": {"mass": 2.0}}, "env reach-v3, hard True, load (mass 2)"),
    ],
)
def test_tasks_in_words(task: dict[str, Any], words: str) -> None:
    assert task_words(task) == words


def test_panels_are_as_large_as_fits() -> None:
    assert layout(2, 1, widest=1600, highest=1200, largest=480)[:2] == (2, 480)
    many = layout(10, 1, widest=1600, highest=1200, largest=480)
    assert many.columns == 5 and 250 < many.side < 320  # two lines of five
    assert layout(2, 4, widest=1600, highest=1200, largest=480).columns == 2
    for panels, tasks in ((2, 1), (3, 2), (10, 3), (1, 1)):
        place = layout(panels, tasks, widest=1600, highest=1200, largest=480)
        lines = -(-panels // place.columns) * tasks
        height = GAP + place.line + tasks * place.line + lines * (place.side + 2 * place.line + GAP)
        assert place.width <= 1602 and height <= 1202 and place.side % 2 == 0


# Files


def moving(length: int, size: tuple[int, int] = (64, 48)) -> list[Any]:
    width, height = size
    film = np.full((length, height, width, 3), 250, np.uint8)
    for at in range(length):
        film[at, 10:30, at : at + 10] = (200, 30, 30)
    return list(film)


def test_a_video_can_be_read_back(tmp_path: Path) -> None:
    film = moving(20)
    data = film_files.mp4(film, 12.5)
    assert data == film_files.mp4(film, 12.5)
    (tmp_path / "film.mp4").write_bytes(data)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    meta = next(reader)
    read = [np.frombuffer(frame, np.uint8).reshape(48, 64, 3) for frame in reader]
    assert (meta["size"], meta["fps"], len(read)) == ((64, 48), 12.5, 20)
    assert meta["pix_fmt"].startswith("yuv420p")  # what browsers play
    assert np.abs(read[7].astype(int) - film[7]).mean() < 4 < np.abs(read[7].astype(int) - film[19]).mean()


def test_a_gif_can_be_read_back() -> None:
    image = Image.open(io.BytesIO(film_files.gif(moving(20), 12.5)))
    read = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    assert len(read) == 20 and image.info["loop"] == 0
    assert np.abs(read[7].astype(int) - moving(20)[7]).max() < 12


def test_a_gif_takes_the_time_of_its_film() -> None:
    """30 pictures a second are 3.33 hundredths each, of which a GIF counts whole ones."""
    image = Image.open(io.BytesIO(film_files.gif(moving(30), 30.0)))
    assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 1000


def test_a_gif_that_would_be_too_large_has_fewer_colours_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8))
    whole = len(film_files.gif(noise, 10.0))
    monkeypatch.setattr(film_files, "MOST_GIF_BYTES", whole // 3)
    small = film_files.gif(noise, 10.0)
    image = Image.open(io.BytesIO(small))
    assert len(small) <= whole // 3 and image.n_frames < 12
    assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == pytest.approx(1200, abs=20)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"direction": -1}, "direction=-1"),
        ({"goal": [0.31234, -0.2]}, "goal=0.312,-0.2"),
        ({"env": "../../etc", "x": "a b"}, "env=-etc_x=a-b"),
        ({}, "task"),
    ],
)
def test_tasks_in_files_names(task: dict[str, Any], words: str) -> None:
    assert film_files.file_words(task) == words.replace("-etc", "..-..-etc")


def test_long_tasks_have_short_names_of_their_own() -> None:
    names = {film_files.file_words({"mass": [1.0] * 40 + [last]}) for last in (0.1, 0.2)}
    assert len(names) == 2 and all(len(name) <= 60 for name in names)


def test_where_films_go(tmp_path: Path) -> None:
    paths = film_files.film_paths(tmp_path, 40, [{"direction": 1}, {"direction": -1}], None)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "videos/40_direction=1_and_direction=-1.mp4",
        "videos/40_direction=1_and_direction=-1.gif",
    ]
    assert film_files.film_paths(tmp_path, 40, [{}], tmp_path / "x.GIF") == [tmp_path / "x.GIF"]
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.mp4 or \.gif"):
        film_files.film_paths(tmp_path, 40, [{}], tmp_path / "x.avi")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "videos").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="expected a folder, found a link"):
        film_files.film_paths(tmp_path, 40, [{}], None)


def test_without_ffmpeg_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(ConfigError, match=r"no ffmpeg: No ffmpeg exe.*IMAGEIO_FFMPEG_EXE, or write a GIF"):
        film_files.require_ffmpeg()
