"""metarl: meta-train robot policies that adapt within a few episodes, and measure that adaptation."""

import importlib
from pathlib import Path
from typing import Any

from metarl.version import __version__ as __version__

# In a source tree envs/, agents/ and configs/ lie beside this package, not in it; installed, they are its sub-packages.
_here = Path(__file__).resolve().parent
if not (_here / "envs").is_dir():
    __path__.append(str(_here.parent))

PUBLIC = ("agent", "agents", "envs", "errors", "tasks", "types")  # modules that are there once they are asked for


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'metarl' has no attribute {name!r}; it has {', '.join(PUBLIC)}")
    return importlib.import_module(f"metarl.{name}")


def __dir__() -> list[str]:
    return [*PUBLIC, "__version__"]
