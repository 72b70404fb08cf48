"""Memories on sequences: what is asked by hand, lessons that go on bit for bit, numbers by hand, and a small study."""

from __future__ import annotations

import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import torch
from PIL import Image
from tiny_runs import metarl, strict_json

from metarl.errors import CheckpointError, ConfigError, Interrupted
from metarl.nn.memories.make import make_memory
from metarl.studies.jobs import find_jobs
from metarl.studies.memories import page, sequences, summary
from metarl.studies.memories.lesson import RESULT, STATE, Training
from metarl.studies.memories.plan import MEMORIES, TASKS, SequencePiece, make_study
from metarl.studies.memories.student import Reader, Student

pytestmark = pytest.mark.usefixtures("children_find_metarl")
TIMES = ("seconds", "updates_per_s", "steps_per_s")

# Sequences


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_copy_shows_vectors_and_a_mark_and_asks_for_the_vectors() -> None:
    x, target = sequences.copy(rng(), 5, (3,))
    assert x.shape == (5, 7, 9) and target.shape == (5, 3, 8)
    np.testing.assert_array_equal(x[:, :3, :8], target)
    assert not x[:, :3, 8].any() and not x[:, 4:].any()  # nothing is shown while the answer is given
    np.testing.assert_array_equal(x[:, 3], [[0.0] * 8 + [1.0]] * 5)
    assert set(np.unique(target)) == {0.0, 1.0} and len(np.unique(target.reshape(5, -1), axis=0)) == 5


def test_repeat_copy_asks_for_all_of_it_several_times_and_for_the_end() -> None:
    x, target = sequences.repeat_copy(rng(), 4, (2, 3))
    assert x.shape == (4, 2 + 1 + 7, 10) and target.shape == (4, 7, 9)
    for answer in range(6):
        np.testing.assert_array_equal(target[:, answer], np.hstack([x[:, answer % 2, :8], np.zeros((4, 1))]))
    np.testing.assert_array_equal(target[:, 6], [[0.0] * 8 + [1.0]] * 4)
    np.testing.assert_allclose(x[:, 2], [[0.0] * 8 + [1.0, 0.6]] * 4)  # 3 of at most 5 times
    assert not x[:, 3:].any()


def test_recall_asks_for_the_item_behind_the_one_that_is_shown_again() -> None:
    x, target = sequences.recall(rng(), 200, (4,))
    assert x.shape == (200, 4 * 4 + 5 + 3, 8) and target.shape == (200, 3, 6)
    items = x[:, :16].reshape(200, 4, 4, 8)
    np.testing.assert_array_equal(items[:, :, 0], np.tile([0.0] * 6 + [1, 0], (200, 4, 1)))
    np.testing.assert_array_equal(x[:, [16, 20]], np.tile([0.0] * 6 + [0, 1], (200, 2, 1)))
    assert not items[:, :, 1:, 6:].any() and not x[:, 17:20, 6:].any() and not x[:, 21:].any()
    places = set()
    for row in range(200):
        places |= {
            place
            for place in range(3)
            if (items[row, place, 1:, :6] == x[row, 17:20, :6]).all()
            and (items[row, place + 1, 1:, :6] == target[row]).all()
        }
    assert places == {0, 1, 2}


@pytest.mark.parametrize("name", TASKS)
def test_sizes_are_those_of_the_issue_and_every_one_comes(name: str) -> None:
    task = sequences.TASKS[name]
    drawn = {task.random_size(rng(seed)) for seed in range(500)}
    assert drawn == set(task.scored["trained"])
    x, target = task.draw(rng(), 2, max(drawn))
    assert (x.shape[2], target.shape[2]) == (task.inputs, task.outputs)
    again = task.draw(rng(), 2, max(drawn))
    np.testing.assert_array_equal(x, again.x)


# Lessons


def lesson(task: str = "copy", *, seed: int = 0, **training: Any) -> SequencePiece:
    settings = Training(**{"updates": 6, "rows": 4, "scored": 8, **training})
    return SequencePiece(task, "gru", seed, {"kind": "gru", "size": 8}, settings)


def outcome(result: dict[str, Any] | None) -> dict[str, Any]:
    assert result is not None
    return {key: value for key, value in result.items() if key not in TIMES}


def test_a_lesson_is_learned(tmp_path: Path) -> None:
    """Two vectors at most, so that a small network knows them soon."""
    one = replace(lesson(updates=400, rows=32, lr=1e-2), arguments={"kind": "gru", "size": 32})
    student = Student(one)
    student._task = replace(student._task, sizes=((1, 2),), scored={"trained": ((1,), (2,))})
    while not student.over:
        student.update()
    found = student.result()
    assert found["curve"][0][1] == pytest.approx(math.log(2), abs=0.1) and found["curve"][-1][1] < 0.3
    assert found["scores"]["trained"]["bits"] > 0.85
    assert len(found["curve"]) == 50 and found["curve"][-1][0] == found["updates"] == 400
    assert found["parameters"] == make_memory("gru", 9, 32).num_parameters + 33 * 8


