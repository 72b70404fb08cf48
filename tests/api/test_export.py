"""Exported files act as the policy does: NumPy, torch.export and ONNX, with and without a memory."""

from __future__ import annotations

import ast
import base64
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_probes import DONE, MEMORIES, SEEN, feed_forward, observation, remembering
from gymnasium.spaces import Box, Discrete

import metarl
from metarl.api.adapted_policy import AdaptedPolicy
from metarl.api.export import check, exporting, graph, numpy_file, steps
from metarl.api.export.description import remembered
from metarl.errors import ConfigError, NumericError, StorageError
from metarl.nn.memories.make import make_memory
from metarl.nn.memories.recurrent import GRU
from metarl.nn.memories.transformer import rotation

pytestmark = pytest.mark.usefixtures("one_torch_thread")
HAVE_ONNX = all(importlib.util.find_spec(library) for library in exporting.NEEDS["onnx"])
BITS = Discrete(4, start=1)


def in_a_loop(policy: AdaptedPolicy, acts: Any, count: int = 100, seed: int = 3) -> float:
    """The largest difference, in units of action_scale, of two policies' actions in a loop of a robot."""
    rng, largest, space = np.random.default_rng(seed), 0.0, policy.fit.action_space
    half = policy.fit.half_range if isinstance(space, Box) else np.ones(1)
    for number in range(count):
        obs = observation(policy.fit.observation_space, rng)
        ours, theirs = policy(obs), acts(obs)
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype and np.shape(ours) == np.shape(theirs)
        assert space.contains(theirs)
        largest = max(largest, float(np.max(np.abs(np.float64(ours) - np.float64(theirs)).ravel() / half)))
        executed = None
        if number % 5 == 4:
            of_box = isinstance(space, Box)
            executed = 0.75 * space.low + 0.25 * space.high if of_box else BITS.start + rng.integers(4)
            executed = np.asarray(executed, space.dtype)
        outcome = float(rng.standard_normal()), number % 31 == 30, number % 17 == 16
        policy.observe(obs, *outcome, executed=executed)
        acts.observe(obs, *outcome, executed=executed)
    return largest


CASES: dict[str, Callable[[], AdaptedPolicy]] = {
    "gaussian": feed_forward,
    "relu, normalised": lambda: feed_forward(config={"normalize_obs": True, "activation": "relu"}),
    "no hidden layer, scale 2": lambda: feed_forward(config={"hidden_sizes": []}, scale=2.0),
    "choices": lambda: feed_forward(done=BITS),
    "states as one-hot": lambda: feed_forward(Discrete(6, start=2), BITS),
    "a matrix of integers": lambda: feed_forward(Box(-9, 9, (2, 3), np.int16)),
    "told its task": lambda: feed_forward(task=np.array([0.5, -2.0]), config={"normalize_obs": True}),
    "float64, shape (2, 1)": lambda: feed_forward(done=Box(-0.1, 0.7, (2, 1), np.float64)),
    "rescaled": lambda: feed_forward(done=Box(0, 9, (2,), np.float32), trained_on=DONE, bounds="rescale"),
    "cut off": lambda: feed_forward(done=Box(-0.2, 0.2, (2,), np.float32), trained_on=DONE, bounds="clip"),
    "gru, choices": lambda: remembering("gru", done=BITS),
    "lstm, cut off": lambda: remembering("lstm", done=Box(-0.2, 0.2, (2,), np.float32), trained_on=DONE, bounds="clip"),
    "gru, normalised": lambda: remembering(
        "gru",
        config={"normalize_obs": True, "normalize_reward": True, "reward_input_scale": 0.5, "encoder_sizes": [7, 5]},
    ),
    "transformer, states as one-hot": lambda: remembering("transformer", Discrete(6, start=2), BITS),
    **{memory: lambda memory=memory: remembering(memory) for memory in MEMORIES},  # type: ignore[misc]
}


