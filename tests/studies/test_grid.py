"""Values and settings of a grid, from the words of a command line."""

from __future__ import annotations

import re

import pytest

from metarl.errors import ConfigError
from metarl.studies import grid


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0.1,0.2", ["0.1", "0.2"]),
        ("[64,64],[128,128]", ["[64,64]", "[128,128]"]),
        ("{a: 1, b: [1,2]},3", ["{a: 1, b: [1,2]}", "3"]),
        ("'a,b'", ["'a,b'"]),
        ("'it''s,x',y", ["'it''s,x'", "y"]),
        (r'"a\",b",c', [r'"a\",b"', "c"]),
        (r'"\\",c', [r'"\\"', "c"]),
        ("it's,b", ["it's", "b"]),  # a quote in a word is a letter
        ("a''b,c", ["a''b", "c"]),
        ("'',b", ["''", "b"]),
        ("['x,y', z],w", ["['x,y', z]", "w"]),
        (" 'a,b' , c", [" 'a,b' ", " c"]),
        ("[1,2", ["[1,2"]),
        ("1],2", ["1]", "2"]),
        ("", [""]),
        (",", ["", ""]),
    ],
)
def test_commas_split_outside_brackets_braces_and_quotes_only(text: str, parts: list[str]) -> None:
    assert grid.split(text) == parts


def test_the_last_key_changes_first_and_seeds_last_of_all() -> None:
    found = grid.parse("point", ["maml_vpg", "seed=0..1", "iterations=3", "agent.a=1,2", "--agent.b=[1],[2]"])
    assert found.size == 8 and found.given == {"iterations": 3}
    settings = found.settings(["m:C"])
    assert [s.chosen for s in settings[:4]] == [
        ("seed=0", "agent.a=1", "agent.b=[1]"),
        ("seed=0", "agent.a=1", "agent.b=[2]"),
        ("seed=0", "agent.a=2", "agent.b=[1]"),
        ("seed=0", "agent.a=2", "agent.b=[2]"),
    ]
    assert [s.seed for s in settings] == [0] * 4 + [1] * 4
    assert settings[-1].words == ("point", "maml_vpg", "iterations=3", "seed=1", "agent.a=2", "agent.b=[2]")
    assert settings[0].allow == ("m:C",)


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("seed=3..3", (3,)),
        ("seed=0..2,7", (0, 1, 2, 7)),
        ("x=-2..0", (-2, -1, 0)),
        ("x=1e-3,0.01", (0.001, 0.01)),
        ("x=null,true", (None, True)),
        ("x='1..2',3", ("1..2", 3)),
        ("x=../a,../b", ("../a", "../b")),
    ],
)
def test_values_are_read_as_yaml_and_ranges_have_both_ends(word: str, values: tuple[object, ...]) -> None:
    found = grid.parse("c", [word])
    key = word.partition("=")[0]
    assert (found.axes[0].values if found.axes else (found.given[key],)) == values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x=1,,2"], "x=1,,2: expected a value before and behind every comma"),
        (["x=1,"], "x=1,: expected a value before and behind every comma"),
        (["x="], "x=: expected a value after '='"),
        (["x=1", "--x=2"], "x: given twice on the command line; several values are x=A,B"),
        (["x=1,2,1.0"], "x=1,2,1.0: expected different values, got 1.0 twice"),
        (["seed=0..2,1"], "seed=0..2,1: expected different values, got 1 twice"),
        (["seed=4..0"], "seed=4..0: expected a range that goes up; 0..4 is the same"),
        (["x=0.1..0.5"], "x=0.1..0.5: expected a range of whole numbers, such as 0..4"),
        (["run_dir=a,b"], "run_dir=a,b: expected one value: every run has a folder of its own; --out says where"),
        (["x.=1,2"], "'x.=1': expected key=value with a dotted key"),
        (
            ["seed=0..99", "x=0..9", "y=1,2"],
            "at most 1000 runs, got 2000 (100 of seed × 10 of x × 2 of y)",
        ),
        (["seed=0..999999999999"], "at most 1000 runs, got 1000000000000 values; --most 1000000000000"),
    ],
)
def test_what_is_no_grid(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        grid.parse("c", words)


def test_all_that_is_wrong_is_told_at_once_and_more_runs_can_be_asked_for() -> None:
    with pytest.raises(ConfigError) as error:
        grid.parse("c", ["x=1,", "seed=1..0", "y=1", "y=2"])
    assert len(str(error.value).splitlines()) == 3
    assert grid.parse("c", ["seed=0..1000"], most=1001).size == 1001


def folders(*words: str) -> list[str]:
    return [str(setting) for setting in grid.parse("c", words).settings()]


def test_a_setting_has_a_folder_by_its_values_alone() -> None:
    assert folders("seed=0..1", "agent.lr=5e-2,0.1", "n=3") == [
        *("agent.lr=0.05/s0", "agent.lr=0.1/s0", "agent.lr=0.05/s1", "agent.lr=0.1/s1")
    ]
    assert folders("seed=3") == ["s3"] and folders("a=1") == ["run"]
    assert {*folders("a=1,2", "b=3,4")} == {*folders("b=3,4", "a=1,2")}  # in whatever order they are given


def test_other_values_have_other_folders() -> None:
    """Also where their letters cannot be those of a folder's name, or are the same."""
    values = [
        "[1,2]",
        "[1,'2']",
        "1-2",
        "'1'",
        "1",
        "null",
        "'null'",
        "a b",
        "a-b",
        "a/b",
        "../x",
        "é",
        "{a: 1}",
        "1e30",
        "1e-30",
    ]
    found = folders(f"x={','.join(values)}")
    assert len({*found}) == len(values)
    for name in found:
        assert re.fullmatch(r"x=[A-Za-z0-9._=-]*", name) and len(name) <= 80
    (long, other) = folders(f"x={'y' * 200},{'y' * 201}")
    assert long != other and max(len(long), len(other)) <= 80
