"""The device of a run: which it is, what becomes of the run without it, its arithmetic, and the end of its memory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import torch
from on_a_device import needs_fake_device
from tiny_runs import POINT, metarl, outcome, saved_state, tree

import metarl as door
from metarl.agents.maml_trpo import MAMLTRPO
from metarl.agents.promp import ProMP
from metarl.agents.rl2_ppo import RL2PPO
from metarl.bench.fake_device import fake_device
from metarl.config import devices, loading
from metarl.config.schema import RunConfig
from metarl.errors import ConfigError
from metarl.faults import explained
from metarl.run import arithmetic, checkpoint, experiment, run_config, run_dir
from metarl.run.arithmetic import WORKSPACE
from metarl.run.experiment import build, learner_device, resolve
from metarl.run.trainer import Trainer

pytestmark = pytest.mark.mistakes

SIZE = ("iterations=2", "eval.every=null", "eval.num_tasks=2")
OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
TRAINER = "a smaller learner.tasks_per_chunk, which `metarl resume` takes, too"


def have(patch: pytest.MonkeyPatch, number: int) -> None:
    """A machine with that many GPUs."""
    patch.setattr(devices, "count", lambda: number)
    patch.setattr("torch.cuda.is_available", lambda: number > 0)


# A run of another machine's


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two iterations. Tests must leave it as it is."""
    return tiny_runs.train(tmp_path_factory.mktemp("reference"), *SIZE)


def made_on(device: str, run: Path) -> Path:
    """The run as a machine with such a device leaves it."""
    config = run_dir.read_config(run).model_copy(update={"device": device})
    newest = checkpoint.latest(run_dir.checkpoints(run))
    with pytest.MonkeyPatch.context() as patch:
        have(patch, 8)
        run_config.write(run, run_config.encode(config))
    state = newest.state.model_copy(update={"config": loading.as_data(config)})
    checkpoint.save(run_dir.checkpoints(run), newest.tensors, state, keep=3)
    return run