@pytest.mark.parametrize("case", CASES)
def test_the_numpy_file_acts_as_the_policy_does(case: str, tmp_path: Path) -> None:
    policy = CASES[case]()
    (made,) = policy.export(tmp_path / "out", ["numpy"])
    assert (made.format, made.path) == ("numpy", tmp_path / "out" / "policy.py")
    assert made.difference <= check.TOLERANCE and 0 < made.microseconds < 1e6
    robot = numpy_file.load(made.path)
    assert robot.remembers is policy.remembers
    assert in_a_loop(policy, robot) <= check.TOLERANCE
    policy.reset(), robot.reset()
    assert in_a_loop(policy, robot, 10) <= check.TOLERANCE
    policy.forget(), robot.forget()
    assert in_a_loop(policy, robot, 10) <= check.TOLERANCE
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"policy.py", "policy.json"}


GRAPHS = [  # these take seconds each: all networks, all spaces
    *("relu, normalised", "choices", "told its task", "gru, normalised", "lstm, cut off"),
    *("transformer, states as one-hot", "retrieval", "ntm", "memory_network"),
]


@pytest.mark.parametrize("case", GRAPHS)
def test_the_graphs_act_as_the_policy_does(case: str, tmp_path: Path) -> None:
    """And both carry their own description. ONNX where it is installed: pip install 'metarl[export]'."""
    policy = CASES[case]()
    formats = ["pt2", "onnx"] if HAVE_ONNX else ["pt2"]
    made = policy.export(tmp_path / "out", formats)
    described = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert [each.format for each in made] == formats == list(described.pop("files"))
    for each in made:
        assert each.difference <= check.TOLERANCE
        run = graph.run_pt2(each.path) if each.format == "pt2" else graph.run_onnx(each.path)
        told, inputs, outputs = own_description(each.path)
        assert told == described
        assert inputs == [entry["name"] for entry in described["inputs"]]
        assert outputs == [entry["name"] for entry in described["outputs"]]
        fed = {name: decoded(described, name, "start") for name in described["start"]}
        policy.reset()
        assert in_a_loop(policy, FedByHand(run, fed, policy)) <= check.TOLERANCE
        assert b"/tests/" not in each.path.read_bytes() and b"site-packages" not in each.path.read_bytes()


def own_description(path: Path) -> tuple[Any, list[str], list[str]]:
    """What a file says of itself, and the names of its inputs and outputs."""
    if path.suffix == ".pt2":
        extra = {graph.EXTRA: ""}
        program = torch.export.load(path, extra_files=extra)
        told = json.loads(extra[graph.EXTRA])
        inputs = {entry["name"]: np.zeros(entry["shape"], entry["dtype"]) for entry in told["inputs"]}
        return told, list(program.graph_signature.user_inputs), list(graph.run_pt2(path)(inputs))
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sides = [[each.name for each in side] for side in (session.get_inputs(), session.get_outputs())]
    return json.loads(session.get_modelmeta().custom_metadata_map[graph.METADATA]), *sides


def decoded(described: dict[str, Any], name: str, which: str) -> Any:
    """An array of a description."""
    (entry,) = (entry for entry in described["inputs"] if entry["name"] == name)
    return np.frombuffer(base64.b64decode(described[which][name]), entry["dtype"]).reshape(entry["shape"])


@dataclass
class FedByHand:
    """A step in a robot's loop, as docs/on_a_robot.md says."""

    run: Any
    fed: dict[str, Any]
    policy: AdaptedPolicy

    def __call__(self, obs: Any) -> Any:
        of_box = isinstance(self.policy.fit.observation_space, Box)
        obs = np.asarray(obs, np.float32 if of_box else np.int64)
        outputs = self.run({"obs": obs, **self.fed})
        self.fed |= {name.removeprefix("next_"): each for name, each in outputs.items() if name.startswith("next_")}
        return outputs["action"][()]

    def observe(self, obs: Any, reward: float, terminated: bool, truncated: bool, *, executed: Any) -> None:
        if not self.fed:
            return
        flags = {"prev_terminated": terminated, "prev_truncated": truncated, "first": terminated or truncated}
        self.fed |= {name: np.array(flag) for name, flag in flags.items()}
        self.fed["prev_reward"] = np.array(reward, np.float32)
        if executed is not None:
            self.fed["prev_action"] = self.policy.fit.executed(executed)[0]


