"""The documentation as a site: every page has its place, no link leads nowhere, nothing is asked of another host.

What needs MkDocs or a browser is run by ``make docs-test``, which installs the extra ``docs``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import browser
import pytest
import site_hook
import site_reference
import site_text
import yaml
from documented import PAGES, ROOT

from metarl import cli, studies
from metarl.config import lookup, messages

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="needs MkDocs: pip install -c constraints.txt '.[docs]'"
)


def in_nav(entry: Any) -> Iterator[str]:
    """The pages of a part of the nav."""
    if isinstance(entry, str):
        yield entry
    for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from in_nav(inner)


def test_every_page_of_the_docs_has_one_place_in_the_nav() -> None:
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    made = {f"reference/{name}.md" for name in ("command_line", "run_keys", "agent_keys", "task_keys")}
    python = {f"reference/{name}.md" for name in site_reference.PYTHON}
    assert len(written) > 25
    assert sorted(in_nav(CONFIG["nav"])) == sorted(written | made | python | site_hook.BESIDE.keys())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_long_lines_of_settings_are_folded_up(page: Path) -> None:
    """Tables, blocks of code and what is folded up may have any."""
    shown = re.sub(r"(?ms)^(<details>.*?^</details>|```.*?^```)$", "", page.read_text(encoding="utf-8"))
    assert [line for line in shown.splitlines() if len(line) > 300 and not line.startswith("|")] == []


# Pages that are written for the code's host


@pytest.mark.parametrize(
    ("uri", "text", "expected"),
    [
        ("maml.md", "[`maml_trpo`](../agents/maml_trpo.py)", "`maml_trpo`"),
        ("maml.md", "[agents/_maml.py](../agents/_maml.py), read", "`agents/_maml.py`, read"),
        ("maml.md", "[nn/mlp.py](../metarl/nn/mlp.py)", "`metarl/nn/mlp.py`"),
        ("own_agent.md", "[`Policy`](../metarl/nn/policies.py)", "`Policy` (`metarl/nn/policies.py`)"),
        ("own_agent.md", "[agents/](../agents) and [there](../agents)", "`agents/` and there (`agents/`)"),
        ("architecture.md", "[README](../README.md)", "[README](index.md)"),
        ("results/README.md", "[README](../../README.md#use)", "[README](../index.md#use)"),
        ("results/README.md", "[c](../comparison.md#point)", "[c](../comparison.md#point)"),
        ("security.md", "[own_robot.md](docs/own_robot.md)", "[A robot of your own](own_robot.md)"),
        ("results/README.md", "[docs/runs.md](../runs.md#evaluation)", "[Runs](../runs.md#evaluation)"),
        ("maml.md", "[architecture.md](architecture.md#letters)", "[Architecture](architecture.md#letters)"),
        ("maml.md", "[nowhere.md](nowhere.md)", "[nowhere.md](nowhere.md)"),
        ("maml.md", "[x](https://example.org/a.py) [y](#speed)", "[x](https://example.org/a.py) [y](#speed)"),
        ("maml.md", "![picture](pictures/a.gif)", "![picture](pictures/a.gif)"),
        ("maml.md", "```\n[x](../train.py)\n```\n[x](../train.py)", "```\n[x](../train.py)\n```\nx (`train.py`)"),
    ],
)
def test_links_out_of_the_docs_are_names_of_files_where_the_repository_has_no_address(
    uri: str, text: str, expected: str
) -> None:
    file = site_hook.BESIDE.get(uri, ROOT / "docs" / uri)
    assert site_hook.with_links(text, uri, file, None) == expected


def test_links_out_of_the_docs_lead_to_the_repository_where_it_has_an_address() -> None:
    text = "[`maml_trpo`](../agents/maml_trpo.py#L3) and [MAML](maml.md)"
    there = site_hook.with_links(text, "lpg.md", ROOT / "docs" / "lpg.md", "https://example.org/metarl/")
    assert there == "[`maml_trpo`](https://example.org/metarl/blob/main/agents/maml_trpo.py#L3) and [MAML](maml.md)"


def test_text_for_a_terminal_is_no_markup() -> None:
    told = "[N, E] of a*b_c, <run>/x | `a*b` and ``c_[d]``, _x"
    assert site_text.escaped(told) == r"\[N, E\] of a\*b_c, &lt;run>/x \| `a*b` and ``c_[d]``, \_x"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_installs_what_the_site_needs_and_tests_it() -> None:
    """Continuous integration runs `make docs-test`: there nothing below is skipped for want of MkDocs."""
    for target, expected in (("docs", "-m mkdocs build"), ("docs-test", "-m pytest -m pages")):
        command = ["make", "--dry-run", "--always-make", target]
        recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert '".[docs]"' in recipe and expected in recipe


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built as by `make docs`: a warning would be an error."""
    folder = tmp_path_factory.mktemp("site")
    built = mkdocs("build", "--site-dir", folder, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    return folder


def mkdocs(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """MkDocs, with this checkout's metarl."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


class Page(HTMLParser):
    """Of a page of the site: the ids, the links, and what a browser fetches for it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given and (name == "id" or tag == "a")}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(given["href"])
        if tag != "a":
            self.fetched += [given[name] for name in ("src", "srcset", "poster", "data") if name in given]


@cache
def page(file: Path) -> Page:
    return Page(file)


@needs_mkdocs
@pytest.mark.pages
def test_every_page_is_built(site: Path) -> None:
    expected = {uri.replace("README.md", "index.md").removesuffix(".md") for uri in in_nav(CONFIG["nav"])}
    built = {file.relative_to(site).with_suffix("").as_posix() for file in site.rglob("*.html")}
    assert built - {"404"} == expected
    assert not list(site.rglob("site_*.py"))


@needs_mkdocs
@pytest.mark.pages
def test_links_of_the_site_lead_to_files_and_anchors_that_are_there(site: Path) -> None:
    """Those that MkDocs makes of the code, too, which it does not check itself."""
    wrong, followed = [], 0
    for file in site.rglob("*.html"):
        for link in page(file).links:
            parts = urlsplit(link)
            if parts.scheme in ("https", "mailto") or file.name == "404.html":
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            found = target.is_file() and (not parts.fragment or unquote(parts.fragment) in page(target).ids)
            followed += 1
            if not found:
                wrong.append(f"{file.relative_to(site)}: {link}")
    assert followed > 3000
    assert wrong == []


@needs_mkdocs
@pytest.mark.pages
def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    for file in site.rglob("*.html"):
        fetched = page(file).fetched
        assert fetched, file
        assert [target for target in fetched if re.match(r"\w+:|//", target) and not target.startswith("data:")] == []
    for style in site.rglob("*.css"):
        named = re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", style.read_text(encoding="utf-8"))
        assert [target for pair in named for target in pair if re.match(r"(https?:)?//", target)] == [], style


@needs_mkdocs
@pytest.mark.pages
def test_the_command_line_is_there_with_every_option(site: Path) -> None:
    text = (site / "reference" / "command_line.html").read_text(encoding="utf-8")
    commands = site_reference._commands(cli._parser([])[0])
    assert {"train", "resume", "evaluate", "sweep"} <= commands.keys()
    for name, parser in commands.items():
        assert f'id="metarl-{name}"' in text
        for option in parser._option_string_actions:
            assert option in ("-h", "--help") or f"<code>{option}" in text, f"{name} {option}"
    for name in studies.available():
        assert f'id="metarl-reproduce-{name}"' in text


@needs_mkdocs
@pytest.mark.pages
def test_every_key_of_a_configuration_is_there_and_can_be_linked_to(site: Path) -> None:
    agents, tasks, run = (page(site / "reference" / f"{name}_keys.html").ids for name in ("agent", "task", "run"))
    for name in lookup.available("agents"):
        keys = {key.name for key in messages.keys(lookup.agent(name).config_class)} - {"name", "lineage"}
        assert {f"agent-{name}-{key}" for key in keys} <= agents
    for name in lookup.available("envs"):
        keys = {key.name for key in messages.keys(lookup.task_distribution(name).config_class)} - {"name", "lineage"}
        assert {f"task-{name}-{key}" for key in keys} <= tasks
    assert {"seed", "sampler-workers", "learner-threads", "eval-every", "checkpoint-keep", "wandb-mode"} <= run


@needs_mkdocs
@pytest.mark.pages
def test_the_python_interface_is_there(site: Path) -> None:
    ids = set().union(*(page(file).ids for file in (site / "reference").glob("python_*.html")))
    names = [
        "metarl.load",
        "metarl.train",
        "metarl.TrainedAgent.adapt",
        "metarl.Adaptation",
        "metarl.agent.Agent.adapt",
    ]
    names += ["metarl.tasks.TaskDistribution", "metarl.types.Trajectory.reward", "metarl.errors.ConfigError"]
    names += ["metarl.learning.returns.scanned", "metarl.nn.policies.Policy.act", "metarl.config.schema.AgentConfig"]
    assert {*names} <= ids
    text = (site / "reference" / "python_types.html").read_text(encoding="utf-8")
    text = re.sub(r'(?s)<details class="mkdocstrings-source">.*?</details>', "", text)
    assert "[N, E, T, act] as drawn, before any scaling or clipping" in text  # a field's comment
    assert ":class:" not in text and ":func:" not in text


@needs_mkdocs
@pytest.mark.pages
@pytest.mark.parametrize(
    ("text", "nav", "complaint"),
    [
        ("# A\n\n[x](b.md)", ["a.md"], "b.md"),
        ("# A\n\n[x](#b)", ["a.md"], "'#b'"),
        ("# A", [], "not included in the"),
        ("# A", ["a.md", "b.md"], "b.md"),
    ],
)
def test_what_is_wrong_fails_the_build(text: str, nav: list[str], complaint: str, tmp_path: Path) -> None:
    """Each on a site of one page or none, with the settings of ours."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text(text, encoding="utf-8")
    kept = {key: CONFIG[key] for key in ("site_name", "strict", "validation", "use_directory_urls")}
    config = {**kept, "nav": nav or [{"elsewhere": "https://example.org"}], "plugins": []}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    built = mkdocs("build", cwd=tmp_path)
    assert built.returncode != 0 and complaint in built.stderr


HOST = "http://site.invalid"
SHOWN = ("index", "maml", "comparison", "tasks", "reference/agent_keys", "reference/python_types")


@pytest.fixture(scope="module")
def visitor(site: Path) -> Iterator[Any]:
    """Opens a page of the site, of which all is answered from its folder: the page, and what went wrong."""
    with browser.chromium() as chromium:

        def visit(path: str, width: int) -> tuple[Any, list[str]]:
            found: list[str] = []

            def answer(route: Any) -> None:
                url = route.request.url
                file = site / unquote(urlsplit(url).path).removeprefix("/")
                if url.startswith(HOST) and file.is_file():
                    route.fulfill(path=file)
                else:
                    found.append(f"asks {url}")
                    route.abort("blockedbyclient")

            context = chromium.new_context(viewport={"width": width, "height": 844})
            context.route("**/*", answer)
            shown = context.new_page()
            shown.on("console", lambda message: found.append(f"console: {message.text}"))
            shown.on("pageerror", lambda error: found.append(f"error: {error}"))
            shown.goto(f"{HOST}/{path}")
            return shown, found

        yield visit


@needs_mkdocs
@pytest.mark.pages
@pytest.mark.parametrize("width", browser.WIDTHS)
@pytest.mark.parametrize("name", SHOWN)
def test_pages_fit_and_ask_nobody(name: str, width: int, visitor: Any) -> None:
    """As they are opened, and with everything unfolded."""
    shown, found = visitor(f"{name}.html", width)
    found += shown.evaluate(browser.OVERFLOW, width)
    shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found += shown.evaluate(browser.OVERFLOW, width)
    assert found == []


@needs_mkdocs
@pytest.mark.pages
def test_the_search_finds_a_key(visitor: Any) -> None:
    shown, found = visitor("index.html", 1280)
    shown.locator("input[name=query]").press_sequentially("retrieval_metric")  # it listens to keys
    shown.locator(".md-search-result__item a[href*='agent_keys.html']").first.wait_for(timeout=120_000)
    assert found == []
