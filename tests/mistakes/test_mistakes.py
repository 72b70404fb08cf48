"""Mistakes that people really made, each with what they are told, in training and by `metarl check-env`.

``make mistakes`` prints the table: case, exit codes, sentences. The families and robots are in ``cases/``; each makes
one mistake, or is unusual and right. Faults of processes, folders, surroundings and numbers have tests of their own,
with the same mark: the command runs and lists them, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from metarl import cli

pytestmark = pytest.mark.mistakes

CASES = Path(__file__).parent / "cases"
TABLE: list[tuple[str, str, int, str]] = []  # case, command, exit code, what is said


class Told(NamedTuple):
    """An exit code, and words of what is said with it."""

    code: int
    words: str = ""


RIGHT = Told(0)
SHAPE = "expected observations of shape (3,), as Box(-inf, inf, (3,), float64) declares, got an array of float64 of"

FOUR = "expected step to return (observation, reward, terminated, truncated, info), got 4 values"
STATE = "expected a state from 0 to 4, as Discrete(5) declares, got"

# Case → what `train` says, what `check-env` says; None where a command is of no interest.
MISTAKES: dict[str, tuple[Told | None, Told | None]] = {
    # what an environment gives is not what it declared
    "families:ShortObsDist": (Told(5, f"{SHAPE} shape (1,)"), Told(5, f"{SHAPE} shape (1,)")),
    "families:TwoObsDist": (Told(5, f"{SHAPE} shape (2,)"), Told(5, f"{SHAPE} shape (2,)")),
    "families:FourTupleDist": (Told(5, FOUR), Told(5, FOUR)),
    "families:FourTupleEmptyDist": (Told(5, FOUR), Told(5, FOUR)),
    "families:NoneDoneDist": (
        Told(5, "expected terminated to be True or False, got NoneType None"),
        Told(5, "expected terminated to be True or False, got NoneType None"),
    ),
    "families:OverStateDist": (Told(5, f"{STATE} 7"), Told(5, f"{STATE} 7")),
    "families:OffByOneDist": (RIGHT, RIGHT),  # its states 1 to 4 all are in Discrete(5)
    "families:NaNResetDist": (
        Told(5, "expected finite observations from a reset, got [nan nan nan]"),
        Told(5, "expected finite observations from a reset, got [nan nan nan]"),
    ),
    "families:HugeObsDist": (
        Told(4, "expected finite observations that float32 can hold"),
        Told(5, "more than float32 can hold, at step 1 of episode 1"),
    ),
    "robots:Wide": (
        Told(5, "expected action bounds within the control range [-1, 1] of actuator number 0, got [-5, 5]"),
        Told(5, "expected action bounds within the control range [-1, 1] of actuator number 0, got [-5, 5]"),
    ),
    "robots:NoRange": (RIGHT, RIGHT),
    "robots:CopiedView": (
        Told(5, "got an array with memory of its own, which would never change"),
        Told(5, "got an array with memory of its own, which would never change"),
    ),
    "robots:Crowd": (
        Told(5, "crowd.xml: MuJoCo dropped contacts in lane 0"),
        Told(5, "crowd.xml: MuJoCo dropped contacts in lane 0"),
    ),
    "robots:ThreeActionsForTwo": (
        Told(5, "arm.xml: expected actions of 2 numbers, one per actuator, got spaces of 3"),
        Told(5, "arm.xml: expected actions of 2 numbers, one per actuator, got spaces of 3"),
    ),
    "robots:Urdf": (
        Told(5, "arm.urdf: expected a model with actuators, got none"),
        Told(5, "arm.urdf: expected a model with actuators, got none"),
    ),
    "robots:Missing": (Told(5, "MuJoCo cannot read nothere.xml"), Told(5, "MuJoCo cannot read nothere.xml")),
    "robots:ObsColumn": (
        Told(5, "expected observations, numbers in an array of shape (9, 4), got float64 of (9, 1)"),
        Told(5, "expected observations, numbers in an array of shape (4, 4), got float64 of (4, 1)"),
    ),
    "robots:RewardColumn": (
        Told(5, "expected a reward per lane, numbers in an array of shape (9,), got float64 of (9, 1)"),
        Told(5, "expected a reward per lane, numbers in an array of shape (4,), got float64 of (4, 1)"),
    ),
    "robots:LiveView": (RIGHT, RIGHT),  # is copied
    "robots:Clock": (None, Told(5, "")),  # a reward by a clock that lanes share
    # spaces
    "families:NegStartDist": (RIGHT, RIGHT),
    "families:IntBoxDist": (Told(2, "number the choices, Discrete(n)"), Told(2, "number the choices, Discrete(n)")),
    "families:InfiniteDist": (Told(2, "bound it by the range that is useful"), Told(2, "bound it by the range")),
    "families:AsymDist": (RIGHT, RIGHT),
    "families:ScalarDist": (RIGHT, RIGHT),
    "families:EmptyObsDist": (Told(2, "observation"), Told(5, "observation")),
    "families:FlatActionDist": (RIGHT, Told(5, "expected low < high")),
    "families:OneChoiceDist": (RIGHT, RIGHT),
    "families:DictObsDist": (Told(2, "FlattenObservation"), Told(2, "FlattenObservation")),
    "families:MultiDiscDist": (Told(2, "number the 6 combinations"), Told(2, "number the 6 combinations")),
    "families:MultiBinDist": (Told(2, "number the 8 combinations"), Told(2, "number the 8 combinations")),
    "families:ImageDist": (Told(2, "agent.baseline = linear"), None),
    "families:BigDiscreteDist": (Told(2, "agent.baseline = linear"), None),
    # what a family or an environment does
    "families:ZeroRewardDist": (RIGHT, RIGHT),
    "families:FirstStepEndsDist": (RIGHT, Told(5, "an episode terminated at step 1 is truncated as well")),
    "families:EndSuccessDist": (RIGHT, RIGHT),
    "families:GlobalRandomDist": (None, Told(5, "randomness must come from the generators that a reset gets")),
    "families:LeakyDist": (None, Told(5, "")),
    "families:AutogradDist": (RIGHT, RIGHT),
    "families:AutogradParamDist": (RIGHT, Told(5, "randomness must come from")),  # each draws weights of its own
    "families:PrintsDist": (RIGHT, RIGHT),
    "families:NumpyTask": (RIGHT, Told(5, "a train task is not JSON")),
    "families:ArrayTask": (
        Told(5, "expected a reward that is one number, got an array of float64 of shape (1,)"),
        Told(5, "a train task is not JSON"),
    ),
    "families:SampleFew": (
        Told(5, "SampleFew.sample: asked split test for 3 tasks, got 2"),
        Told(5, "SampleFew.sample: asked split train for 7 tasks, got 2"),
    ),
    "families:SampleNumbers": (
        Told(5, "SampleNumbers.sample: expected tasks that map names to values, got 0."),
        Told(5, "SampleNumbers.sample: expected tasks that map names to values, got 0."),
    ),
    "families:SampleNothing": (
        Told(5, "SampleNothing.sample: expected tasks that map names to values, got None"),
        Told(5, "SampleNothing.sample: expected tasks that map names to values, got None"),
    ),
    "families:GymVector": (
        Told(5, "GymVector.make_vector: expected a VectorTaskEnv, such as LoopEnv, got SyncVectorEnv"),
        Told(5, "GymVector.make_vector: expected a VectorTaskEnv, such as LoopEnv, got SyncVectorEnv"),
    ),
    "families:OneLane": (
        Told(5, "OneLane.make_vector: asked for 9 lanes, got 1"),
        Told(5, "OneLane.make_vector: asked for 4 lanes, got 1"),
    ),
    "families:NoSpaces": (Told(2, "expected spaces that are a SpaceSpec"), Told(5, "no attribute 'spaces'")),
    "families:GymSpaces": (Told(2, "expected spaces that are a SpaceSpec"), Told(5, "no attribute")),
    "families:LambdaHolder": (Told(2, "pickle"), Told(5, "cannot be sent to a worker process")),
    "families:SampleFails": (Told(5, "KeyError: 'goals.csv has no more rows' at"), None),
    "families:SampleMemory": (Told(5, "memory ran out"), None),
}


@pytest.fixture(autouse=True)
def cases_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(CASES)
    yield
    for name in ("families", "robots"):
        sys.modules.pop(name, None)  # some count their calls


def told(command: str, argv: list[str], case: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command; its exit code, and all that it says."""
    code = cli.main([command, *argv])
    found = capfd.readouterr()
    errors = [line for line in found.err.splitlines() if line.startswith("error: ")]
    TABLE.append((case, command, code, errors[-1].removeprefix("error: ") if errors else "passes"))
    return code, found.out + found.err


