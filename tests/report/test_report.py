"""A run's picture and table."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context, rcParams
from matplotlib.figure import Figure
from PIL import Image

import metarl
from metarl.errors import ConfigError, StorageError
from metarl.report import figures
from metarl.report.curves import read_curves, write_curves_csv
from metarl.report.run_figure import write_figure
from metarl.report.run_report import write_report
from metarl.report.summary import write_summary

TRAINING = [
    {"iteration": i, "env_steps": i * 500_000, "train/return/0": float(i), "train/return/1": 10.0 * i, "loss/kl": 0.01}
    for i in (1, 2, 3)
]
EVALUATION = {
    "iteration": 3,
    "env_steps": 1_500_000,
    "steps": [0, 1],
    "mean": [2.0, 30.0],
    "low": [1.0, 25.0],
    "high": [4.0, 32.0],
    "returns": [[1.0, 3.0], [28.0, 32.0]],
}


def write(run: Path, name: str, records: list[dict], end: str = "") -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("".join(json.dumps(record) + "\n" for record in records) + end)


def drawn(run: Path, monkeypatch) -> Figure:
    """The figure that write_figure saves; the picture itself, which takes a second, is left out."""
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: saved.append(self))
    write_figure(run)
    return saved[0]


def test_the_learning_curve_is_drawn_against_environment_steps(tmp_path, monkeypatch):
    write(tmp_path / "config" / "run-s0", "metrics.jsonl", TRAINING)
    write(tmp_path / "config" / "run-s0", "evaluations.jsonl", [EVALUATION])
    figure = drawn(tmp_path / "config" / "run-s0", monkeypatch)
    left, middle, _ = figure.axes
    before, after = left.lines[:2]
    assert list(before.get_xdata()) == [500_000, 1_000_000, 1_500_000] and list(before.get_ydata()) == [1, 2, 3]
    assert list(after.get_ydata()) == [10, 20, 30] and after.get_label() == "training, after 1 step"
    segments = left.containers[0].lines[2][0].get_segments()  # the error bar of the adapted point
    assert np.allclose(segments[0], [[1_500_000, 25.0], [1_500_000, 32.0]])
    assert (
        "environment steps" in left.get_xlabel()
        and "config" in figure.get_suptitle()
        and "run-s0" in figure.get_suptitle()
    )
    assert figure.get_suptitle().endswith("iteration 3")
    assert [list(line.get_ydata()) for line in middle.lines[:3]] == [[1, 28], [3, 32], [2, 30]]
    assert "after 1,500,000 environment steps" in middle.get_title()


def test_every_curve_has_its_name_beside_its_end(tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", TRAINING)
    write(tmp_path, "evaluations.jsonl", [EVALUATION])
    left, *_ = drawn(tmp_path, monkeypatch).axes
    assert left.get_legend() is None
    names = sorted(left.texts, key=lambda text: text.xyann[1])
    # they end at 2, 3, 30 and 30
    assert [text.get_text() for text in names] == [
        "held-out, before adaptation",
        "training, before adaptation",
        "training, after 1 step",
        "held-out, after 1 step",
    ]
    heights = [text.xyann[1] for text in names]
    assert np.diff(heights).min() >= figures.LINE_HEIGHT - 1e-9
    assert [text.xy[0] for text in names] == [1.0] * 4  # at the right edge of the axes


@pytest.mark.parametrize(
    ("wanted", "lines", "expected"),
    [
        ([0.2, 0.8], [1, 1], [0.2, 0.8]),
        ([0.5, 0.5], [1, 1], [0.5, 0.5 + figures.LINE_HEIGHT]),
        ([0.5, 0.5], [1, 2], [0.5, 0.5 + 1.5 * figures.LINE_HEIGHT]),
        ([1.0, 1.0, 1.0], [1, 1, 1], [1 - 2 * figures.LINE_HEIGHT, 1 - figures.LINE_HEIGHT, 1.0]),
        ([0.3], [1], [0.3]),
    ],
)
def test_names_that_would_lie_on_one_another_are_moved_apart(wanted, lines, expected):
    assert figures._apart(wanted, lines) == pytest.approx(expected)


def evaluation(points, count, **more):
    """An evaluation of so many points and tasks: the return of task i at point k is 10 k + i."""
    returns = [[10.0 * k + i for i in range(count)] for k in range(points)]
    mean = [float(np.mean(row)) for row in returns]
    return {
        **EVALUATION,
        "steps": list(range(points)),
        "mean": mean,
        "low": mean,
        "high": mean,
        "returns": returns,
    } | more


def test_as_much_adaptation_as_in_training_is_marked(tmp_path, monkeypatch):
    """Training has two phases, and so one step, of three that are evaluated."""
    write(tmp_path, "metrics.jsonl", TRAINING)
    write(tmp_path, "evaluations.jsonl", [evaluation(4, 2)])
    left, middle, right = drawn(tmp_path, monkeypatch).axes
    assert list(middle.lines[-1].get_xdata()) == [1, 1]
    assert "1 step, as trained" in [text.get_text() for text in middle.texts]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["before adaptation", "after 1 step"]
    assert {container.get_label() for container in left.containers} == {
        "held-out, before adaptation",
        "held-out, after 1 step",
        "held-out, after 3 steps",
    }


def test_the_trial_as_trained_is_marked_for_agents_with_a_memory(tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", [{key: line[key] for key in line if key != "train/return/1"} for line in TRAINING])
    write(tmp_path, "evaluations.jsonl", [evaluation(20, 3, unit="episodes before")])
    (tmp_path / "config.yaml").write_text(
        "agent: {name: rl2_ppo, episodes_per_trial: 10}\ntask: {name: point}\niterations: 9\n"
    )
    figure = drawn(tmp_path, monkeypatch)
    _, middle, right = figure.axes
    assert list(middle.lines[-1].get_xdata()) == [9, 9]
    assert "a trial of 10, as trained" in [text.get_text() for text in middle.texts]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["episode 1", "episode 10"]
    assert figure.get_suptitle().startswith("rl2_ppo on point") and figure.get_suptitle().endswith("iteration 3 of 9")


def test_of_many_tasks_a_band_is_drawn_and_no_net_of_lines(tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", TRAINING)
    write(tmp_path, "evaluations.jsonl", [evaluation(2, 11)])  # 0 to 10, and 10 to 20
    _, middle, _ = drawn(tmp_path, monkeypatch).axes
    assert len(middle.lines) == 2  # the mean, and the mark
    inner = middle.collections[0].get_paths()[0].vertices
    assert {(x, y) for x, y in inner.tolist()} == {(0, 1), (0, 9), (1, 11), (1, 19)}


def test_tasks_that_differ_in_a_number_are_drawn_against_it(tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", TRAINING)
    tasks = [{"velocity": v, "name": "x"} for v in (2.0, 0.5, 1.0)]
    write(tmp_path, "evaluations.jsonl", [evaluation(2, 3, tasks=tasks)])
    right = drawn(tmp_path, monkeypatch).axes[2]
    before, after = right.lines[-2:]
    assert right.get_xlabel() == "velocity"
    assert list(before.get_xdata()) == list(after.get_xdata()) == [2, 0.5, 1]
    assert list(before.get_ydata()) == [0, 1, 2] and list(after.get_ydata()) == [10, 11, 12]


def test_trials_of_one_task_stand_side_by_side(tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", TRAINING)
    tasks = [{"direction": d} for d in (1, -1, 1, -1)]
    write(tmp_path, "evaluations.jsonl", [evaluation(2, 4, tasks=tasks)])
    before, after = drawn(tmp_path, monkeypatch).axes[2].lines[-2:]
    assert list(before.get_xdata()) == pytest.approx([0.8, -1.2, 0.8, -1.2])
    assert list(after.get_xdata()) == pytest.approx([1.2, -0.8, 1.2, -0.8])


@pytest.mark.parametrize(
    "tasks",
    [
        [{"goal": [0, 1]}, {"goal": [1, 1]}, {"goal": [2, 1]}],
        [{"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 3, "b": 1}],
        [{"up": True}, {"up": False}, {"up": True}],
        [{"a": 1}, {"b": 1}, {"a": 2}],
        [],
    ],
    ids=str,
)
def test_other_tasks_are_drawn_in_the_order_of_their_returns(tasks, tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", TRAINING)
    line = {**EVALUATION, "returns": [[1.0, 3.0, 2.0], [5.0, 7.0, 3.0]], "tasks": tasks}
    write(tmp_path, "evaluations.jsonl", [line])
    right = drawn(tmp_path, monkeypatch).axes[2]
    before, after = right.lines[-2:]
    assert "in the order of their return" in right.get_xlabel()
    assert list(after.get_xdata()) == [2, 3, 1] and list(after.get_ydata()) == [5, 7, 3]
    assert list(before.get_ydata()) == [1, 3, 2]


@pytest.mark.parametrize("success", [True, False])
def test_classes_have_a_row_each_the_best_at_the_top(success, tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", TRAINING)
    classes = {
        "push": {"tasks": 2, "returns": [1.0, 20.0], "success": [0.0, 0.25]},
        "reach": {"tasks": 3, "returns": [2.0, None], "success": [0.5, 1.0]},
    }
    if not success:
        for found in classes.values():
            del found["success"]
    write(tmp_path, "evaluations.jsonl", [{**EVALUATION, "by_class": classes}])
    right = drawn(tmp_path, monkeypatch).axes[2]
    rows = [text.get_text() for text in right.get_yticklabels()]
    before, after = right.lines[-2:]
    if success:
        assert rows == ["reach (3)", "push (2)"] and right.get_xlabel() == "episodes with success"
        assert list(before.get_xdata()) == [0.5, 0] and list(after.get_xdata()) == [1, 0.25]
    else:
        assert rows == ["push (2)", "reach (3)"] and right.get_xlabel() == "return per episode"
    assert list(after.get_ydata()) == [1, 0]


def test_the_picture_is_a_picture(tmp_path):
    write(tmp_path, "metrics.jsonl", TRAINING)
    path = write_figure(tmp_path)
    assert path == tmp_path / "report" / "curves.png"
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width > 1200
        assert len(image.convert("RGB").getcolors(2**24)) > 50
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]


def test_a_run_that_has_not_been_evaluated_says_so(tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", TRAINING)
    assert [text.get_text() for text in drawn(tmp_path, monkeypatch).axes[1].texts] == ["no evaluation yet"]


def test_evaluations_alone_are_enough(tmp_path):
    write(tmp_path, "evaluations.jsonl", [EVALUATION])
    assert write_figure(tmp_path).stat().st_size > 10_000


def test_a_curve_of_one_point_is_visible(tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", TRAINING[:1])
    one = {**EVALUATION, "steps": [0], "mean": [2.0], "low": [1.0], "high": [4.0], "returns": [[1.0, 3.0]]}
    write(tmp_path, "evaluations.jsonl", [one])
    left, middle, _ = drawn(tmp_path, monkeypatch).axes
    assert left.lines[0].get_marker() == "." and len(left.containers) == 1
    assert middle.lines[-1].get_marker() == "o"


def test_gaps_torn_lines_and_other_lengths_are_no_obstacle(tmp_path):
    write(tmp_path, "metrics.jsonl", [*TRAINING, {"iteration": 4, "env_steps": 9, "train/return/0": None}], '{"iterat')
    shorter = {
        **EVALUATION,
        "iteration": 1,
        "steps": [0],
        "mean": [0.0],
        "low": [0.0],
        "high": [0.0],
        "returns": [[0.0]],
    }
    write(tmp_path, "evaluations.jsonl", [shorter, EVALUATION])
    curves = read_curves(tmp_path)
    assert curves.phases == [0, 1] and len(curves.training) == 4
    assert np.isnan(curves.returns(0)[1][3]) and np.isnan(curves.returns(1)[1][3])
    assert write_figure(tmp_path).exists() and write_curves_csv(tmp_path).exists()


def test_intervals_that_are_undefined_are_empty_and_leave_a_picture(tmp_path):
    write(tmp_path, "metrics.jsonl", TRAINING)
    undefined = {"low": [None, None], "high": [None, None], "interval": "undefined"}
    write(tmp_path, "evaluations.jsonl", [{**EVALUATION, **undefined}])
    assert write_figure(tmp_path).exists()
    assert write_curves_csv(tmp_path).read_text().splitlines()[-1] == "eval,3,1500000,1,30.0,,,undefined"


def test_a_task_whose_episodes_all_diverged_is_a_gap(tmp_path, monkeypatch):
    """Evaluations record None for its return."""
    write(tmp_path, "metrics.jsonl", TRAINING)
    write(tmp_path, "evaluations.jsonl", [{**EVALUATION, "returns": [[1.0, None], [28.0, 32.0]]}])
    right = drawn(tmp_path, monkeypatch).axes[2]
    assert np.isnan(right.lines[-2].get_ydata()).sum() == 1
    assert write_summary(tmp_path).exists()


def test_a_task_whose_episodes_all_diverged_is_no_obstacle(tmp_path):
    write(tmp_path, "metrics.jsonl", TRAINING)
    unknown = [[None, *row[1:]] for row in EVALUATION["returns"]]
    write(tmp_path, "evaluations.jsonl", [{**EVALUATION, "returns": unknown}])
    assert len(write_report(tmp_path)) == 3


def test_one_task_is_called_so_and_has_no_interval(tmp_path, monkeypatch):
    one = {"returns": [[2.0], [30.0]], "low": [None, None], "high": [None, None]}
    write(tmp_path, "evaluations.jsonl", [{**EVALUATION, **one}])
    _, middle, right = drawn(tmp_path, monkeypatch).axes
    assert "one task" in [text.get_text() for text in middle.texts]
    assert all(tick == int(tick) for tick in right.get_xticks())


def test_the_table_has_every_point(tmp_path):
    write(tmp_path, "metrics.jsonl", [TRAINING[0], {**TRAINING[1], "train/return/1": None}])
    write(tmp_path, "evaluations.jsonl", [EVALUATION])
    with write_curves_csv(tmp_path).open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["split", "iteration", "env_steps", "adaptation_steps", "return", "low", "high", "interval"],
        ["train", "1", "500000", "0", "1.0", "", "", ""],
        ["train", "1", "500000", "1", "10.0", "", "", ""],
        ["train", "2", "1000000", "0", "2.0", "", "", ""],
        ["train", "2", "1000000", "1", "", "", "", ""],
        ["eval", "3", "1500000", "0", "2.0", "1.0", "4.0", "percentile bootstrap over tasks"],
        ["eval", "3", "1500000", "1", "30.0", "25.0", "32.0", "percentile bootstrap over tasks"],
    ]


def test_nothing_to_draw_and_nowhere_to_write_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="at least one iteration"):
        write_figure(tmp_path)
    assert not (tmp_path / "report").exists()
    write(tmp_path, "metrics.jsonl", TRAINING)
    (tmp_path / "report").touch()
    for write_one in (write_figure, write_curves_csv):
        with pytest.raises(StorageError, match="report: expected a folder, found a plain file"):
            write_one(tmp_path)


def test_drawing_needs_no_display_and_leaves_pyplot_alone(tmp_path):
    write(tmp_path, "metrics.jsonl", TRAINING)
    code = """if True:
        import sys, matplotlib
        from pathlib import Path
        from metarl.report.run_figure import write_figure
        def parameters():  # without the backend: asking for it imports pyplot
            return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
        before = parameters()
        write_figure(Path(sys.argv[1]))
        print("matplotlib.pyplot" in sys.modules, before == parameters())"""
    root = Path(metarl.__file__).resolve().parent.parent
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, env={"DISPLAY": ":99"})
    assert result.stdout == "False True\n"


def test_colours_of_phases_get_darker():
    lightness = [sum(color[:3]) for color in figures.ordered_colors(4)]
    assert lightness == sorted(lightness, reverse=True) and lightness[0] < 1.7  # visible on white: contrast 3.7
    assert sum(figures.ordered_colors(1)[0][:3]) < 0.5


@pytest.mark.parametrize("name", ["a$b_c", "$", "$x^$", "\\frac", "caf\udce9", "two\nlines", "名前"])
def test_any_folder_name_can_be_drawn(name, tmp_path):
    write(tmp_path / name / name, "metrics.jsonl", TRAINING)
    assert write_figure(tmp_path / name / name).stat().st_size > 10_000


def test_what_a_user_has_set_for_matplotlib_does_not_count(tmp_path):
    """With text.usetex, drawing would need LaTeX; all else of the picture would be the user's too."""
    write(tmp_path / "run", "metrics.jsonl", TRAINING)
    write(tmp_path / "run", "evaluations.jsonl", [EVALUATION])
    write_figure(tmp_path / "run")
    picture = tmp_path / "run" / "report" / "curves.png"
    plain = picture.read_bytes()
    own = {"text.usetex": True, "axes.facecolor": "red", "savefig.dpi": 10, "font.family": "no such font"}
    with rc_context(own):
        write_figure(tmp_path / "run")
        assert rcParams["text.usetex"] and rcParams["savefig.dpi"] == 10
    assert picture.read_bytes() == plain


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("metrics.jsonl", {"env_steps": "many"}, "expected a number for env_steps, got 'many'"),
        ("metrics.jsonl", {"env_steps": None}, "expected a number for env_steps, got None"),
        ("metrics.jsonl", {"train/return/1": [1]}, r"expected a number for train/return/1, got \[1\]"),
        ("metrics.jsonl", {"train/return/0": True}, "expected a number for train/return/0, got True"),
        ("metrics.jsonl", {"env_steps": 10**400}, "expected a number for env_steps, got 1000"),
        ("evaluations.jsonl", {"steps": None}, "expected steps to be numbers"),
        ("evaluations.jsonl", {"steps": []}, "expected steps to be numbers"),
        ("evaluations.jsonl", {"low": [1.0]}, "expected low to be numbers, as many as steps"),
        ("evaluations.jsonl", {"mean": "high"}, "expected mean to be numbers"),
        (
            "evaluations.jsonl",
            {"returns": [[1.0], [2.0, 3.0]]},
            "expected returns to have a list for every step, all of one length",
        ),
        ("evaluations.jsonl", {"returns": 3}, "expected returns to be lists of numbers, got 3"),
        ("evaluations.jsonl", {"env_steps": {}}, "expected a number for env_steps"),
        ("evaluations.jsonl", {"success": 0.5}, "expected success to have mean, low and high, got 0.5"),
        ("evaluations.jsonl", {"success": {"mean": [1]}}, "success: expected mean to be numbers, as many as steps"),
        ("evaluations.jsonl", {"tasks": [{}]}, r"expected as many tasks as returns of a step, got \[{}\]"),
        ("evaluations.jsonl", {"by_class": []}, r"expected by_class to map classes to returns, got \[\]"),
        (
            "evaluations.jsonl",
            {"by_class": {"push": {"returns": [1]}}},
            "expected numbers for every step of by_class",
        ),
        ("evaluations.jsonl", {"by_class": {"push": 3}}, "expected numbers for every step of by_class"),
    ],
    ids=str,
)
def test_an_odd_line_is_named_with_what_was_expected(file, change, said, tmp_path):
    for name, good in (("metrics.jsonl", TRAINING), ("evaluations.jsonl", [EVALUATION])):
        write(tmp_path, name, [*good, {**good[-1], "iteration": 7, **change}] if name == file else good)
    for write_one in (write_figure, write_curves_csv, write_summary):
        with pytest.raises(ConfigError, match=rf"{file}, iteration 7: {said}"):
            write_one(tmp_path)


def test_a_report_is_not_written_through_a_link(tmp_path):
    write(tmp_path / "run", "metrics.jsonl", TRAINING)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "report").symlink_to(tmp_path / "elsewhere")
    for write_one in (write_figure, write_curves_csv):
        with pytest.raises(StorageError, match="report: expected a folder, found a link"):
            write_one(tmp_path / "run")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_memorys_training_is_called_so_before_its_first_evaluation(tmp_path, monkeypatch):
    write(tmp_path, "metrics.jsonl", [{"iteration": 1, "env_steps": 10, "train/return/0": 1.0}])
    (tmp_path / "config.yaml").write_text("agent: {name: rl2_ppo, episodes_per_trial: 2}\n")
    left = drawn(tmp_path, monkeypatch).axes[0]
    assert left.lines[0].get_label() == "training, all episodes"
