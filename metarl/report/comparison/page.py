"""A comparison as a page: what is compared, with what reservations, tables, pictures, and how it was made."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from metarl.config.loading import leaves
from metarl.monitor.curve_text import counted
from metarl.report import html, markdown
from metarl.report.comparison import tables
from metarl.report.comparison.figures import pictures
from metarl.report.comparison.method import Method
from metarl.report.comparison.methods import as_text, settings_of
from metarl.report.comparison.summary import Comparison, Section
from metarl.report.curves import after
from metarl.report.document import Block, Code, Commands, Details, Heading, Paragraph, Picture, Table, Text, Warnings
from metarl.report.estimates import LEVEL, RESAMPLES, Estimate
from metarl.report.figures import house_style, png
from metarl.report.files import write_files
from metarl.report.numbers import count, duration, significant
from metarl.report.origin import made_with
from metarl.report.summary import BEST_IS_CHOSEN

TITLE = "Comparison of runs"

READING = f"""\
Return per episode on held-out tasks with the final parameters: interquartile mean over all seeds and tasks, with a \
{100 * LEVEL:.0f} % percentile bootstrap interval for which tasks are drawn anew within every seed ({RESAMPLES} \
resamples; Agarwal et al. 2021, arXiv:2108.13264). Where a family has fewer tasks than a run has trials, it is the \
mean of the tasks' own interquartile means. Seeds: lowest and highest of the seeds' own figures at the last point \
shown; the interval is for these seeds and does not contain their spread."""

PAIRED = """\
Returns minus those of the baseline on the same seed and held-out task: the plain mean of these differences, with its \
interval from the same bootstrap. Above 0 a method is better. That intervals of two methods overlap does not mean that \
there is no difference: this table tells."""

KEPT_APART = f"""\
Means over seeds of a run's mean return, with as much adaptation as in training, or all that was evaluated where \
training had none. The tables above show final. Best is chosen: \
{BEST_IS_CHOSEN.format(count="a run's")}. It is here to be seen beside the others, not to be reported."""


BESIDE = """\
No methods of this comparison: what their returns are to be seen beside. In the pictures they are grey and dashed."""


def write_page(comparison: Comparison, page: Path, command: str) -> list[Path]:
    """Write the page: Markdown with a folder of pictures and tables of its name beside it, or one HTML file.

    Returns:
        The page, and the folder where there is one.

    Raises:
        StorageError: something cannot be written.
    """
    if page.suffix == ".html":
        write_files({page: html.page(TITLE, blocks(comparison, command))})
        return [page]
    folder = page.with_suffix("")
    content = blocks(comparison, command)
    files = {page: markdown.page(TITLE, content, folder.name).encode(errors="replace")}
    for picture in (block for block in content if isinstance(block, Picture)):
        with house_style():
            files[folder / f"{picture.name}.png"] = png(picture.figure)
    files[folder / "table.csv"] = tables.csv_text(comparison).encode(errors="replace")
    files[folder / "learning.csv"] = tables.learning_csv(comparison).encode(errors="replace")
    write_files(files)
    return [page, folder]


def blocks(comparison: Comparison, command: str) -> list[Block]:
    """The page's content."""
    methods = sum(len(section.methods) for section in comparison.sections)
    runs = sum(len(method.runs) for section in comparison.sections for method in section.methods)
    found: list[Block] = [
        Paragraph(f"{counted(methods, 'method')}, {counted(runs, 'run')}, {_tasks(comparison.sections)}."),
        Warnings(comparison.warnings),
    ]
    names = _file_names([section.name for section in comparison.sections])
    for name, section in zip(names, comparison.sections, strict=True):
        found += [Heading(section.name), *_section(section, name)]
    return [*found, Heading("How it was made"), Commands([command]), *_made(comparison)]