@pytest.mark.parametrize("case", [case for case, (training, _) in MISTAKES.items() if training])
def test_training(case: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    expected = MISTAKES[case][0]
    assert expected is not None
    config = [str(CASES / "run.yaml"), "--allow", case, f"task.name={case}", f"run_dir={tmp_path / 'runs'}"]
    code, said = told("train", [*config, *(["iterations=12"] if "Sample" in case else [])], case, capfd)
    assert code == expected.code, said
    assert expected.words in said
    assert "Traceback" not in said
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()
    if expected.code == 2:
        assert not (tmp_path / "runs").exists()  # nothing is made


@pytest.mark.parametrize("case", [case for case, (_, checking) in MISTAKES.items() if checking])
def test_check_env(case: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    expected = MISTAKES[case][1]
    assert expected is not None
    code, said = told("check-env", [case], case, capfd)
    assert code == expected.code, said
    assert expected.words in said
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_every_case_is_in_the_table() -> None:
    import families
    import robots

    found = [(module, name, value) for module in (families, robots) for name, value in vars(module).items()]
    names = {f"{module.__name__}:{name}" for module, name, value in found if hasattr(value, "config_class")}
    names -= {"families:BaseDist", "families:TaskDistribution", "robots:TaskDistribution"}
    own = {"families:ResourceDist", "families:SlowDist"}  # tests/run/test_faults.py
    assert names - set(MISTAKES) == own
