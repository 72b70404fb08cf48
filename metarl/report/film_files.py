"""Films as files: MP4 by ffmpeg, which imageio-ffmpeg brings, and GIF by Pillow."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metarl import run_files
from metarl.errors import ConfigError, StorageError
from metarl.storage import expect_plain

Picture = NDArray[np.uint8]

MP4, GIF = ".mp4", ".gif"
MOST_GIF_BYTES = 2 * 10**6
LONGEST_NAME = 60
_BITEXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", "-threads", "1"]


def require_ffmpeg() -> None:
    """Raises ConfigError where there is no ffmpeg."""
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"no ffmpeg: {' '.join(str(error).split())}; install imageio-ffmpeg with its binary, name one in "
            "IMAGEIO_FFMPEG_EXE, or write a GIF: --out FILE.gif"
        ) from error


def film_paths(run: Path, checkpoint: int, tasks: Sequence[Mapping[str, Any]], out: Path | None) -> list[Path]:
    """The files to be written: ``out``, or ``videos/<checkpoint>_<task>`` of the run as MP4 and GIF.

    Raises:
        ConfigError: ``out`` is neither.
        StorageError: there is something else where the run's videos belong, as a link.
    """
    if out is not None:
        if out.suffix.lower() not in (MP4, GIF) or out.is_dir():
            raise ConfigError(f"--out {out}: expected a file that ends in {MP4} or {GIF}")
        return [out]
    folder = run / run_files.VIDEOS
    stem = f"{checkpoint}_{'_and_'.join(file_words(task) for task in tasks)}"
    if len(stem) > 2 * LONGEST_NAME:
        stem = f"{stem[:LONGEST_NAME]}_{_digest(list(map(dict, tasks)))}"
    paths = [folder / f"{stem}{suffix}" for suffix in (MP4, GIF)]
    try:
        expect_plain(folder, folder=True)
        for path in paths:
            expect_plain(path)
    except OSError as error:
        raise StorageError(f"cannot write a video: {error}") from error
    return paths


def file_words(task: Mapping[str, Any]) -> str:
    """A task as a part of a file's name: ``direction=-1``, ``goal=0.31,-0.2``; a hash where there is no room."""
    words = "_".join(f"{key}={_plain(value)}" for key, value in task.items())
    kept = re.sub(r"[^A-Za-z0-9.,=_-]+", "-", words)
    if len(kept) <= LONGEST_NAME and not kept.startswith("."):
        return kept or "task"
    return f"{kept[: LONGEST_NAME - 9].strip('.,=_-')}_{_digest(dict(task))}"


def mp4(frames: Iterable[Picture], fps: float) -> bytes:
    """Pictures of one size, with even sides, as a video that browsers play."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        writer: Any = None
        for frame in frames:
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = imageio_ffmpeg.write_frames(
                    str(path), size, fps=fps, codec="libx264", quality=None, macro_block_size=2,
                    output_params=["-crf", "20", *_BITEXACT], ffmpeg_log_level="error",
                )  # fmt: skip
                writer.send(None)
            writer.send(np.ascontiguousarray(frame))
        if writer is None:
            raise ValueError("expected at least one picture")
        writer.close()
        return path.read_bytes()


def gif(frames: Sequence[Picture], fps: float) -> bytes:
    """Pictures as a GIF that repeats for ever. Colours, and then pictures, are left out until it is small enough."""
    for colors, skip in ((128, 1), (64, 1), (64, 2), (32, 2), (32, 3), (16, 4)):
        data = _gif(frames[::skip] if skip > 1 else frames, fps / skip, colors)
        if len(data) <= MOST_GIF_BYTES:
            break
    return data


def _gif(frames: Sequence[Picture], fps: float, colors: int) -> bytes:
    """With one table of colours for all, so that what stands still is written once."""
    some = np.concatenate([frames[at] for at in np.linspace(0, len(frames) - 1, 8).round().astype(int)])
    table = Image.fromarray(some).quantize(colors, method=Image.Quantize.MEDIANCUT)
    pictures = [Image.fromarray(frame).quantize(palette=table, dither=Image.Dither.NONE) for frame in frames]
    ends = np.round(np.arange(1, len(pictures) + 1) * 100 / fps).astype(int)  # a GIF counts hundredths of a second
    lengths = np.diff(ends, prepend=0) * 10
    file = io.BytesIO()
    pictures[0].save(
        file, format="gif", save_all=True, append_images=pictures[1:], duration=lengths.tolist(), loop=0, optimize=False
    )
    return file.getvalue()


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(_plain(part) for part in value)
    return str(value)


def _digest(task: Any) -> str:
    return hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:8]