def _section(section: Section, name: str) -> list[Block]:
    task = [f"{key.removeprefix('task.')} {as_text(value)}" for key, value in section.task.items() if value is not None]
    found: list[Block] = [
        Paragraph(f"Task: {', '.join(task) or 'as the family has it'}."),
        Warnings(section.warnings),
        *(Paragraph(f"Note: {line}.") for line in section.notices),
        Heading("Return on held-out tasks", 3),
        Paragraph(READING),
        *_episodes(section),
        _returns(section, section.methods),
        *_differences(section),
        *_success(section, section.methods),
        *_references(section),
        Heading("Final, last tenth and best", 3),
        Paragraph(KEPT_APART),
        _kept_apart(section),
        Heading("Pictures", 3),
        *pictures(section, name),
    ]
    return [*found, Details("Settings", _settings(section)), Details("Runs", [_runs(section)])]


def _episodes(section: Section) -> list[Block]:
    if not section.in_episodes:
        return []
    names: list[str] = []
    for name in section.in_episodes:
        names += [", ", Code(name)]
    take = "takes" if len(section.in_episodes) == 1 else "take"
    line: Text = [
        *names[1:],
        f" {take} no adaptation steps: in these rows the columns are the episodes of one trial, after 0, 1, … others.",
    ]
    return [Paragraph(line)]


def _heads(section: Section) -> list[str]:
    """The points' headings; where methods count different things, the column ``adaptation`` says what."""
    units = {method.unit for method in section.methods}
    if len(units) == 1:
        return [after(section.steps(point), *units) for point in section.points]
    return [f"after {section.steps(point)}" for point in section.points]


def _references(section: Section) -> list[Block]:
    """What the lines beside the methods are, and their figures; nothing without any."""
    if not section.references:
        return []
    meanings = [Paragraph([Code(one.name), f": {one.meaning}"]) for one in section.references]
    title = Heading("References", 3)
    success = _success(section, section.references)[1:]  # without its heading
    return [title, Paragraph(BESIDE), *meanings, _returns(section, section.references), *success]


def _returns(section: Section, methods: Sequence[Method]) -> Table:
    several = section.mixed
    heads = ["method", *(["adaptation"] if several else []), *_heads(section)]
    heads += ["seeds", "env steps", "time per run", "runs"]
    rows = []
    for method in methods:
        unit = ["steps" if method.runs[0].is_by_gradient else "episodes"] if several else []
        cells = [interval(method.iqm, point) for point in section.points]
        rows.append(
            [
                Code(method.name),
                *unit,
                *cells,
                spread(method.iqm, method.shown[-1]),
                count(method.env_steps),
                duration(method.seconds),
                str(len(method.runs)),
            ]
        )
    return Table(heads, rows, f"Interquartile mean of the return, {100 * LEVEL:.0f} % interval")


def _differences(section: Section) -> list[Block]:
    """Nothing where no method has one."""
    if not any(method.difference for method in section.methods):
        return []
    heads = ["method", "plain mean", *_heads(section), "seeds", "runs"]
    rows = []
    for method in section.methods:
        mean = significant(method.mean.values[method.shown[-1]])
        if method.name == section.baseline or method.difference is None:
            none = "–" if method.name == section.baseline else "none"
            rows.append([Code(method.name), mean, *[none] * (len(section.points) + 1), str(len(method.runs))])
            continue
        found = method.difference.estimate
        cells = [interval(found, point) for point in section.points]
        last = min(method.shown[-1], len(found.values) - 1)
        rows.append([Code(method.name), mean, *cells, spread(found, last), str(len(method.difference.seeds))])
    about = f"Return minus that of {section.baseline}, {100 * LEVEL:.0f} % interval"
    mixed = Paragraph("Episodes of one are held against steps of the other, number by number.")
    title = Heading(f"Differences from {section.baseline}", 3)
    return [title, Paragraph(PAIRED), *([mixed] if section.mixed else []), Table(heads, rows, about)]


def _success(section: Section, methods: Sequence[Method]) -> list[Block]:
    """Nothing where no method knows it."""
    known = [method for method in methods if method.success is not None]
    if not known:
        return []
    heads = ["method", *_heads(section), "seeds"]
    rows = []
    for method in methods:
        if method.success is None:
            rows.append([Code(method.name), *["not known"] * (len(heads) - 1)])
            continue
        cells = [interval(method.success, point) for point in section.points]
        rows.append([Code(method.name), *cells, spread(method.success, method.shown[-1])])
    ways = "; ".join(dict.fromkeys(method.success.method for method in known if method.success))
    return [Heading("Success", 3), Table(heads, rows, f"Episodes with success at any step; intervals: {ways}")]


