"""Studies that `metarl reproduce` can run, a folder each: plan (which runs), summary (their numbers), page (words).

The docstring of a study's folder says in one line what the study is. Its plan module has ``add_arguments(parser)``,
which adds the options that choose a part of the study and sets ``make_study(options)``, a
:class:`~metarl.studies.study.Study`.
"""

import importlib
from pathlib import Path
from typing import Any


def available() -> list[str]:
    """The names of all studies; none is imported."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/plan.py"))


def summary(name: str) -> str:
    """One line about a study; its plan is not imported."""
    docstring = importlib.import_module(f"metarl.studies.{name}").__doc__ or ""
    return docstring.partition("\n")[0]


def plan_of(name: str) -> Any:
    """A study's plan module."""
    return importlib.import_module(f"metarl.studies.{name}.plan")