# Worked out by hand


def test_an_action_by_hand(tmp_path: Path) -> None:
    """One number in, tanh, one out; moments 1 and 2; scale 2; a control range of 4 ± 3; bounds of float32."""
    policy = feed_forward(
        Box(-9, 9, (1,), np.float32), Box(1, 7, (1,), np.float32), scale=2.0,
        config={"hidden_sizes": [1], "normalize_obs": True},
    )  # fmt: skip
    given = {"layer0.weight": 0.5, "layer0.bias": 0.25, "layer1.weight": 3.0, "layer1.bias": -1.0}
    given |= {"log_std": 0.0, "obs_mean": 1.0, "obs_std": 2.0}
    policy.parameters.copy_(torch.tensor([list(given.values())]))
    policy = metarl.load_policy(policy.save(tmp_path / "policy"))
    robot = numpy_file.load(policy.export(tmp_path / "out", ["numpy"])[0].path)
    for obs in (-2.0, 0.0, 1.5, 3.0):
        mean = 3.0 * math.tanh(0.5 * (obs - 1.0) / 2.0 + 0.25) - 1.0
        expected = 4 + 3 * min(max(mean / 2.0, -1.0), 1.0)
        assert robot(np.array([obs])) == pytest.approx([expected], abs=1e-6)
    assert robot([-1e6]) == [1.0]  # normalised, clipped to −10: the mean is near −4, beyond the range
    assert policy(np.array([-1e6])) == [1.0]


