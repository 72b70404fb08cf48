"""``metarl bench device``: what it finds without a GPU, and its way through one that is stood in for by the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_runs
import torch
from on_a_device import needs_fake_device

from metarl import cli
from metarl.agents.maml_vpg import MAMLVPG
from metarl.bench import device
from metarl.config import loading, lookup
from metarl.config.loading import Loaded

SIZE = [
    *("meta_batch_size=3", "rollouts_per_task=2", "task.horizon=5", "task.lineage=null", "agent.hidden_sizes=[6]"),
    *("agent.name=maml_vpg", "sampler.tasks_per_unit=2", "learner.threads=1", "wandb.mode=disabled"),
]


@pytest.fixture(autouse=True)
def few_rounds_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "ROUNDS", 1)
    monkeypatch.setattr(device, "available_cores", lambda: 1)


def tiny(*overrides: str) -> Loaded:
    return loading.load(tiny_runs.POINT, [*SIZE, *overrides])  # an agent whose step is never refused


@needs_fake_device
def test_without_a_gpu_it_says_so_and_counts_on_one_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "device.json"
    assert cli.main(["bench", "device", tiny_runs.POINT, *SIZE, "device=cpu", "--out", str(out)]) == 0
    head, columns, row, speeds = capsys.readouterr().out.splitlines()
    assert head.startswith("no GPU here (torch ") and head.endswith("; no speed of one")
    assert columns.split()[:5] == ["agent", "CPU", "difference", "launches", "waits"]
    assert row.startswith("maml_vpg ") and speeds.startswith("environment steps per second by workers: 1: ")
    measured = json.loads(out.read_text())
    assert (measured["device"], measured["out_of_memory"], measured["task"]) == (None, None, "point")
    (update,) = measured["updates"]
    assert update["env_steps"] == 2 * 3 * 2 * 5 and update["cpu_s"] > 0
    there = update["not_there"]
    assert 0 <= there["difference"] < 1e-3
    assert there["launches"] > 500 and 0 < there["waits"] < 100 and there["copies"] == 2  # a phase each
    assert [each["workers"] for each in measured["sampling"]] == [1]


def test_a_torch_without_that_device_has_no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "missing", lambda: "torch 2.10 has none")
    monkeypatch.setattr(device, "_sampling", lambda config: [])
    measured = device.measure(tiny("device=cpu"))
    assert measured["updates"][0]["not_there"] == {"missing": "torch 2.10 has none"}
    assert device.rows(measured)[1][0][2] == "torch 2.10 has none"


def test_every_agent_with_every_memory_is_measured_on_the_task_and_in_its_sizes() -> None:
    left_out: dict[str, str] = {}
    found = device._configs(tiny(), (), left_out)
    assert left_out == {}
    agents = {name.partition(" ")[0] for name in found}
    assert agents == set(lookup.available("agents"))
    assert {"rl2_ppo gru", "rl2_ppo lstm", "rl2_ppo transformer", "rl2_trpo retrieval", "rl2_ppo ntm", "promp"} <= set(
        found
    )
    for name, config in found.items():
        assert (config.task.name, config.meta_batch_size, config.task.horizon) == ("point", 3, 5)
        assert name == " ".join([config.agent.name, *([config.agent.memory] if " " in name else [])])


@needs_fake_device
def test_an_agent_that_does_not_fit_the_task_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One refuses a scale of actions when it is read, one numbers as actions when it is made."""
    real = lookup.available
    some = ["lpg", "maml_vpg", "uniform"]
    monkeypatch.setattr(lookup, "available", lambda kind: some if kind == "agents" else real(kind))
    measured = device.measure(tiny("device=cpu", "task.action_scale=10.0"), every_agent=True)
    assert [update["agent"] for update in measured["updates"]] == ["maml_vpg"]
    assert sorted(measured["left_out"]) == ["lpg", "uniform"]
    told = "\n".join(device.notes(measured))
    assert "left out: lpg: agent.name = lpg: expected a task whose actions are choices" in told


def test_chunks_and_workers_are_doubled() -> None:
    assert [device._doubling(most) for most in (1, 2, 3, 8, 20)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 8],
        [1, 2, 4, 8, 16, 20],
    ]


def test_all_of_a_gpus_measurements_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for it: steps are the CPU's own, bits the same, and memory ends where it is told to."""
    fraction, peaks = [1.0], iter(range(1, 99))
    update = MAMLVPG.meta_update

    def short_of_memory(self: MAMLVPG, *args, **kwargs):
        if fraction[0] < 1 and self._map.chunk > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return update(self, *args, **kwargs)

    monkeypatch.setattr(MAMLVPG, "meta_update", short_of_memory)
    monkeypatch.setattr(device, "_device", lambda config: "cpu")
    stood_in = {
        "get_device_name": lambda device: "a GPU of paper",
        "get_device_properties": lambda device: SimpleNamespace(total_memory=2**40),
        "set_per_process_memory_fraction": lambda value, device: fraction.__setitem__(0, value),
        "max_memory_allocated": lambda device: next(peaks) * 2**20,
        "reset_peak_memory_stats": lambda device: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device: None,
    }
    for name, function in stood_in.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setenv(device.WORKSPACE, ":16:8")
    monkeypatch.setattr(device, "_sampling", lambda config: [{"workers": 1, "env_steps_per_s": 5.0}])
    measured = device.measure(tiny("learner.tasks_per_chunk=3", f"run_dir={tmp_path}"))
    (found,) = measured["updates"]
    assert set(found["settings"]) == {"float32", "tf32", "deterministic"}
    for setting in found["settings"].values():
        assert setting["same_bits"] and setting["seconds"] > 0 and setting["difference"] < 1e-3
    assert found["peak_mb_by_chunk"] == {1: 1.0, 2: 2.0, 3: 3.0} and 0 <= found["idle_share"] <= 1
    out = measured["out_of_memory"]
    assert (out["exit_code"], out["went_on"], fraction) == (4, True, [1.0])
    assert "less is needed with a smaller learner.tasks_per_chunk" in out["message"]
    assert not list(tmp_path.iterdir())
    columns, (row,) = device.rows(measured)
    assert len(columns) == len(row) and row[-1] == "1: 1, 2: 2, 3: 3"
    head, _, last = device.notes(measured)
    assert head.startswith("a GPU of paper, torch ") and last.startswith("out of memory: ")


def test_options_of_another_part_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "learner", tiny_runs.POINT, "--every-agent"]) == 2
    assert "bench learner: expected neither --every-agent nor --out" in capsys.readouterr().err
