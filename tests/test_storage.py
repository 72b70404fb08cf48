"""Writing files where the file system cannot wait for the disk."""

import errno
import os

import pytest

from metarl import storage

pytestmark = pytest.mark.mistakes


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_without_fsync_files_are_written_and_a_notice_says_so_once(tmp_path, monkeypatch, caplog, number):
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    storage._say_once.cache_clear()
    for data in (b"one", b"two"):
        storage.replace_file(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (record,) = caplog.records
    assert "power cut" in record.message


def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    storage.replace_file(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        storage.replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