@pytest.fixture
def from_a_gpu(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run to play with, of a machine with a GPU; this one has none."""
    run = made_on("cuda", Path(shutil.copytree(reference, tmp_path / POINT / reference.name)))
    have(monkeypatch, 0)
    return run


NO_GPU = "device = cpu, because this machine has no CUDA device; the run had cuda: last bits may differ"


@pytest.mark.parametrize("changes", [[], ["device=cpu"], ["device=auto"], ["learner.tasks_per_chunk=1"]], ids=str)
def test_a_run_of_a_gpu_is_evaluated_without_one(
    changes: list[str], from_a_gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(from_a_gpu)
    assert metarl("evaluate", from_a_gpu, "--json", *changes) == 0
    assert NO_GPU in capsys.readouterr().err
    assert tree(from_a_gpu) == before


def test_a_run_of_a_gpu_is_opened_by_everything_that_reads_it(from_a_gpu: Path) -> None:
    assert metarl("hash", from_a_gpu) == metarl("report", from_a_gpu) == metarl("list", "runs", from_a_gpu.parent) == 0
    assert metarl("compare", from_a_gpu) == 0
    agent = door.load(from_a_gpu)
    assert agent.iteration == 2 and agent.held_out_tasks()
    with pytest.raises(ConfigError, match="device = cuda: no CUDA device was found; use cpu"):
        door.load(from_a_gpu, device="cuda")


@needs_fake_device
def test_an_agent_that_is_loaded_adapts_there_and_acts_here(reference: Path) -> None:
    def adapted(device: str) -> tuple[torch.Tensor, Any]:
        agent = door.load(reference, device=device)
        policy = agent.adapt(agent.make_env(), seed=1, steps=1, episodes=2)
        return policy.parameters, policy(np.zeros(2, np.float32))

    expected = adapted("cpu")
    with fake_device() as (device, counts):
        found = adapted(str(device))
        assert counts.launches.total() > 100
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-5)


def test_a_run_of_a_gpu_goes_on_without_one_where_that_is_said(
    from_a_gpu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(from_a_gpu)
    assert metarl("resume", from_a_gpu, "iterations=3") == 2
    assert capsys.readouterr().err == (
        "error: device = cuda: the run was trained on it, and this machine has none such; "
        f"`metarl resume {run_dir.shown(from_a_gpu)} device=cpu` goes on with cpu, where last bits differ\n"
    )
    assert tree(from_a_gpu) | {"lock": ""} == before | {"lock": ""}
    assert metarl("resume", from_a_gpu, "iterations=3", "device=cpu") == 0
    assert NO_GPU in capsys.readouterr().err
    assert run_dir.read_config(from_a_gpu).device == saved_state(from_a_gpu)["config"]["device"] == "cpu"
    assert run_dir.digest(from_a_gpu) == run_dir.digest(tiny_runs.train(tmp_path / "longer", *SIZE, "iterations=3"))
    assert metarl("resume", from_a_gpu, "iterations=3") == 0  # it is a run of this machine's now


def test_another_card_of_the_machine_takes_the_place_of_one_that_is_not_there(
    from_a_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_on("cuda:3", from_a_gpu)
    have(monkeypatch, 2)
    opened = run_dir.open_run(run)
    assert (opened.config.device, opened.device) == ("cuda", "cuda:3")
    (notice,) = opened.notices
    assert notice.startswith("device = cuda, because this machine has no such device as cuda:3; the run had cuda:3")
    have(monkeypatch, 4)
    assert run_dir.open_run(run).config.device == "cuda:3" and not run_dir.open_run(run).notices


def test_a_device_that_is_not_there_is_refused_where_it_is_asked_for(
    from_a_gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("evaluate", "resume"):
        for device in ("cuda", "cuda:1"):
            assert metarl(command, from_a_gpu, f"device={device}") == 2
            assert "no CUDA device was found" in capsys.readouterr().err


# Which device


def config(*overrides: str, name: str = POINT) -> RunConfig:
    return loading.load(name, overrides).config


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("maml_trpo_point", "cpu"),
        ("maml_trpo_half_cheetah_dir", "cpu"),  # 40·20·100 steps of 64·64: 3.3e8 multiply-adds
        ("maml_trpo_ml10", "cuda"),  # 20·10·500 of 512·512: 2.6e10
        ("rl2_ppo_ml10", "cuda"),
        ("maml_trpo_bernoulli_bandit", "cpu"),
    ],
)
def test_auto_takes_a_gpu_where_network_and_batch_are_large(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, 1)
    assert learner_device(config(name=name)) == resolve(config(name=name)).device == device
    assert learner_device(config("device=cuda", name=name)) == "cuda"
    assert learner_device(config("device=cpu", name=name)) == "cpu"
    have(monkeypatch, 0)
    assert learner_device(config(name=name)) == "cpu"


def test_the_work_of_a_phase_by_hand() -> None:
    sizes = ("meta_batch_size=5", "rollouts_per_task=4", "task.horizon=10")
    gradient = config(*sizes, "agent.hidden_sizes=[8, 6, 4]", "task.lineage=null")
    assert gradient.agent.work(gradient) == 5 * 4 * 10 * (8 * 6 + 6 * 4)
    memory = config(*sizes, "agent.name=rl2_ppo", "agent.memory_size=8", "agent.episodes_per_trial=3")
    assert memory.agent.work(memory) == 5 * 4 * 3 * 10 * (3 * 8 * (1 + 8) + 2 * 3 * 8)  # a GRU with one input


def test_all_tasks_are_one_chunk_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, 2)
    for device in ("cuda", "cuda:1"):
        resolved = resolve(config(f"device={device}", "meta_batch_size=7", "learner.tasks_per_chunk=auto"))
        assert (resolved.device, resolved.learner.tasks_per_chunk) == (device, 7)


def test_cuda_comes_first_and_workers_do_not_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While workers start GPUs are hidden from this process as well: what CUDA finds then, it believes for ever."""
    order: list[tuple[str, str | None]] = []

    def note(name: str) -> None:
        original = getattr(experiment, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            order.append((name, os.environ.get("CUDA_VISIBLE_DEVICES")))
            return original(*args, **kwargs)

        monkeypatch.setattr(experiment, name, noted)

    note("make_agent")
    note("make_executor")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    overrides = tiny_runs.overrides(tmp_path, "sampler.workers=1")
    with build(resolve(loading.load(POINT, overrides).config)) as made:
        assert order == [("make_agent", "5"), ("make_executor", "5")]
        assert made.executor.map(visible, [0, 1]) == [("", 0), ("", 0)]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def visible(unit: int) -> tuple[str | None, int]:
    """What a worker sees of GPUs."""
    return os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()


# Arithmetic


def switches() -> dict[str, Any]:
    backends: Any = torch.backends
    places = {"matmul": backends.cuda.matmul, "conv": backends.cudnn.conv, "rnn": backends.cudnn.rnn}
    return {
        **{name: place.fp32_precision for name, place in places.items()},
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
    }


def on_a_gpu(**learner: bool) -> RunConfig:
    resolved = resolve(config())
    return resolved.model_copy(update={"device": "cuda:0", "learner": resolved.learner.model_copy(update=learner)})


@pytest.mark.parametrize("before", ["ieee", "tf32"])
@pytest.mark.parametrize(("tf32", "precision"), [(False, "ieee"), (True, "tf32")])
def test_tf32_is_set_both_ways_and_given_back(tf32: bool, precision: str, before: str) -> None:
    found = switches()
    with arithmetic._precision(before):
        with arithmetic.arithmetic(on_a_gpu(tf32=tf32)):
            assert switches() == {**found, **dict.fromkeys(("matmul", "conv", "rnn"), precision)}
        assert switches()["rnn"] == before
    assert switches() == found


def test_a_deterministic_gpu_has_a_fixed_order_and_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    found = switches()
    with arithmetic.arithmetic(on_a_gpu(deterministic=True)):
        assert switches()["deterministic"] and not switches()["fill"]
        assert os.environ[WORKSPACE] == ":16:8"
    assert switches() == found
    monkeypatch.setenv(WORKSPACE, ":4096:8")
    with arithmetic.arithmetic(on_a_gpu(deterministic=True)):
        assert os.environ[WORKSPACE] == ":4096:8"
    monkeypatch.setenv(WORKSPACE, ":0:0")
    with pytest.raises(ConfigError, match=r"CUBLAS_WORKSPACE_CONFIG = :16:8 or :4096:8, or unset, got ':0:0'"):
        arithmetic.arithmetic(on_a_gpu(deterministic=True)).__enter__()
    assert switches() == found


def test_a_cpus_arithmetic_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    found = switches()
    resolved = resolve(config("device=cpu", "learner.tf32=true", "learner.deterministic=true"))
    with arithmetic.arithmetic(resolved):
        assert switches() == found and WORKSPACE not in os.environ


def test_a_run_has_its_arithmetic_from_the_first_tensor_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is made in it. (On a CPU, as there is no GPU.)"""
    seen: list[dict[str, Any]] = []
    made = experiment.make_agent
    monkeypatch.setattr(experiment, "make_agent", lambda *given: seen.append(switches()) or made(*given))
    monkeypatch.setattr(arithmetic, "_on_a_gpu", lambda device: True)
    overrides = tiny_runs.overrides(tmp_path, "device=cpu", "learner.tf32=true")
    with build(resolve(loading.load(POINT, overrides).config)):
        assert seen[0]["rnn"] == seen[0]["matmul"] == "tf32"


# The end of its memory


LONGER = ("iterations=3", "eval.every=2", "checkpoint.every=100")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations whose memory suffices."""
    return tiny_runs.train(tmp_path_factory.mktemp("good"), *LONGER)


def runs_out(patch: pytest.MonkeyPatch, owner: Any, name: str, number: int, error: BaseException) -> None:
    """The ``number``-th call of a method does its work, and then the memory is full."""
    original, calls = getattr(owner, name), []

    def full(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append(name)
        if len(calls) == number:
            raise error
        return result

    patch.setattr(owner, name, full)


@pytest.mark.parametrize(
    "where",
    [(MAMLTRPO, "meta_update", 3), (MAMLTRPO, "adapt", 3), (Trainer, "evaluate", 1)],
    ids=["meta_update", "adapt", "evaluation"],
)
def test_a_gpu_without_memory_ends_a_run_that_goes_on_in_smaller_chunks(
    where: tuple[Any, str, int],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs_out(monkeypatch, *where, OUT)
    assert metarl("train", POINT, *tiny_runs.overrides(tmp_path / "failed", *LONGER)) == 4
    run = next((tmp_path / "failed" / POINT).iterdir())
    said = capsys.readouterr().err
    assert f"the GPU's memory ran out: less is needed with {TRAINER}, after iteration 2" in said
    assert saved_state(run)["counters"]["iteration"] == 2
    monkeypatch.undo()
    assert metarl("resume", run) == 0
    assert run_dir.digest(run) == run_dir.digest(undisturbed)  # the agent's state was as before
    if where[1] == "meta_update":
        assert metarl("resume", run, "iterations=4", "learner.tasks_per_chunk=1") == 0
        assert run_dir.read_config(run).learner.tasks_per_chunk == 1


@pytest.mark.parametrize(
    ("name", "family", "within", "words"),
    [
        ("promp_point", ProMP, "_descend", TRAINER),
        ("rl2_ppo_bernoulli_bandit", RL2PPO, "_descend", "more agent.minibatches, in a new run"),
    ],
)
def test_an_agent_is_as_before_where_memory_ends_half_way_through_an_update(
    name: str,
    family: Any,
    within: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its optimiser has taken steps of the update already."""
    changes = ["iterations=2", "eval.every=null", f"run_dir={tmp_path}", "wandb.mode=disabled", "sampler.workers=0"]
    changes += ["meta_batch_size=4", "rollouts_per_task=2", "eval.num_tasks=2", "eval.score_episodes=2"]
    changes += ["task.horizon=5", "eval.adapt_steps=0"] if family is ProMP else ["agent.memory_size=8"]
    runs_out(monkeypatch, family, within, 1, OUT)
    assert metarl("train", name, *changes) == 4
    assert f"less is needed with {words}, after iteration 0" in capsys.readouterr().err
    run = next((tmp_path / name).iterdir())
    monkeypatch.undo()
    saved = checkpoint.latest(run_dir.checkpoints(run)).tensors
    assert metarl("resume", run) == 0
    assert metarl("train", name, *changes, "name=again") == 0
    again = next(path for path in (tmp_path / name).iterdir() if path != run)
    assert outcome(run) == outcome(again)
    assert set(saved) == set(checkpoint.latest(run_dir.checkpoints(run)).tensors)


def test_memory_of_the_machine_is_another_matter() -> None:
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")):
        assert explained(error).exit_code == 5
    for words in ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "CUDA out of memory. Tried"):
        assert explained(RuntimeError(words)).exit_code == 4
    told = explained(OUT)
    assert told.exit_code == 4 and str(told).endswith("ran out: less is needed with a smaller learner.tasks_per_chunk")