def _kept_apart(section: Section) -> Table:
    rows = []
    for method in section.methods:
        final = method.mean.by_seed[method.point]
        cells = [_mean(final), _mean(method.last_share), _mean(method.best)]
        evaluations = {len(run.evaluations) for run in method.runs}
        rows.append(
            [
                Code(method.name),
                after(method.steps(method.point), method.unit),
                *cells,
                " or ".join(map(str, sorted(evaluations))),
            ]
        )
    heads = ["method", "adaptation", "final", "mean of the last 10 %", "best (chosen)", "evaluations"]
    return Table(heads, rows)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return significant(sum(known) / len(known)) if known and len(known) == len(values) else "–"


def _settings(section: Section) -> list[Block]:
    """What all methods have in common, and what each has of its own."""
    found = {method.name: {**settings_of(method.runs[0])} for method in section.methods}
    evaluations = {
        method.name: {k: v for k, v in leaves(method.runs[0].config) if k.startswith("eval.")}
        for method in section.methods
    }
    found = {name: values | evaluations[name] for name, values in found.items()}
    keys = dict.fromkeys(itertools.chain.from_iterable(found.values()))
    rows = [
        [Code(key), *(as_text(values[key]) if key in values else "–" for values in found.values())]
        for key in keys
        if len({as_text(values.get(key)) for values in found.values()}) > 1 or len(found) == 1
    ]
    same = [[Code(key), as_text(first[key])] for first in [next(iter(found.values()))] for key in keys if key in first]
    same = [row for row in same if row[0] not in {one[0] for one in rows}]
    different = [Table(["what differs", *found], rows)] if rows else []
    return [*different, *([Table(["the same in all", "value"], same)] if same else [])]


def _runs(section: Section) -> Table:
    heads = ["run", "method", "seed", "state", "iteration", "env steps", "return before → as trained"]
    rows = []
    for method in (*section.methods, *section.references):
        for run in method.runs:
            mean = run.final["mean"]
            ends = " → ".join(significant(mean[point]) for point in (0, run.point))
            planned = run.config.get("iterations")
            done = f"{run.final['iteration']}" + (f"/{planned}" if planned else "")
            steps = count(run.final["env_steps"])
            rows.append([Code(run.path), Code(method.name), str(run.seed), run.state, done, steps, ends])
    return Table(heads, rows)


def _made(comparison: Comparison) -> list[Block]:
    """Versions and machines of the runs, as they recorded them."""
    found: dict[str, int] = {}
    for section in comparison.sections:
        for run in itertools.chain.from_iterable(one.runs for one in (*section.methods, *section.references)):
            line = made_with(run.versions, run.config)
            found[line] = found.get(line, 0) + 1
    return [Paragraph(f"{counted(runs, 'run')}: {line}.") for line, runs in found.items()]


def interval(found: Estimate, point: int) -> str:
    """The value and interval of a point of a curve; a dash where the curve does not go on so far."""
    if point >= len(found.values):
        return "–"
    if found.values[point] is None:
        return "undefined"
    if found.low[point] is None or found.high[point] is None:
        return significant(found.values[point])
    return f"{significant(found.values[point])} [{significant(found.low[point])}, {significant(found.high[point])}]"


def spread(found: Estimate, point: int) -> str:
    """From the lowest to the highest seed; a dash for one seed."""
    known = [value for value in found.by_seed[point] if value is not None]
    return (
        "–" if len(found.by_seed[point]) < 2 or not known else f"{significant(min(known))} … {significant(max(known))}"
    )


def _tasks(sections: Sequence[Section]) -> str:
    return counted(len(sections), "task distribution")


def _file_names(names: Sequence[str]) -> list[str]:
    """What pictures are called after: in letters that a path and a link may have, each another."""
    plain = [re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.")[:40] or "task" for name in names]
    return [name if plain.count(name) == 1 else f"{name}-{place}" for place, name in enumerate(plain, start=1)]
