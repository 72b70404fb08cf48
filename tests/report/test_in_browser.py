"""Pages as a browser shows them: on a screen and on a telephone, light and dark, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import browser as browsers
import pytest
import reach_standin
import records
import tiny_runs

from metarl.config import loading
from metarl.run import runs

STANDIN = f"{reach_standin.__name__}:ReachAgent"


# The pages


def gradient(root: Path) -> Path:
    """MAML, with more adaptation than in training."""
    return of(tiny_runs.train(root, "eval.adapt_steps=3", "eval.num_tasks=10", "agent.inner_lr=0.25"))


def memory(root: Path) -> Path:
    """RL², whose table has a row per episode."""
    of_agents = ("agent.", "eval.adapt", "task.horizon")
    size = {key: value for key, value in tiny_runs.TINY.items() if not key.startswith(of_agents)}
    return of(runs.train(loading.load("rl2_ppo_bernoulli_bandit", tiny_runs.overrides(root, size=size))))


def classes(root: Path) -> Path:
    """Meta-World, with its classes and success, and an agent with a long name."""
    words = [
        *("meta_batch_size=1", "rollouts_per_task=1", "task.horizon=10", "iterations=1", "eval.every=1"),
        *("eval.num_tasks=5", "eval.adapt_steps=1", "eval.adapt_episodes=1", "eval.score_episodes=1"),
        *("sampler.workers=0", "learner.threads=1", "wandb.mode=disabled", f"agent.name={STANDIN}"),
    ]
    assert tiny_runs.metarl("train", "maml_trpo_ml10", *words, f"run_dir={root}", "--allow", STANDIN) == 0
    return of(tiny_runs.only_run(root))


def going_on(root: Path) -> Path:
    """A run that trains while its page is written, before its first evaluation."""
    words = tiny_runs.overrides(root, "iterations=1000000", "eval.every=500000", "checkpoint.every=500000")
    training = tiny_runs.start("-m", "metarl", "train", tiny_runs.POINT, *words)
    try:
        page = of(tiny_runs.wait_for_iteration(root, 2, training))
        assert training.poll() is None
        return page
    finally:
        training.kill()
        training.communicate()


def comparison(root: Path) -> Path:
    """Three agents with three seeds each."""
    for agent in ("maml_trpo", "promp", "reptile"):
        size = {k: v for k, v in tiny_runs.TINY.items() if agent != "reptile" or k != "agent.num_adapt_steps"}
        for seed in range(3):
            words = tiny_runs.overrides(root, f"seed={seed}", "iterations=2", size=size)
            runs.train(loading.load(f"{agent}_point", words))
    return compared(root)


def crowded(root: Path) -> Path:
    """More of everything than there is room for: methods, points, classes, digits, letters of a name."""
    for at in range(9):
        for seed in range(3):
            worst = [-12345.678 * (at + 1) * (task + seed + 1) for task in range(4)]
            returns = [[value / (point + 1) for value in worst] for point in range(6)]
            found = {"tasks": 3, "returns": [0.0] + [-1e4 * at] * 5, "success": [0.0] + [0.1 * at] * 5}
            by_class = {f"dial-turn-and-button-press-topdown-{place}-v3": found for place in range(12)}
            success = {"mean": [0.1] * 6, "low": [0.0] * 6, "high": [0.95] * 6, "interval": "Korn-Graubard over tasks"}
            settings = records.config(f"an_agent.of_my_own_with_a_long_name:Agent{at}", seed=seed, task__horizon=200)
            line = records.evaluation(returns, by_class=by_class, success=success)
            records.write(root / f"method_{at}_with_a_folder_of_a_long_name" / f"s{seed}", settings, [line])
    return compared(root)


def of(run: Path) -> Path:
    """A run's page."""
    assert tiny_runs.metarl("report", run, "--html") == 0
    return run / "report" / "page.html"


def compared(root: Path) -> Path:
    """The page of all runs below a folder."""
    page = root / "comparison.html"
    assert tiny_runs.metarl("compare", root, "--out", page) == 0
    return page


# With the number of their pictures, and how many kB they have at most; docs/compare.md says so, too
MADE: list[tuple[Callable[[Path], Path], int, int]] = [
    *((gradient, 3, 300), (memory, 3, 300), (classes, 3, 300), (going_on, 2, 300)),
    *((comparison, 3, 300), (crowded, 6, 1000)),
]


