"""The disk as a crash would leave it, behind every single thing that a save does to it.

Instead of a process that dies, copies are taken: of the folder as it stands behind each write, fsync, rename, mkdir,
unlink and rmdir below it. A power cut takes more than a kill: what a file has not been synced for may be gone, so each
moment has a second copy in which files without an fsync are cut in half.
"""

from __future__ import annotations

import builtins
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metarl import storage

RENAMES = ("replace", "rename")
CHANGES = (*RENAMES, "mkdir", "unlink", "rmdir")


class CrashPoints:
    """Copies of ``folder`` in ``copies``, numbered in the order of what was done; ``done`` says what that was."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies = folder, copies
        self.done: list[str] = []
        self._unsynced: set[tuple[int, int]] = set()  # device and inode: renames keep them

    def copied(self) -> Iterator[tuple[str, Path]]:
        """What was done last, and a copy, of all moments in both kinds."""
        for number, what in enumerate(self.done):
            for kind in ("killed", "power cut"):
                yield f"{kind} after {number}: {what}", self.copies / str(number) / kind.replace(" ", "_")

    def note(self, what: str) -> None:
        """Something was done: take the copies."""
        place = self.copies / str(len(self.done))
        self.done.append(what)
        shutil.copytree(self.folder, place / "killed")
        shutil.copytree(self.folder, place / "power_cut")
        for path in self.folder.rglob("*"):
            if path.is_file() and _identity(path.stat()) in self._unsynced:
                copy = place / "power_cut" / path.relative_to(self.folder)
                os.truncate(copy, copy.stat().st_size // 2)

    def written(self, path: Path) -> None:
        """A file has new content."""
        self._unsynced.add(_identity(path.stat()))

    def synced(self, descriptor: int) -> bool:
        """A file or folder is on the disk; whether it is one of ours."""
        self._unsynced.discard(_identity(os.fstat(descriptor)))
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(self.folder)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


class _Written:
    """A file that writes in two halves, each of which is noted."""

    def __init__(self, file: Any, points: CrashPoints) -> None:
        self._file, self._points = file, points

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        path = Path(self._file.name)
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            self._file.write(part)
            self._file.flush()
            self._points.written(path)
            self._points.note(f"write {path.name}")
        return len(data)


@contextmanager
def crash_points(folder: Path, copies: Path) -> Iterator[CrashPoints]:
    """Note all that is done below ``folder`` in this context by ``metarl.storage`` and by functions of ``os``."""
    points = CrashPoints(folder.resolve(), copies)
    real = {name: getattr(os, name) for name in (*CHANGES, "fsync")}
    copying = False

    def noted(what: str) -> None:
        nonlocal copying
        if not copying and folder.exists():
            copying = True
            points.note(what)
            copying = False

    def change(name: str) -> Any:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            result = real[name](path, *args, **kwargs)
            below = "dir_fd" in kwargs or Path(os.fsdecode(path)).absolute().is_relative_to(folder)
            if below and not copying:  # with dir_fd: shutil.rmtree, which only saving does here
                noted(f"{name} {Path(os.fsdecode(path)).name}")
            return result

        return call

    def fsync(descriptor: int) -> None:
        real["fsync"](descriptor)
        if not copying and points.synced(descriptor):
            noted(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    def open_noted(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened = builtins.open(file, *args, **kwargs)  # noqa: SIM115
        below = isinstance(file, Path) and file.absolute().is_relative_to(folder)
        return _Written(opened, points) if below and args[:1] == ("xb",) else opened

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, change(name))
        patch.setattr(os, "fsync", fsync)
        patch.setattr(storage, "open", open_noted, raising=False)
        yield points
