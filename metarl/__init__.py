"""metarl: meta-train robot policies that adapt within a few episodes, and measure that adaptation."""

# Only what every Python has loaded by now: `python -m metarl` still looks first in the working directory (safe_path).
import importlib
import os
import sys

from metarl.version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# In a source tree envs/, agents/ and configs/ lie beside this package, not in it; installed, they are its sub-packages.
_here = os.path.dirname(os.path.abspath(__file__))
if not os.path.isdir(os.path.join(_here, "envs")):
    __path__.append(os.path.dirname(_here))

PUBLIC = ("agent", "agents", "envs", "errors", "tasks", "types")  # modules that are there once they are asked for
API = {  # names that are, and where they are defined
    "load": "loading",
    "load_policy": "loading",
    "record": "filming",
    "train": "training",
    "Run": "training",
    "TrainedAgent": "trained_agent",
    "AdaptedPolicy": "adapted_policy",
    "Adaptation": "adaptation",
    "MetaWorldAgent": "meta_world",
    "Notice": "notices",
}


def __getattr__(name: str) -> "Any":
    if name in API:
        return getattr(importlib.import_module(f"metarl.api.{API[name]}"), name)
    if name not in PUBLIC:
        raise AttributeError(f"module 'metarl' has no attribute {name!r}; it has {', '.join(sorted((*API, *PUBLIC)))}")
    return importlib.import_module(f"metarl.{name}")


def __dir__() -> list[str]:
    return [*API, *PUBLIC, "__version__"]


# Environment ids: registered once both metarl and Gymnasium are there, in whatever order


class _WhenGymnasiumComes:
    """Asked for every module before it is imported; registers metarl's environments behind Gymnasium's import."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name != "gymnasium":
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: "Any") -> None:
                execute(module)
                if "metarl.envs" not in sys.modules:  # it may be what imports Gymnasium
                    importlib.import_module("metarl.envs")

            setattr(spec.loader, "exec_module", execute_and_register)  # noqa: B010 (mypy lets no method be assigned)
        return spec


if "gymnasium" in sys.modules:
    importlib.import_module("metarl.envs")
else:
    sys.meta_path.insert(0, _WhenGymnasiumComes())