class Page(NamedTuple):
    """A file, and what it is to have."""

    file: Path
    pictures: int
    most_kb: int


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.chromium() as found:
        yield found


@pytest.fixture(scope="module", params=MADE, ids=[make.__name__ for make, *_ in MADE])
def page(request: pytest.FixtureRequest, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page by itself, where nothing else lies that it could lean on."""
    make, pictures, most_kb = request.param
    alone = tmp_path_factory.mktemp("alone") / "page.html"
    shutil.copy(make(tmp_path_factory.mktemp(make.__name__)), alone)
    return Page(alone, pictures, most_kb)


@pytest.mark.pages
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", browsers.WIDTHS, ids=browsers.WIDTHS.get)
def test_nothing_is_wrong_with_it(page: Page, width: int, dark: bool, browser: Any) -> None:
    assert browsers.complaints(browser, page.file, width, dark=dark) == []


@pytest.mark.pages
def test_all_of_it_is_there_and_it_is_small(page: Page, browser: Any) -> None:
    assert page.file.stat().st_size < 1000 * page.most_kb
    with browsers.opened(browser, page.file, 1280) as (shown, found):
        assert shown.locator("img").count() == page.pictures
        assert shown.title() == shown.locator("h1").inner_text() != ""
    assert found == []


@pytest.mark.pages
def test_with_the_keyboard_alone_a_wide_table_can_be_scrolled_and_what_is_folded_be_opened(
    browser: Any, tmp_path: Path
) -> None:
    with browsers.opened(browser, crowded(tmp_path), 390) as (shown, _):
        box = shown.locator(".scroll").first
        box.focus()
        for _ in range(3):
            shown.keyboard.press("ArrowRight")
        shown.wait_for_function("document.querySelector('.scroll').scrollLeft > 0")
        first = box.locator("tbody th").first.bounding_box()
        assert first["x"] >= 0 and first["width"] < 0.5 * 390  # the row's name stays, and leaves room for its numbers
        shown.locator("summary").first.focus()
        shown.keyboard.press("Enter")
        assert shown.locator("details").first.evaluate("one => one.open")


WRONG = """<!DOCTYPE html><html lang="en"><head><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>body { margin: 0 }</style></head><body>
<h1>Wrong</h1><h3>too deep</h3>
<p style="width: 1500px">wide</p><div style="overflow-x: hidden; width: 100px"><p style="width: 1400px">hidden</p></div>
<p style="color: #999; background: #fff">pale</p><p style="font-size: 7px">tiny</p>
<a href="#nowhere">nowhere</a><a href="other.html">other</a>
<img alt="none" src="data:image/png;base64,AAAA">
<img alt="small" width="30" src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='90' height='90'/>">
<img alt="far" src="https://example.org/a.png"><img alt="beside" src="beside.png">
<script>console.warn("careful"); throw new Error("broken")</script></body></html>"""
TOLD = [
    *("the page is 1500 pixels wide on {width}", "cut off: <p> hidden", "cut off: <p> wide", "contrast 2.8: pale"),
    *("text of 7 pixels: tiny", "link to nowhere: #nowhere", "link to nowhere: other.html"),
    *("picture none: cannot be decoded", "picture small: its words are too small, at 0.33", "asks https://example.org"),
    *("asks file:", "failed: https://example.org/a.png", "failed: file:", "heading h3 below h1", "console: careful"),
    *("error: broken",),
]


@pytest.mark.pages
@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_what_is_wrong_is_told(browser: Any, tmp_path: Path, width: int) -> None:
    """Otherwise the tests above could not fail."""
    file = tmp_path / "wrong.html"
    file.write_text(WRONG, "utf-8")
    shutil.copy(tiny_picture(tmp_path), tmp_path / "beside.png")
    found = browsers.complaints(browser, file, width)
    for beginning in TOLD:
        assert any(line.startswith(beginning.format(width=width)) for line in found), (beginning, found)
    dark = browsers.complaints(browser, file, width, dark=True)
    assert any(line.startswith("the page is not dark") for line in dark)


def tiny_picture(folder: Path) -> Path:
    from PIL import Image

    path = folder / "one.png"
    Image.new("L", (1, 1)).save(path)
    return path


# Without a browser


def test_without_a_browser_tests_are_skipped_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(browsers.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"), browsers.chromium():
        pass


def test_where_a_browser_is_required_its_lack_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(browsers.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="expected one of chromium, "), browsers.chromium():
        pass