def test_a_gru_by_hand() -> None:
    """One unit, all weights and biases 0.5: r = z = σ(x/2 + h/2 + 1), n = tanh(x/2 + 1/2 + r(h/2 + 1/2))."""
    w = {f"layer0.{name}": np.full((1, 3), 0.5, np.float32) for name in ("weight_ih", "weight_hh")}
    w |= {f"layer0.{name}": np.full(3, 0.5, np.float32) for name in ("bias_ih", "bias_hh")}
    h, by_hand = np.zeros((1, 1), np.float32), 0.0
    for x in (1.0, -2.0, 0.5):
        features, (h,) = steps.gru(np, w, np.full((1, 1), x, np.float32), [h])
        gate = 1 / (1 + math.exp(-(0.5 * x + 1.0 + 0.5 * by_hand)))
        n = math.tanh(0.5 * x + 0.5 + gate * (0.5 * by_hand + 0.5))
        by_hand = (1 - gate) * n + gate * by_hand
        assert features is h or np.array_equal(features, h)
        assert float(h[0, 0]) == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(
    "how",
    [
        *({"kind": kind, "layers": 2} for kind in ("gru", "lstm")),
        {"kind": "transformer", "layers": 3, "heads": 2, "context": 5},
        *({"kind": "retrieval", "context": 5, "metric": metric} for metric in ("dot", "cosine", "weighted_l1")),
        {"kind": "ntm", "layers": 2, "heads": 2, "context": 6, "width": 3},
        {"kind": "memory_network", "hops": 3, "context": 5},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_a_memory_is_the_same_function_for_numpy_and_torch(how: dict[str, Any]) -> None:
    """As the memory itself, over rings that are filled three times; in torch in float64, too."""
    memory = make_memory(input_size=3, size=8, **how)
    rng = np.random.default_rng(1)
    flat = memory.initial(rng) + 0.1 * torch.from_numpy(rng.standard_normal(memory.num_parameters)).float()
    w = dict(zip(memory.shapes(), memory.views(flat), strict=True))
    function, names = remembered(memory)
    state = memory.initial_state(1, flat)
    assert len(names) == len(state)
    ours, theirs = [tensor.numpy().copy() for tensor in state], [tensor.clone() for tensor in state]
    for x in rng.standard_normal((17, 1, 3)).astype(np.float32):
        expected, state = memory.step(memory.unpack(flat), torch.from_numpy(x), state)
        features, ours = function(np, {name: tensor.numpy() for name, tensor in w.items()}, x, ours)
        again, theirs = function(torch, w, torch.from_numpy(x), theirs)
        assert features.dtype == np.float32 and all(array.dtype == np.float32 for array in ours)
        np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(again.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
        for found, tensor in zip(ours, state, strict=True):
            assert found.shape == tensor.shape
            np.testing.assert_allclose(found, tensor.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 50_000, 2**24])
def test_a_transformer_turns_late_steps_as_exactly_as_early_ones(count: int) -> None:
    for found, expected in zip(
        steps.rotation(np, np.float32([count]), 16), rotation(torch.tensor([float(count)]), 16), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[0].numpy(), rtol=0, atol=3e-7)


BOX = {"kind": "box", "half_range": [0.5, 2.0]}


@pytest.mark.parametrize(
    ("ours", "theirs", "action", "expected"),
    [
        (np.float64([0.0, 1.0]), np.float64([0.25, 1.0]), BOX, 0.5),
        (np.float64([0.0, 1.0]), np.float64([0.25, 2.5]), BOX, 0.75),
        (np.float64([0.0, 0.0]), np.float64([0.0, np.nan]), BOX, np.inf),
        (np.float64([0.0, 0.0]), np.float32([0.0, 0.0]), BOX, np.inf),
        (np.float64([0.0, 0.0]), np.float64([[0.0, 0.0]]), BOX, np.inf),
        (np.float32([1000.0] * 2), np.float32([1000.0, 1000.00006]), BOX, 0.0),  # its last digit
        (np.float32([1000.0] * 2), np.float32([1000.0, 1000.0002]), BOX, 1.5 * 2**-14),  # three of them, over 2
        (np.float64([0.5]), np.float64([0.25]), {"kind": "box", "half_range": [0.0]}, 0.25),
        (np.int64(3), np.asarray(3), {"kind": "discrete"}, 0.0),
        (np.int64(3), np.asarray(2), {"kind": "discrete"}, np.inf),
    ],
)  # fmt: skip
def test_differences_are_in_units_of_half_the_control_range(ours: Any, theirs: Any, action: Any, expected: Any) -> None:
    assert check.difference(ours, theirs, action) == expected


# The Python file


ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "metarl", "gymnasium", "scipy", "safetensors"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
before = {*sys.modules}
import numpy
numpy_alone = {*sys.modules}
from policy import Policy
own = {name.partition(".")[0] for name in {*sys.modules} - numpy_alone}
policy, actions = Policy(), []
for number, obs in enumerate(json.loads(sys.argv[2])):
    actions.append(policy(obs).tolist())
    policy.observe(obs, 0.1 * number, False, number % 4 == 3)
print(json.dumps([sorted(own), actions]))
"""


@pytest.mark.parametrize("case", ["gaussian", "choices", "gru", "transformer"])
def test_the_file_runs_where_there_is_numpy_alone(case: str, tmp_path: Path) -> None:
    policy = CASES[case]()
    policy.export(tmp_path / "out", ["numpy"])
    seen = np.random.default_rng(4).standard_normal((12, 5))
    command = [sys.executable, "-I", "-W", "error", "-c", ALONE, str(tmp_path / "out"), json.dumps(seen.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded, actions = json.loads(done.stdout)
    assert {*loaded} <= {"policy", "base64", "functools", "collections", "typing", "__future__", "binascii"}
    for number, obs in enumerate(seen):
        assert np.allclose(actions[number], policy(obs), rtol=0, atol=3e-5)  # the wider range is 3
        policy.observe(obs, 0.1 * number, False, number % 4 == 3)


@pytest.mark.parametrize("case", ["gaussian", *MEMORIES])
def test_the_file_is_python_3_10_and_has_what_it_needs_and_no_more(case: str, tmp_path: Path) -> None:
    (made,) = CASES[case]().export(tmp_path / "out", ["numpy"])
    text = made.path.read_text("utf-8")
    module = ast.parse(text, feature_version=(3, 10))
    defined = [node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    used = {node.id for node in ast.walk(module) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert defined[:2] == ["Policy", "Step"] and {*defined} - {"Policy"} <= used
    assert ("gru" in defined) == (case in ("gru", "retrieval")) and ("lstm" in defined) == (case in ("lstm", "ntm"))
    imported = {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"base64", "functools", "numpy"}
    assert max(map(len, text.splitlines())) <= 120 and not (made.path.parent / "__pycache__").exists()


def test_the_files_policy_refuses_what_the_policy_refuses(tmp_path: Path) -> None:
    robot = numpy_file.load(remembering("gru").export(tmp_path / "gru", ["numpy"])[0].path)
    with pytest.raises(RuntimeError, match=r"expected an action, policy\(obs\), before its outcome"):
        robot.observe(None, 0.0, False, False)
    for obs, complaint in (
        ([0.0] * 4, r"expected an observation of shape \(5,\), got float64 of shape \(4,\)"),
        (["0"] * 5, "got <U1 of shape"),
        ([0, 0, 0, 0, np.nan], "expected a finite observation, got"),
        ([0, 0, 0, 0, 1e39], "expected a finite observation, got"),  # beyond float32
    ):
        with pytest.raises(ValueError, match=complaint):
            robot(obs)
    first = robot(np.ones(5))
    with pytest.raises(RuntimeError, match=r"expected policy\.observe\(obs, reward, terminated, truncated\) between"):
        robot(np.ones(5))
    with pytest.raises(ValueError, match="expected a finite reward, got nan"):
        robot.observe(None, np.nan, False, False)
    with pytest.raises(ValueError, match=r"expected an executed action of shape \(2,\), got \(3,\)"):
        robot.observe(None, 0.0, False, False, executed=[0, 0, 0])
    robot.reset()  # nothing of all that has been kept
    assert np.array_equal(robot(np.ones(5)), first)
    places = numpy_file.load(feed_forward(Discrete(6, start=2)).export(tmp_path / "places", ["numpy"])[0].path)
    for state in (1, 8, 2.5):
        with pytest.raises(ValueError, match=f"expected one of 6 states, from 2 on, got {state}"):
            places(state)


def test_nothing_of_the_policy_becomes_code(tmp_path: Path) -> None:
    """Texts of a policy, which may be somebody else's, are literals in the file."""
    policy = feed_forward()
    evil = '"""\nraise SystemExit  # \\" \'\'\'\n'
    policy.described["interface"]["wrappers"] = [[evil, {evil: evil}]]
    (made,) = policy.export(tmp_path / "out", ["numpy"])
    assert numpy_file.load(made.path).about["wrappers"] == [[evil, {evil: evil}]]
    names = {node.id for node in ast.walk(ast.parse(made.path.read_text())) if isinstance(node, ast.Name)}
    assert "SystemExit" not in names


# Refusals


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(GRU):
        pass

    own = remembering("gru")
    memory = own._actor.policy.memory
    object.__setattr__(own._actor.policy, "memory", Own(memory.input_size, memory.size))
    long = feed_forward(done=Box(0, 9, (2,), np.longdouble))
    refused: list[tuple[AdaptedPolicy, list[str], str]] = [
        (feed_forward(), ["nump"], "format 'nump': did you mean numpy\\? expected numpy, pt2, onnx"),
        (feed_forward(), [], "expected a format: numpy, pt2, onnx"),
        (own, ["numpy"], "expected a memory of metarl's own, got Own: it cannot be exported"),
        (long, ["numpy"], "expected actions of uint8, .* others cannot be exported"),
    ]
    for policy, formats, complaint in refused:
        with pytest.raises(ConfigError, match=complaint):
            policy.export(tmp_path / "out", formats)
    assert feed_forward(lanes=3).export(tmp_path / "lanes", ["numpy"])  # its parameters are the same in all lanes
    lanes = remembering("gru").batch(3)
    with pytest.raises(ConfigError, match="of a single environment, got one with 3 memories, one for each lane"):
        lanes.export(tmp_path / "out", ["numpy"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx, onnxscript, onnxruntime, .*pip install 'metarl\[export\]'"):
        feed_forward().export(tmp_path / "out", ["numpy", "onnx"])
    assert [path.name for path in tmp_path.iterdir()] == ["lanes"]


def test_policies_of_other_classes_are_refused(tmp_path: Path) -> None:
    from metarl.agents.uniform import UniformPolicy

    policy = feed_forward()
    policy._actor.policy = UniformPolicy(policy.fit.action)
    with pytest.raises(ConfigError, match="got UniformPolicy: it cannot be exported"):
        policy.export(tmp_path / "out", ["numpy"])


@pytest.mark.parametrize("make", [feed_forward, lambda: remembering("gru")], ids=["feed-forward", "memory"])
def test_a_file_that_acts_otherwise_is_not_kept(
    make: Callable[[], AdaptedPolicy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight is a thousandth off."""
    text = numpy_file.text

    def off(described: Any) -> str:
        weights = {**described.weights, "head.bias": described.weights["head.bias"] + np.float32(1e-3)}
        return text(replace(described, weights=weights))

    monkeypatch.setattr(numpy_file, "text", off)
    with pytest.raises(NumericError, match=r"policy\.py: expected the policy's actions but for 1e-05 · action_scale"):
        make().export(tmp_path / "out", ["numpy"])
    assert not list(tmp_path.iterdir())


def test_a_memory_that_stands_still_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single steps are right then; the roll-out is not."""
    text = numpy_file.text
    stands = 'if name.startswith("next_") and "h0" not in name'
    moves = 'if name.startswith("next_")'
    monkeypatch.setattr(numpy_file, "text", lambda described: text(described).replace(moves, stands))
    with pytest.raises(NumericError, match="they differ by"):
        remembering("gru").export(tmp_path / "out", ["numpy"])
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    feed_forward().export(tmp_path / "out", ["numpy"])
    before = (tmp_path / "out" / "policy.py").read_bytes()
    with pytest.raises(StorageError, match="there is something already; choose another place"):
        feed_forward(seed=1).export(tmp_path / "out", ["numpy"])
    assert (tmp_path / "out" / "policy.py").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_to_export_changes_nothing_of_a_policy_that_acts(tmp_path: Path) -> None:
    """In the middle of an episode; the file begins where adaptation left it."""
    policy, other = remembering("gru"), remembering("gru")
    for each in (policy, other):
        each(np.ones(5))
        each.observe(None, 1.0, False, False)
    robot = numpy_file.load(policy.export(tmp_path / "out", ["numpy"])[0].path)
    assert np.array_equal(policy(np.ones(5)), other(np.ones(5)))
    policy.reset()
    assert np.allclose(policy(np.ones(5)), robot(np.ones(5)), atol=1e-5)


def test_the_description_says_what_goes_in_and_out(tmp_path: Path) -> None:
    policy = remembering("transformer", SEEN, DONE)
    policy.export(tmp_path / "out", ["numpy"])
    told = json.loads((tmp_path / "out" / "policy.json").read_text())
    inputs = {entry["name"]: (entry["dtype"], entry["shape"]) for entry in told["inputs"]}
    ring = ("float32", [1, 4, 16, 2])
    assert inputs == {
        "obs": ("float32", [5]),
        "prev_action": ("float32", [2]),
        "prev_reward": ("float32", []),
        "prev_terminated": ("bool", []),
        "prev_truncated": ("bool", []),
        "first": ("bool", []),
        "state_count": ("float32", [1]),
        **{f"state_{name}{layer}": ring for layer in range(2) for name in ("keys", "values")},
    }
    states = [name for name in inputs if name.startswith("state_")]
    assert [entry["name"] for entry in told["outputs"]] == [
        "action", "next_prev_action", *(f"next_{name}" for name in states)
    ]  # fmt: skip
    assert told["action"]["centre"] == [0.0, 1.5] and told["action"]["half_range"] == [1.0, 1.5]
    assert told["horizon"] == 50 and told["agent"] == "rl2_ppo"
    assert decoded(told, "state_count", "start") == [30.0] and decoded(told, "state_count", "empty") == [0.0]
    assert decoded(told, "first", "empty") and decoded(told, "prev_truncated", "start")
    assert np.array_equal(decoded(told, "state_values1", "start"), policy.left.policy_state[4].numpy())
    assert all(entry["meaning"] for side in ("inputs", "outputs") for entry in told[side])
    assert told["files"]["numpy"]["file"] == "policy.py"
