"""How a GPU's arithmetic is to be done: torch's switches, which hold for a whole process, as a run's keys say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from metarl.config.schema import RunConfig
from metarl.errors import ConfigError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED = (":16:8", ":4096:8")  # values with which cuBLAS adds up in a fixed order; the first one holds for cuDNN, too


@contextmanager
def arithmetic(config: RunConfig) -> Iterator[None]:
    """``learner.tf32`` and ``learner.deterministic`` of a resolved configuration in this context; nothing on a CPU.

    TF32 is set both ways, as torch leaves it on in cuDNN's recurrent networks: workers, on CPUs, would act with other
    log-probabilities than the learner computes.

    Raises:
        ConfigError: cuBLAS has been told something else by CUBLAS_WORKSPACE_CONFIG.
    """
    if not _on_a_gpu(config.device):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_precision("tf32" if config.learner.tf32 else "ieee"))
        if config.learner.deterministic:
            stack.enter_context(_deterministic())
        yield


def _on_a_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


@contextmanager
def _precision(name: str) -> Iterator[None]:
    """That precision in products of matrices, convolutions and recurrent networks."""
    backends: Any = torch.backends
    places = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = name
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


@contextmanager
def _deterministic() -> Iterator[None]:
    """Operators whose result is the same in every run, or an error where there is none.

    cuBLAS reads its variable when it is first used, so that it stays set. Filling new memory, for which strict mode
    launches a kernel each time, is left out: nothing reads what it has not written.
    """
    if os.environ.setdefault(WORKSPACE, FIXED[0]) not in FIXED:
        raise ConfigError(
            f"learner.deterministic = true: expected {WORKSPACE} = {' or '.join(FIXED)}, or unset, "
            f"got {os.environ[WORKSPACE]!r}"
        )
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]
