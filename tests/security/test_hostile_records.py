"""Records of runs from somebody else: huge lines, pipes, text that is none; reports and lists end in time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hostile import DEEP, bounded
from tiny_runs import lines
from tiny_runs import metarl as command

from metarl.errors import StorageError
from metarl.monitor import metrics_file
from metarl.monitor.metrics_file import MetricsFile
from metarl.storage import MAX_JSON_BYTES, MAX_JSON_DEPTH, read_json, strict_json

pytestmark = pytest.mark.timeout(120)
RECORDS = ["metrics.jsonl", "evaluations.jsonl"]
# beside the commands on checkpoints; all of these read the records
COMMANDS = [["report"], ["compare"], ["list", "runs"]]


def line(run: Path, name: str, **changes: Any) -> bytes:
    """The first line of a file of records, changed."""
    return (json.dumps({**lines(run / name)[0], **changes}) + "\n").encode()


@pytest.mark.parametrize("name", RECORDS)
def test_a_huge_line_is_left_out_and_takes_no_memory(name: str, run: Path) -> None:
    good, one = MetricsFile.read(run / name), line(run, name)
    with open(run / name, "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b'{"iteration": 1, "x": "')
        file.truncate(file.tell() + 150 * 2**20)  # sparse
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + one)
    with bounded(megabytes=100):
        assert MetricsFile.read(run / name) == [*good, good[0]]


def test_lines_end_where_a_part_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worked out by hand: of parts of 20 bytes, a line of 19 and its end is whole; of a longer one the rest is none."""
    monkeypatch.setattr(metrics_file, "MAX_LINE_BYTES", 20)
    texts = ['{"iteration": 1234}', '{"iteration": 12345}{"iteration": 7}', '{"iteration": 6}']
    assert [len(text) for text in texts] == [19, 36, 16]
    (tmp_path / "x").write_text("\n".join(texts) + "\n")
    assert MetricsFile.read(tmp_path / "x") == [{"iteration": 1234}, {"iteration": 6}]
    (tmp_path / "x").write_text('{"iteration": 6}')
    assert MetricsFile.read(tmp_path / "x") == [{"iteration": 6}]


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    "text",
    [DEEP, b'{"iteration": 1, "x": ' + b"[" * 900 + b"]" * 900 + b"}", b"\xff\xfe", b'{"iteration": 1, "x": "\xff"}',
     b'{"iteration": 1, "env_steps": NaN}', b'{"iteration": 1, "iteration": 2}', b'{"iteration": 1, "\\ud800": 1}'],
    ids=["deep", "less deep", "no text", "half text", "NaN", "twice", "half a character"],
)  # fmt: skip
def test_a_line_that_is_not_ours_is_left_out(name: str, text: bytes, run: Path) -> None:
    good = MetricsFile.read(run / name)
    with open(run / name, "ab") as file:
        file.write(text + b"\n")
    with bounded():
        assert MetricsFile.read(run / name) == good


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    "changes",
    [{"env_steps": 10**4000, "iteration": 10**4000}, {"train/return/0": 1e308, "mean": [1e308, -1e308]},
     {"train/return/0": "\x1b[31m", "mean": "\x1b[31m"}, {"steps": [], "train/return/0": True},
     {"by_class": {"x" * 100_000: 1}, "train/return/0": {}}, {"perf/sample_s": "x", "mean": [[]]},
     {"perf/seconds": [], "mean": {}}],
    ids=["whole", "huge", "text", "empty", "names", "seconds", "all seconds"],
)  # fmt: skip
def test_numbers_that_are_none_are_told_in_words(
    name: str, changes: dict[str, Any], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(run / name, "ab") as file:
        file.write(line(run, name, **changes))
    for words in (["report"], ["compare"]):
        with bounded(seconds=4):
            code = command(*words, run)
        said = capsys.readouterr().err
        assert code == 2 and "Traceback" not in said and "\x1b" not in said and len(said) < 10_000
    assert command("list", "runs", run) == 0


@pytest.mark.parametrize("name", [*RECORDS, "versions.json", "config.yaml", "lock", "checkpoints/1/state.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_pipe_a_device_or_a_folder_holds_up_no_command(name: str, kind: str, run: Path) -> None:
    path = run / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for words in COMMANDS:
        with bounded(seconds=4):
            assert command(*words, run) in (0, 2, 3, 6)


def test_records_that_are_no_file_are_a_storage_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="expected a plain file"):
        MetricsFile.read(tmp_path / "pipe")


@pytest.mark.parametrize(
    "text",
    [DEEP, b"[" * 100_000, b"\xff\xfe", b'["' + b"a" * 20 * 2**20 + b'"]', b'{"git": {"commit": 5}, "cpu": [1]}'],
)
def test_versions_that_say_anything_stop_no_report(text: bytes, run: Path) -> None:
    (run / "versions.json").write_bytes(text)
    for words in COMMANDS:
        with bounded(seconds=4):
            assert command(*words, run) == 0


# How JSON is read


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[-1e400]", "-1e400 is more than a float can hold"),
        (b"[1E+999]", "more than a float can hold"),
        (b"[" + b"9" * 400 + b".5]", "more than a float can hold"),
        (b'["\\ud800"]', "surrogates not allowed"),
        (b'["\xff"]', "codec can't decode"),
        ("[1]".encode("utf-16"), "codec can't decode"),
        (b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1), "at most 32 levels"),
        (DEEP, "at most 32 levels"),
        (b"9" * 5000, "Exceeds the limit"),
    ],
)
def test_json_that_we_do_not_write_is_refused(text: bytes, complaint: str) -> None:
    with bounded(), pytest.raises(ValueError, match=complaint):
        strict_json(text)


def test_json_that_we_write_is_read() -> None:
    deep: Any = 1
    for _ in range(MAX_JSON_DEPTH):
        deep = [deep]
    for data in ({"a": [1, 2.5, None, True, "ü∞", "\U0001f600"]}, deep, 2**127 + 1, "x", [], {}, [1e308, 5e-324]):
        for only_ascii in (True, False):
            assert strict_json(json.dumps(data, ensure_ascii=only_ascii).encode()) == data


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with bounded(megabytes=5), pytest.raises(ValueError, match="at most 16777216 bytes, got 16777217"):
        read_json(tmp_path / "x")
