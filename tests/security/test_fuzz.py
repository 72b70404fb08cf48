"""Files that have been changed at random: every command and every function ends in time, in an error of ours or none.

Sums are made to fit, else nothing behind them would be reached. ``METARL_FUZZ=300`` goes on for 300 seconds with each
kind of file, and METARL_FUZZ_SEED chooses where it begins; a failure names the seed that shows it again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuzzing import BYTES, revalued
from hostile import TENSORS, bounded, forge, forge_policy, newest
from tiny_runs import metarl as command

import metarl
from metarl.errors import MetarlError

SECONDS = float(os.environ.get("METARL_FUZZ", 0))
FIRST = int(os.environ.get("METARL_FUZZ_SEED", 0))
CASES = 30  # of each kind of file, unless seconds are given
CODES = {0, 2, 3, 4, 5, 6}  # 1 is a fault of metarl's
MEGABYTES = 500.0

pytestmark = pytest.mark.timeout(int(SECONDS) + 240)


def seeds() -> Iterator[int]:
    """One seed after the other, for so long, or so many."""
    end, seed = time.monotonic() + SECONDS, FIRST
    while time.monotonic() < end or seed < FIRST + CASES:
        yield seed
        seed += 1


def outcomes(case: Callable[[random.Random], object]) -> Counter[str]:
    """What came of all seeds: exit codes, errors of ours by name; anything else is a failure with its seed."""
    found: Counter[str] = Counter()
    for seed in seeds():
        try:
            with bounded(seconds=10, megabytes=MEGABYTES):
                found[str(case(random.Random(seed)))] += 1
        except MetarlError as error:
            assert error.exit_code in CODES, f"seed {seed}: {error!r}"
            assert len(str(error)) < 100_000, f"seed {seed}"
            found[type(error).__name__] += 1
        except BaseException as error:
            raise AssertionError(f"METARL_FUZZ_SEED={seed}: {error!r:.500}") from error
    print(dict(found))
    return found


def told(capsys: pytest.CaptureFixture[str], *words: object) -> int:
    """A command's exit code, which is one of those that are documented; no traceback is shown, and nothing raw."""
    code = command(*words)
    out, err = capsys.readouterr()
    assert code in CODES and "Traceback" not in err and "\x1b" not in out + err, (words, code, err[-500:])
    return code


@pytest.fixture
def spoil(run: Path, good_run: Path) -> Callable[[str, bytes], Path]:
    """A run in which one file is another; the others are as they were."""

    def spoiled(name: str, data: bytes) -> Path:
        shutil.rmtree(run)
        shutil.copytree(good_run, run)
        if name in (TENSORS, "state.json"):
            return forge(run, name, data)
        (run / name).write_bytes(data)
        return run

    return spoiled


def test_tensors(spoil: Callable[[str, bytes], Path], good_run: Path, run: Path) -> None:
    good = (newest(run) / TENSORS).read_bytes()

    def case(rng: random.Random) -> str:
        return type(metarl.load(spoil(TENSORS, rng.choice(BYTES)(good, rng)))).__name__

    found = outcomes(case)
    assert found["CheckpointError"] > CASES / 4  # others change numbers alone


def test_states_by_commands(spoil: Callable[[str, bytes], Path], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (newest(run) / "state.json").read_bytes()

    def case(rng: random.Random) -> int:
        spoiled = spoil("state.json", rng.choice([*BYTES, *[revalued] * 5])(good, rng))
        if rng.random() < 0.3:
            (spoiled / "config.yaml").unlink()
        name = rng.choice(["hash", "evaluate", "list runs", "report", "compare"])
        return told(capsys, *name.split(), spoiled)

    outcomes(case)


def test_states(spoil: Callable[[str, bytes], Path], run: Path) -> None:
    good = (newest(run) / "state.json").read_bytes()

    def case(rng: random.Random) -> str:
        return type(metarl.load(spoil("state.json", rng.choice([*BYTES, *[revalued] * 5])(good, rng)))).__name__

    assert outcomes(case)["CheckpointError"] > CASES / 4


def test_manifests(spoil: Callable[[str, bytes], Path], run: Path) -> None:
    good = (newest(run) / "manifest.json").read_bytes()
    name = (newest(run) / "manifest.json").relative_to(run)

    def case(rng: random.Random) -> str:
        return type(metarl.load(spoil(str(name), rng.choice([*BYTES, revalued])(good, rng)))).__name__

    found = outcomes(case)
    assert found["CheckpointError"] + found["NewerFormatError"] == found.total()  # every change is found


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "evaluations.jsonl", "versions.json"])
def test_records(name: str, spoil: Callable[[str, bytes], Path], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (run / name).read_bytes()
    changes = BYTES if name == "config.yaml" else [*BYTES, *[revalued_lines] * 5]

    def case(rng: random.Random) -> int:
        words = rng.choice(["report", "compare", "list runs", "evaluate", "compare --csv", "compare --latex"]).split()
        return told(capsys, *words, spoil(name, rng.choice(changes)(good, rng)))

    assert outcomes(case)["0"] > 0


def revalued_lines(data: bytes, rng: random.Random) -> bytes:
    """The same of one of several lines of JSON."""
    lines = data.splitlines()
    if len(lines) > 2 and lines[0].strip() == b"{":  # one object over many lines
        return revalued(data, rng)
    place = rng.randrange(len(lines))
    return b"\n".join([*lines[:place], revalued(lines[place], rng), *lines[place + 1 :]]) + b"\n"


def test_configurations(good_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (good_run / "config.yaml").read_bytes()
    path = tmp_path / "fuzz.yaml"

    def case(rng: random.Random) -> int:
        path.write_bytes(rng.choice(BYTES)(good, rng))
        words = rng.choice([["train", path, "--print-config"], ["train", path, "--help"]])
        return told(capsys, *words)

    found = outcomes(case)
    assert found["2"] > CASES / 4 and set(found) <= {"0", "2"}
    assert [entry.name for entry in tmp_path.iterdir()] in ([path.name], [path.name, "run"], ["run", path.name])


def test_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = b"task.name=point agent.inner_lr=0.1 agent.hidden_sizes=[8,8] wandb.tags=['a','b'] eval={'every':null}"

    def case(rng: random.Random) -> int:
        words = rng.choice(BYTES)(good, rng).decode("utf-8", "surrogateescape").split(" ")
        return told(capsys, "train", "maml_trpo_point", "--print-config", *[word for word in words if "=" in word])

    assert set(outcomes(case)) <= {"0", "2"}


def test_policies(policy: Path, good_policy: Path) -> None:
    good, tensors = ((good_policy / name).read_bytes() for name in ("policy.json", "tensors.safetensors"))

    def case(rng: random.Random) -> str:
        (policy / "policy.json").write_bytes(good)
        (policy / "tensors.safetensors").write_bytes(tensors)
        if rng.random() < 0.3:
            forge_policy(policy, lambda content: None, rng.choice(BYTES)(tensors, rng))
        elif rng.random() < 0.3:
            (policy / "policy.json").write_bytes(rng.choice(BYTES)(good, rng))
        else:
            changed = json.loads(revalued(good, rng))
            if isinstance(changed, dict):
                forge_policy(policy, lambda content: content.update(changed))
        return type(metarl.load_policy(policy)).__name__

    assert outcomes(case)["CheckpointError"] > CASES / 4
