"""Processes that train together: what they gather, in which order, and how the failure of one ends all."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import rank_processes
import torch
import torch.distributed

from metarl import ranks
from metarl.errors import WorkerError
from metarl.ranks import ALONE, Launch, Ranks, launch
from metarl.wire import ALIGNMENT, pack, unpack

PLACE = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ranks.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Launch()),
        ({"WORLD_SIZE": "4", "RANK": "1"}, Launch()),  # nowhere to meet
        ({**PLACE, "WORLD_SIZE": "4"}, Launch()),  # without a number of one's own
        ({**PLACE, "WORLD_SIZE": "4", "RANK": "one"}, Launch()),
        ({**PLACE, "WORLD_SIZE": "4", "RANK": "3"}, Launch(3, 4)),
        (
            {
                **PLACE,
                **{"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
                **{"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_RUN_ID": "none"},
            },
            Launch(3, 4, 1, 2, 2, True),
        ),
    ],
)
def test_a_launcher_is_understood_where_it_says_all_that_is_needed(
    given: dict[str, str], expected: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert launch() == expected and launch().first == (expected.rank == 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_waiting_for_ranks_that_do_not_come(number: signal.Signals, code: int) -> None:
    program = """
import signal, sys
from metarl import cli, ranks
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests are a shell's background job it is ignored
cli.commands.train = lambda options: ranks.together().__enter__()
sys.exit(cli.main(["train", "x"]))
"""
    first, second = rank_processes.start(2, "-c", program)
    second.kill()
    port = int(psutil.Process(first.pid).environ()["MASTER_PORT"])
    patience = time.monotonic() + 60
    while not any(found.laddr.port == port for found in psutil.Process(first.pid).net_connections()):
        assert first.poll() is None and time.monotonic() < patience
        time.sleep(0.1)
    time.sleep(0.2)  # torch waits now
    first.send_signal(number)
    try:
        first.wait(30)
    except subprocess.TimeoutExpired:
        first.kill()
    assert rank_processes.wait([first])[0].code == code


def test_ranks_that_do_not_come_are_waited_for_aloud_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    monkeypatch.setattr(ranks, "_stores", lambda launched: over.wait(60))
    for name, seconds in (("TOLD_S", 0.05), ("MEET_S", 0.2), ("LOOK_S", 0.1)):
        monkeypatch.setattr(ranks, name, seconds)
    for name, value in {**PLACE, "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(WorkerError, match=r"have not met: waited at localhost:29500 for 0.2 s for all 2"):
            ranks.together().__enter__()
    finally:
        over.set()
    assert caplog.messages == ["rank 0 waits at localhost:29500 for all 2 ranks to come"]


def test_a_process_alone_does_everything_itself() -> None:
    with ranks.together() as group:
        assert group is ALONE and group.first
        thing = object()
        assert group.gather(lambda: [thing]) == [thing] == group.all(thing)
        assert group.by_first(lambda: thing) is thing
        assert (group.gathers, group.bytes) == (0, 0)


@pytest.mark.parametrize(("count", "world", "sizes"), [(10, 4, [2, 3, 2, 3]), (3, 4, [0, 1, 1, 1]), (4, 2, [2, 2])])
def test_parts_are_shared_out_in_order_and_evenly(count: int, world: int, sizes: list[int]) -> None:
    owned = [Ranks(Launch(rank, world)).own(count) for rank in range(world)]
    parts = list(range(count))
    assert [part for own in owned for part in parts[own]] == parts
    assert [len(parts[own]) for own in owned] == sizes


def test_data_comes_back_bit_for_bit() -> None:
    value = {
        "numbers": [1, -2.5, 1e-320, float("inf"), True, None, "→ \n", (0.1, [])],
        3: torch.arange(6, dtype=torch.int64).view(2, 3).T,
        "half": torch.tensor([0.1, -0.0], dtype=torch.bfloat16),
        "scalar": torch.tensor(True),
        "empty": torch.zeros(0, 4),
        "array": np.arange(12.0).reshape(3, 4)[:, ::2],
        "flags": np.array([[True], [False]]),
        "one": np.float32(0.1),
    }
    message = pack(value)
    assert len(message) % ALIGNMENT == 0
    found = unpack(message)
    assert list(found) == list(value) and found["numbers"] == value["numbers"]
    for key in (3, "half", "scalar", "empty"):
        assert found[key].dtype == value[key].dtype and found[key].equal(value[key])
        assert found[key].is_contiguous()
    for key in ("array", "flags"):
        assert found[key].dtype == value[key].dtype and np.array_equal(found[key], value[key])
    assert found["one"] == float(np.float32(0.1))
    assert not np.signbit(found["half"].float().numpy()[0]) and np.signbit(found["half"].float().numpy()[1])


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([object()]), [1j]])
def test_what_has_no_plain_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"between ranks pass numbers, words, tensors and arrays, .*; got "):
        pack([value])


class Step:
    """A step of the network that ends just when somebody has given up waiting for it for now, or fails then."""

    def __init__(self, failure: str | None) -> None:
        self.failure, self.waits = failure, 0

    def allgather(self, found: list[list[torch.Tensor]], given: list[torch.Tensor], options: Any) -> Step:
        for tensor in found[0]:
            tensor.copy_(given[0])
        return self

    def is_completed(self) -> bool:
        return True

    def wait(self, seconds: Any) -> None:
        self.waits += 1
        if self.waits == 1:
            raise RuntimeError("Operation timed out!")
        if self.failure:
            raise RuntimeError(self.failure)


def test_what_ends_between_two_looks_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "group", SimpleNamespace(WORLD=Step(None)))
    assert [int(x) for x in Ranks(Launch(0, 2))._all_gather(torch.tensor(3))] == [3, 3]
    monkeypatch.setattr(torch.distributed, "group", SimpleNamespace(WORLD=Step("connection reset")))
    with pytest.raises(WorkerError, match="another rank is gone: connection reset"):
        Ranks(Launch(0, 2))._all_gather(torch.tensor(3))


@pytest.fixture(scope="module")
def scenes() -> list[dict[str, dict[str, Any]]]:
    """What two ranks have printed of every scene; the second one is killed in the last."""
    first, second = rank_processes.wait(rank_processes.start(2, rank_processes.HELPERS / "rank_scenes.py"))
    assert (first.code, second.code) == (0, -9), first.err + second.err
    lines = [[json.loads(line) for line in ended.out.splitlines()] for ended in (first, second)]
    return [{line["scene"]: line for line in told} for told in lines]


def test_results_are_in_the_order_of_the_ranks(scenes: Any) -> None:
    expected = [True, ["0.0", "1.0", "1.1", "1.2"], [0, 1]]
    assert [told["order"]["found"] for told in scenes] == [[*expected, [0, 2]], [*expected, [2, 5]]]
    assert all(told["order"]["alone"] == 1 for told in scenes)  # again, behind it


def test_tensors_come_to_all_ranks_bit_for_bit(scenes: Any) -> None:
    tiny, nan, zero = 1, 0x7FC00000, -(2**31)
    expected = [[[zero, nan, tiny, own], [True, False], [0, 3]] for own in (0, 0x3F800000)]
    assert [told["bits"]["found"] for told in scenes] == [expected, expected]


def test_what_one_does_for_all_is_done_by_the_first(scenes: Any) -> None:
    assert [told["by_the_first"]["found"] for told in scenes] == [[{"rank": 0}, 1], [{"rank": 0}, 0]]


@pytest.mark.parametrize(
    ("scene", "kinds", "code", "text"),
    [
        ("in_a_gather", ["NumericError", "NumericError"], 4, "not finite"),
        ("of_the_users", ["WorkerError", "ValueError"], 5, "ValueError: no goal"),
        ("between_gathers", ["NumericError", "NumericError"], 4, "not finite"),
        ("while_the_other_samples", ["NumericError", "NumericError"], 4, "not finite"),
    ],
)
def test_an_error_of_one_rank_is_raised_on_all(scene: str, kinds: list[str], code: int, text: str, scenes: Any) -> None:
    """Of its kind, with its exit code; the other one says where it came from, and neither waits for long."""
    first, second = (told[scene] for told in scenes)
    assert [first["error"], second["error"]] == kinds
    assert first["code"] == code and first["text"].startswith(text) and first["text"].endswith("\n  on rank 1")
    assert "on rank" not in second["text"]
    assert first["seconds"] < 30


def test_a_signal_to_one_rank_stops_all_with_its_code(scenes: Any) -> None:
    assert [(told["a_signal"]["error"], told["a_signal"]["code"]) for told in scenes] == [("Interrupted", 143)] * 2


def test_what_cannot_be_sent_is_said_so(scenes: Any) -> None:
    assert all(told["what_cannot_be_sent"]["error"] == "TypeError" for told in scenes)


def test_ranks_that_have_gone_different_ways_notice_it(scenes: Any) -> None:
    assert all("have gone different ways" in told["different_ways"]["text"] for told in scenes)


def test_a_rank_that_takes_too_long_is_not_waited_for(scenes: Any) -> None:
    first = scenes[0]["too_slow"]
    assert (first["error"], first["code"]) == ("LostError", 5) and "sampler.rank_timeout_s" in first["text"]
    assert 0.5 < first["seconds"] < 30


def test_a_rank_that_is_gone_is_noticed(scenes: Any) -> None:
    first = scenes[0]["killed"]
    assert (first["error"], first["code"]) == ("LostError", 5) and first["text"].startswith("another rank is gone: ")
    assert first["seconds"] < 30
