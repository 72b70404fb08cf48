"""What a report of a fault should tell of the machine: one line each, to be pasted."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata

from metarl.version import __version__

PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "metaworld", "wandb")


def report() -> str:
    """All lines. What cannot be found out is said in its line."""
    checks: dict[str, Callable[[], str]] = {
        "metarl": lambda: f"{__version__} in {os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}",
        "python": lambda: f"{platform.python_version()} ({sys.executable}), {platform.platform()}",
        **{name: lambda name=name: metadata.version(name) for name in PACKAGES},  # type: ignore[misc]
        "processor": _processor,
        "device": _device,
        "GL back end": _gl,
        "wandb login": _wandb,
        "folder": _folder,
    }
    width = max(map(len, checks))
    return "\n".join(f"{name:{width}}  {_said(check)}" for name, check in checks.items())


def _said(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return f"not found out ({type(error).__name__}: {error})"


def _processor() -> str:
    from metarl.parallel import available_cores
    from metarl.run import provenance

    return f"{provenance.cpu()['model']}, {available_cores()} of {os.cpu_count()} cores usable"


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu; no CUDA device"
    return "cuda: " + ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _gl() -> str:
    wanted = os.environ.get("MUJOCO_GL")
    return f"MUJOCO_GL = {wanted}" if wanted else "MUJOCO_GL is not set; training needs none"


def _wandb() -> str:
    from metarl.monitor.wandb_sink import has_credentials, resolve_mode

    key = "a key is there" if has_credentials() else "no key"
    return f"{key}; wandb.mode = auto is {resolve_mode('auto')}"


def _folder() -> str:
    writable = "writable" if os.access(".", os.W_OK) else "not writable"
    return f"{os.getcwd()}, {writable}"