def test_scores_are_shares_of_right_bits_and_of_whole_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is right but the first bit of the first of four sequences."""

    def almost(self: Reader, flat: torch.Tensor, x: torch.Tensor, answers: int) -> torch.Tensor:
        logits = 2 * x[:, :answers, :8] - 1
        logits[0, 0, 0] *= -1
        return logits

    student = Student(lesson(scored=4))
    monkeypatch.setattr(Reader, "logits", almost)
    assert student._score((2,)) == {"bits": 1 - 1 / 64, "sequences": 0.75}
    monkeypatch.setattr(Student, "_score", lambda self, size: {"bits": size[0] / 20, "sequences": 0.5})
    scores = student.result()["scores"]
    assert scores["trained"] == {"bits": pytest.approx(5.5 / 20), "sequences": 0.5}
    assert scores["longer"]["bits"] == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_a_lesson_that_is_stopped_goes_on_to_the_same_bits(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = lesson(task)
    one.run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        tiny_runs.on_call(patch, Student, "update", 3, tiny_runs.send_self(signal.SIGTERM))
        with pytest.raises(Interrupted):
            one.run(tmp_path / "hit")
    folder = tmp_path / "hit" / task / "gru" / "s0"
    assert one.state(tmp_path / "hit") == "started" and [path.name for path in folder.iterdir()] == [STATE]
    one.run(tmp_path / "hit")
    assert one.state(tmp_path / "hit") == "finished" and [path.name for path in folder.iterdir()] == [RESULT]
    assert outcome(one.result(tmp_path / "hit")) == outcome(one.result(tmp_path / "whole"))
    other = lesson(task, seed=1)
    assert other.state(tmp_path / "whole") == "new"
    other.run(tmp_path / "whole")
    assert outcome(other.result(tmp_path / "whole"))["curve"] != outcome(one.result(tmp_path / "whole"))["curve"]


def test_what_was_made_with_other_settings_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = lesson(), lesson(lr=0.5)
    with monkeypatch.context() as patch:
        tiny_runs.on_call(patch, Student, "update", 3, tiny_runs.send_self(signal.SIGTERM))
        with pytest.raises(Interrupted):
            one.run(tmp_path)
    with pytest.raises(ConfigError, match="move it away, or choose another --out"):
        other.run(tmp_path)
    one.run(tmp_path)
    with pytest.raises(ConfigError, match=r"'lr': 0\.001"):
        other.state(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    one = lesson()
    folder = tmp_path / str(one)
    folder.mkdir(parents=True)
    (folder / STATE).write_bytes(Student(one).saved()[:-20])
    with pytest.raises(CheckpointError, match=f"{STATE}: expected a lesson that was saved"):
        one.run(tmp_path)
    (folder / RESULT).write_text("{")
    with pytest.raises(CheckpointError, match=f"{RESULT}: expected the result of a lesson"):
        one.state(tmp_path)


def test_a_lesson_that_diverges_ends_with_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, asked = Reader.logits, []

    def breaks(self: Reader, flat: torch.Tensor, x: torch.Tensor, answers: int) -> torch.Tensor:
        asked.append(flat.detach().clone())
        return logits(self, flat, x, answers) * (math.nan if len(asked) == 4 else 1.0)

    monkeypatch.setattr(Reader, "logits", breaks)
    one = lesson()
    one.run(tmp_path)
    found = one.result(tmp_path)
    assert found is not None and found["diverged"] and found["updates"] == 3
    assert torch.equal(asked[-1], asked[3]) and 0 <= found["scores"]["trained"]["bits"] <= 1


# Numbers


def made_up(seed: int, bits: float, sequences: float = 0.0) -> dict[str, Any]:
    return {"seed": seed, "diverged": False, "scores": {"trained": {"bits": bits, "sequences": sequences}}}


def test_medians_and_failed_seeds() -> None:
    results = {"ntm": [made_up(0, 1.0, 0.9), made_up(1, 0.6), made_up(2, 0.98, 0.5)], "gru": [None, made_up(1, 0.7)]}
    found = summary.summarise_task("copy", {"trained": 0.95}, results)["memories"]
    assert found["ntm"]["median"] == {"trained": {"bits": 0.98, "sequences": 0.5}}
    assert found["ntm"]["failed"] == {"trained": [1]} and found["ntm"]["missing_seeds"] == []
    assert found["gru"]["failed"] == {"trained": [1]} and found["gru"]["missing_seeds"] == [0]


def test_a_gain_is_what_lies_above_random_play_as_a_share_of_the_grus() -> None:
    def entry(*trials: float) -> dict[str, Any]:
        return {"random": 5.0, "runs": [{"seed": seed, "trial": trial} for seed, trial in enumerate(trials)]}

    found = summary.with_gains({"gru": entry(6.0, 7.0, 6.5), "ntm": entry(6.5, 6.2, 6.35)}, "gru", 0.9)
    assert found["ntm"]["gain"]["by_seed"] == pytest.approx([1.0, 0.8, 0.9])
    assert found["ntm"]["gain"]["median"] == pytest.approx(0.9) and 1 in found["ntm"]["failed"]
    assert summary.with_gains({"ntm": entry(6.5)}, "gru", 0.9)["ntm"]["gain"] is None
    assert summary.with_gains({"gru": entry(5.0), "ntm": entry(6.5)}, "gru", 0.9)["ntm"]["gain"] is None


def test_memories_have_about_as_many_parameters() -> None:
    for name, task in TASKS.items():
        inputs = sequences.TASKS[name].inputs
        sizes = [make_memory(input_size=inputs, **MEMORIES[m].arguments).num_parameters for m in task.memories]
        assert max(sizes) < 1.15 * min(sizes), sizes


# The study


def test_the_plan(tmp_path: Path) -> None:
    study = make_study(None, None, None)
    assert study.command == "metarl reproduce memories"
    lessons = [str(piece) for piece in study.pieces()]
    assert len(lessons) == len(set(lessons)) == 3 * (3 + 3 + 6) and lessons[0] == "copy/gru/s0"
    assert sum(name.startswith("recall/") for name in lessons) == 18
    jobs = find_jobs(study.cells(), tmp_path)
    assert len(jobs) == 18
    for job, memory in zip(jobs, 3 * list(MEMORIES), strict=True):
        agent: Any = job.config.agent
        assert f"bandit/{memory}/" in str(job.entry)
        assert memory == (f"retrieval_{agent.retrieval_metric}" if agent.memory == "retrieval" else agent.memory)
        assert (agent.episodes_per_trial, agent.memory_size, job.config.iterations) == (10, 64, 150)
    part = make_study(["copy"], ["ntm"], 2, small=True)
    assert part.command == "metarl reproduce memories --tasks copy --memories ntm --seeds 2 --small"
    assert not part.cells() and [str(piece) for piece in part.pieces()] == ["copy/ntm/s0", "copy/ntm/s1"]
    with pytest.raises(ConfigError, match="no task 'cpy' in memories: did you mean copy"):
        make_study(["cpy"], None, None)


@pytest.mark.pages
def test_a_small_study_from_beginning_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "memories", "--small", "--tasks", "copy", "bandit", "--memories", "gru", "ntm"]
    out = tmp_path / "out"
    assert metarl(*command, "--out", out, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"new       {out / 'copy' / 'ntm' / 's0'}, by this command itself" and not out.exists()
    assert lines[2].startswith("new       metarl train rl2_ppo_bernoulli_bandit seed=0 ") and len(lines) == 4
    assert metarl(*command, "--out", out) == 0
    said = capsys.readouterr().out
    assert "[1/2] copy/gru/s0\n[2/2] copy/ntm/s0\n" in said
    numbers, text = strict_json(out / "memories.json"), (out / "memories.md").read_text("utf-8")
    assert numbers["tasks"]["copy"]["memories"]["ntm"]["runs"][0]["updates"] == 3
    assert len(numbers["bandit"]["gru"]["runs"]) == 1 and numbers["bandit"]["gru"]["random"] == 1.5
    assert "**Made with `--small`" in text and "Not finished" not in text and "| NTM, 1 head" in text
    assert str(tmp_path) not in text + (out / "memories.json").read_text("utf-8")
    with Image.open(out / "memories" / "learning.png") as image:
        assert image.format == "PNG"
    # all is done: the same command does nothing; of what is taken away the page says so
    assert metarl(*command, "--out", out) == 0 and "[1/2]" not in capsys.readouterr().out
    assert (out / "memories.md").read_text("utf-8") == text
    shutil.rmtree(out / "copy" / "ntm")
    assert metarl(*command, "--out", out, "--report-only") == 0
    text = (out / "memories.md").read_text("utf-8")
    assert "Not finished, and so not in any number here:** `copy ntm` seed 0." in text
    assert "| NTM, 1 head that reads and 1 that writes | missing | – |" in text


def test_a_seed_below_the_bar_is_bold() -> None:
    run = {**made_up(0, 0.5), "parameters": 7, "updates": 9, "seconds": 90.0, "steps_per_s": 1234.0}
    results = {"ntm": [run, {**run, **made_up(1, 0.99, 0.75)}]}
    content = summary.summarise_task("copy", {"trained": 0.95}, results)
    text = page._sequences(content, {"ntm": "NTM"})
    assert "| NTM | 74.5 % (**50.0 %**, 99.0 %) | 37.5 % | 7 | 9 | 1.5 min | 1234 |" in text
