"""Pages as Markdown; and what those about studies have in common: what is missing, settings, and how it was made.

An entry is a summary of runs with the same settings but their seed: ``runs``, of which each has ``versions``,
``missing_seeds`` and, where there are runs, their ``settings`` and ``config``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metarl.report.document import (
    Block,
    Code,
    Commands,
    Details,
    Heading,
    Paragraph,
    Picture,
    Table,
    Text,
    Warnings,
    parts,
)
from metarl.visible import visible

WITHOUT_MEANING = "**Made with `--small`: sizes for a test of the command. The numbers mean nothing.**\n"
NOT_SETTINGS = ("seed", "run_dir", "device", "time_limit_s", "init_from", "iterations", "env_steps")
TASK = "task."
NOT_SECTIONS = ("task", "sampler", "learner", "eval", "checkpoint", "wandb")

Summary = Mapping[str, Any]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)) + "\n"


def page(title: str, blocks: Sequence[Block], folder: str) -> str:
    """A whole page; ``folder`` is where its pictures are, as PNGs of their names."""
    return "\n".join([f"# {_plain(title)}\n", *(_block(block, folder) for block in blocks)])


def _block(block: Block, folder: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}\n"
        case Paragraph(text):
            return f"{_text(text)}\n"
        case Warnings(lines):
            return "".join(f"> **Mind:** {_plain(line)}\n>\n" for line in lines).removesuffix(">\n")
        case Table(heads, rows, about):
            cells = [[_cell(cell) for cell in row] for row in rows]
            return (f"{_plain(about)}\n\n" if about else "") + table([_plain(head) for head in heads], cells)
        case Commands(lines):
            fence = "`" * max(3, _longest("".join(lines)) + 1)
            return "\n".join([f"{fence}text", *map(visible, lines), f"{fence}\n"])
        case Picture(name, about, caption):
            return f"![{_plain(about)}]({folder}/{name}.png)\n\n{_plain(caption)}\n"
        case Details(title, blocks):
            return "\n".join([f"### {_plain(title)}\n", *(_block(inner, folder) for inner in blocks)])


def _text(text: Text) -> str:
    return "".join(_code(part) if isinstance(part, Code) else _plain(part) for part in parts(text))


def _cell(text: str) -> str:
    """In a table a bar ends the cell, in code too."""
    return _code(text).replace("|", "\\|") if isinstance(text, Code) else _plain(text)


def _code(text: str) -> str:
    """In as many backticks as it takes."""
    text, ticks = visible(text), "`" * (1 + _longest(text))
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{' '.join(text.split())}{ticks}"


def _longest(text: str) -> int:
    """Backticks in a row."""
    return max(map(len, re.findall("`+", text)), default=0)


def _plain(text: str) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([\\`*_<>#|~]|\](?=[(\[:]))", r"\\\1", visible(" ".join(text.split())))


def missing(entries: Mapping[str, Summary]) -> str:
    """Which runs are not there; empty if all are."""
    lines = [
        f"`{name}` seed{'s' if len(entry['missing_seeds']) > 1 else ''} {', '.join(map(str, entry['missing_seeds']))}"
        for name, entry in entries.items()
        if entry["missing_seeds"]
    ]
    return f"**Not finished, and so not in any number here:** {'; '.join(lines)}.\n" if lines else ""


def settings(entries: Mapping[str, Summary]) -> str:
    """What the configurations of entries with runs have in common, and what each has of its own, task included: folded
    up, as these are long lines."""
    flat = {name: _flat(entry["settings"]) for name, entry in entries.items() if entry["runs"]}
    first = next(iter(flat.values()))
    common = {k: v for k, v in first.items() if all(k in other and other[k] == v for other in flat.values())}
    shared = _pairs({k: v for k, v in common.items() if not k.startswith(TASK)})
    lines = ["<details>\n<summary>Settings</summary>\n", f"Settings of all: {shared}.\n"]
    for name, values in flat.items():
        own = {key: value for key, value in values.items() if key not in common and value is not None}
        lines.append(f"- `{name}` (`{entries[name]['config']}`): {_pairs(own) or 'nothing else'}")
    return "\n".join([*lines, "\n</details>\n"])


def _flat(values: Summary) -> dict[str, Any]:
    """Run keys and the agent's keys; not what the plan sets or what decides no result."""
    skipped = {*NOT_SETTINGS, *NOT_SECTIONS, "agent"}
    agent, task = (
        {k: v for k, v in values[part].items() if k not in ("name", "lineage")} for part in ("agent", "task")
    )
    run = {key: value for key, value in values.items() if key not in skipped}
    return run | agent | {TASK + key: value for key, value in task.items()}


def _pairs(values: Summary) -> str:
    return ", ".join(f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())


def made(command: str, entries: Iterable[Summary]) -> str:
    """Command, versions and machines of the runs, as they recorded them."""
    found: dict[str, int] = {}
    for entry in entries:
        for run in entry["runs"]:
            line = _environment(run["versions"], entry["settings"]["learner"]["threads"])
            found[line] = found.get(line, 0) + 1
    lines = [f"- {runs} run{'s' if runs > 1 else ''}: {line}" for line, runs in found.items()]
    return "\n".join(["## How it was made\n", f"`{command}`\n", *lines, ""])


def _environment(versions: Summary, threads: int) -> str:
    names = {"python": "Python", "torch": "torch", "numpy": "numpy", "gymnasium": "Gymnasium", "mujoco": "MuJoCo"}
    parts = [f"{name} {versions[key]}" for key, name in names.items() if versions.get(key)]
    git = versions.get("git")
    commit = f", commit `{git['commit'][:7]}`{' with changes' if git['dirty'] else ''}" if git else ""
    machine = f"{versions.get('cpu') or 'unknown CPU'}, {threads} learner thread{'s' if threads > 1 else ''}"
    return f"{machine}; metarl {versions.get('metarl')}{commit}; {', '.join(parts)}"
