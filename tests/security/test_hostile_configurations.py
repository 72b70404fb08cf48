"""Configurations and tasks from somebody else: exit code 2 in time, nothing imported, no file read that they name.

Tags, anchors, depth, size, interpolation and odd numbers are in tests/cli/test_cli_errors.py.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hostile import DEEP, bounded, touching
from tiny_runs import metarl as command

from metarl.config import loading, strict_yaml
from metarl.errors import ConfigError
from metarl.tasks import families

pytestmark = pytest.mark.timeout(120)
GYM = [
    "task.name=gymnasium_env",
    "task.horizon=5",
    "task.parameters={x: {choices: [0.1, 0.2], argument: forward_reward_weight}}",
]

FILES = {
    "many keys": b"".join(b"k%d: 1\n" % number for number in range(90_000)),
    "as many keys as are read": b"".join(b"k%d: 1\n" % number for number in range(9_000)),
    "many empty lists": b"a: [" + b"[]," * 300_000 + b"[]]",
    "many numbers": b"a: [" + b"1," * 400_000 + b"1]",
    "one long key": b"? " + b"a" * 900_000 + b"\n: 1\n",
    "one long text": b"seed: " + b"a" * 900_000 + b"\n",
    "deep in flow": b"a: " + b"{b: " * 100_000,
    "deep in blocks": b"\n".join(b" " * depth + b"a:" for depth in range(1200)),
    "aliases": b"a: &a [x, x]\nb: &b [*a, *a]\n" + b"".join(b"c%d: [*b, *b]\n" % number for number in range(1000)),
    "another encoding": "seed: 1".encode("utf-16"),
    "directives": b"%YAML 9.9\n%TAG ! tag:evil,2000:\n---\nseed: !x 1\n",
    "a class": b"_target_: os.system\nargs: [touch canary]\n",
    "an id that imports": b"task: {name: 'evil:Env-v0'}\nagent: {name: maml_trpo}\n",
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_is_refused_in_time(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_bytes(FILES[case])
    for words in (["train", "bad.yaml"], ["check-env", "bad.yaml"], ["sweep", "bad.yaml", "seed=0,1"]):
        with bounded():
            assert command(*words) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and "Traceback" not in said and len(said) < 200_000
    assert {path.name for path in tmp_path.iterdir()} == {"bad.yaml", "evil.py"}


def test_as_many_keys_as_there_may_be_are_read() -> None:
    problems: strict_yaml.Problems = {}
    numbers = strict_yaml.MAX_NODES - 3  # besides the section, its key and the list
    text = f"a: [{', '.join('1' * numbers)}]"
    assert strict_yaml.parse(text.encode(), "x", problems) == {"a": [1] * numbers} and problems == {}
    assert strict_yaml.parse(text.replace("[1", "[1, 1").encode(), "x", problems) is None
    assert problems == {"x": "x: expected at most 10000 keys and values; give ranges, not lists"}


def test_what_a_run_keeps_of_its_configuration_is_no_deeper_than_a_file() -> None:
    kept = loading.as_data(loading.load("maml_trpo_point").config)
    assert loading.reload(kept)[0].task.name == "point"
    deep: object = 1
    for _ in range(900):
        deep = {"a": deep}
    with bounded(), pytest.raises(ConfigError, match="at most 16 levels"):
        loading.reload({**kept, "task": deep})


@pytest.mark.parametrize("key", ["agent.inner_lr", "task.action_scale", "agent.max_kl", "time_limit_s"])
def test_a_number_that_torch_cannot_hold_is_refused(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("1e39", "1e308"):
        assert command("train", "maml_trpo_point", f"{key}={value}", f"run_dir={tmp_path / 'runs'}") == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"error: {key} = 1e+") and "expected at most 3.4e+38, as single precision" in said


# Files that a configuration must not name: MuJoCo's environments read the model that `xml_file` says


@pytest.mark.parametrize(
    "value",
    [
        "/tmp/evil.xml",
        "../../../evil.xml",
        "./evil.xml",
        "~/evil.xml",
        "a\\\\evil.xml",
        "sub/evil.xml",
        "~evil.xml",
        "..evil",
    ],
)
@pytest.mark.parametrize("place", ["argument", "choice", "nested"])
def test_no_configuration_names_a_model(
    value: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*GYM, "task.env_id=Ant-v5", f"task.env_arguments={{xml_file: '{value}'}}"]
    if place == "choice":
        parameter = f"{{choices: ['{value}', b], argument: xml_file}}"
        words = [*GYM[:2], "task.env_id=Ant-v5", f"task.parameters={{x: {parameter}}}"]
    elif place == "nested":
        words[-1] = f"task.env_arguments={{x: [{{a: '{value}'}}]}}"
    with bounded():
        assert command("train", "maml_trpo_point", *words, f"run_dir={tmp_path / 'runs'}") == 2
    assert "could be the path of a file, which a configuration must not name" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_no_configuration_names_a_module_by_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`gymnasium.make("module:id")` imports the module."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    for env_id in ("evil:Env-v0", "evil:CartPole-v1", "GymV26Environment-v0"):
        assert command("train", "maml_trpo_point", *GYM, f"task.env_id={env_id}", f"run_dir={tmp_path / 'r'}") == 2
    assert "--allow" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists() and not (tmp_path / "r").exists()


# Tasks from the command line


@pytest.mark.parametrize(
    "text",
    [DEEP.decode(), "[" * 100_000, '[{"goal": NaN}]', '{"goal": [0, 0], "goal": [1, 1]}', '[{"goal": 1}, 2]',
     "[" + "9" * 5000 + "]", '[{"goal": "\\ud800"}]', "{'goal': 1}", "[]"],
    ids=["deep", "open", "NaN", "twice", "number", "digits", "half", "Python", "none"],
)  # fmt: skip
@pytest.mark.parametrize("way", ["word", "file"])
def test_tasks_that_are_none_are_refused(
    text: str, way: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks.json").write_text(text)
    for name, option in (("evaluate", "--tasks"), ("video", "--task")):
        if name == "video" and text == "[]":
            continue  # means the first held-out task
        with bounded():
            assert command(name, run, option, text if way == "word" else tmp_path / "tasks.json") == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and "Traceback" not in said and len(said) < 5000


def test_tasks_in_a_file_that_never_ends_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(2**30)
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name in (tmp_path / "pipe", "/dev/zero", tmp_path / "large.json", tmp_path, tmp_path / "bytes"):
        with bounded(megabytes=50):
            assert command("evaluate", run, "--tasks", name) == 2
        assert "expected JSON" in capsys.readouterr().err


def test_a_task_of_meta_world_is_no_pickle(tmp_path: Path) -> None:
    """Meta-World's own `set_task` would unpickle what is under `data`."""
    family = families.build("ml1", ["task.env=reach-v3"], [])
    (task,) = family.sample(1, split="train", rng=np.random.default_rng(0))
    with closing(family.make_vector(1)) as env:
        env.set_tasks([task])
        for data in (touching(tmp_path / "canary").decode("latin-1"), list(touching(tmp_path / "canary"))):
            env.set_tasks([{**task, "data": data}])
            env.reset(seed=[0])
    assert not (tmp_path / "canary").exists()
