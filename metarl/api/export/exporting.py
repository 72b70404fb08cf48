"""Policies as files: recorded, written beside their place, opened again, compared, and only then there."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from metarl.api.artifact import new_folder
from metarl.api.export import numpy_file
from metarl.api.export.check import TOLERANCE, Fed, Measured, Opened, compare
from metarl.api.export.description import Described, describe
from metarl.api.policy_files import Stored
from metarl.errors import ConfigError, NumericError, nearest
from metarl.nn.policies import Policy
from metarl.storage import write_file

Format = Literal["numpy", "pt2", "onnx"]
FORMATS: tuple[str, ...] = get_args(Format)
FILES = {"numpy": "policy.py", "pt2": "policy.pt2", "onnx": "policy.onnx"}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime")}  # libraries of the extra `export`
DESCRIPTION = "policy.json"


class Exported(NamedTuple):
    """A file, and how it compares with the policy."""

    format: str
    path: Path
    difference: float  # of actions, the largest, in units of action_scale; for choices 0: all are equal
    microseconds: float  # per action, on this machine
    original: float  # the same of the policy itself


def export(policy: Policy, stored: Stored, folder: Path, formats: Sequence[str]) -> list[Exported]:
    """Write a policy to a new folder: a file for each format, and ``policy.json``, which describes them.

    All files are opened and compared with the policy before the folder is there; see
    :func:`metarl.api.export.check.compare`.

    Raises:
        ConfigError: no such format, a library is missing, or the policy is of a kind that cannot be exported.
        NumericError: a file's actions differ from the policy's; nothing is left of the files.
        StorageError: there is something at that place, or it cannot be written; nothing is left of it then.
    """
    chosen = require_formats(formats)
    described = describe(policy, stored)
    stored = replace(stored, fit=replace(stored.fit, lanes=None))
    made = []
    with new_folder(folder) as temp:
        for name, content in _contents(described, chosen):
            path = temp / FILES[name]
            write_file(path, content)
            measured = compare(policy, stored, described, _opened(name, path, described))
            if not measured.difference <= TOLERANCE:
                raise NumericError(_too_far(name, measured))
            made.append(Exported(name, folder / FILES[name], *measured))
        write_file(temp / DESCRIPTION, _description(described, made))
    return made


def require_formats(formats: Sequence[str]) -> list[str]:
    """The formats, each once. Raises ConfigError: there is no such format, or a library that it needs is missing."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"format {name!r}: {nearest(name, FORMATS)}expected {', '.join(FORMATS)}")
    if not formats:
        raise ConfigError(f"expected a format: {', '.join(FORMATS)}")
    for name in formats:
        missing = [library for library in NEEDS.get(name, ()) if importlib.util.find_spec(library) is None]
        if missing:
            raise ConfigError(
                f"format {name} needs {', '.join(missing)}, not installed here: pip install 'metarl[export]', "
                f"or take {' and '.join(other for other in FORMATS if other not in NEEDS)}"
            )
    return list(dict.fromkeys(formats))


def _contents(described: Described, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(format, bytes of its file) one after another."""
    program = None
    for name in formats:
        if name == "numpy":
            yield name, numpy_file.text(described).encode()
            continue
        from metarl.api.export import graph

        program = program or graph.record(described)
        yield name, (graph.pt2 if name == "pt2" else graph.onnx)(program, described)


def _opened(name: str, path: Path, described: Described) -> Opened:
    """A file as a robot's computer opens it."""
    if name == "numpy":
        policy = numpy_file.load(path)
        return Opened(policy.step, policy)
    from metarl.api.export import graph

    run = (graph.run_pt2 if name == "pt2" else graph.run_onnx)(path)
    return Opened(run, Fed(run, described))


def _too_far(name: str, measured: Measured) -> str:
    return (
        f"{FILES[name]}: expected the policy's actions but for {TOLERANCE:g} · action_scale, they differ by "
        f"{measured.difference:.2g} · action_scale; nothing was kept"
    )


def _description(described: Described, made: Sequence[Exported]) -> bytes:
    files = {
        each.format: {
            "file": each.path.name,
            "largest_difference": each.difference,
            "microseconds_per_action": round(each.microseconds, 1),
        }
        for each in made
    }
    return (json.dumps({**described.data(), "files": files}, allow_nan=False, indent=1) + "\n").encode()
