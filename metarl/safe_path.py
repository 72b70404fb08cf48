"""Whose modules run: those of Python, of its packages and of ``PYTHONPATH``, not those that lie where one stands.

``python -m`` and ``python SCRIPT`` look for every module in the working directory, or in the script's folder, before
all others, and so does every process that they start. A ``torch.py`` in somebody's run would be executed, an empty
``token.py`` in one's own folder would break the start. This module imports nothing that could be such a file. What
``python -m`` itself imports before the first line of metarl, ``importlib`` and a dozen more, is out of its reach.
"""

import os
import sys

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # where `import metarl` has found this copy


def leave_start_folder() -> None:
    """Take away the folder that Python has put first; to be called before anything is imported, by a main program."""
    if not sys.flags.safe_path:  # else Python has put nothing there
        sys.path[:] = with_home(sys.path[1:])


def with_home(path: list[str]) -> list[str]:
    """A search path on which this copy of metarl is found: at the end where it can be, before any other copy."""
    if HOME in path:
        return path
    others = (index for index, folder in enumerate(path) if os.path.isdir(os.path.join(folder, "metarl")))
    index = next(others, len(path))
    return [*path[:index], HOME, *path[index:]]


def command(first: str = "") -> list[str]:
    """The start of a ``metarl`` command line for another process, which finds its modules where this one does.

    ``first`` is code for it to begin with, a statement.
    """
    path = with_home([folder for folder in sys.path if folder])
    code = f"import sys; sys.path[:] = {path!r}; {first or 'pass'}; from metarl.cli import main; sys.exit(main())"
    return [sys.executable, "-P", "-c", code]


def look_here_too(module: str) -> None:
    """Put the working directory at the end of the search path, if a module is there and nowhere else.

    For a module that the user has named. At the end it hides nothing.
    """
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    top = module.partition(".")[0]
    if top not in sys.modules and find_spec(top) is None and PathFinder.find_spec(top, [os.getcwd()]) is not None:
        sys.path.append(os.getcwd())
