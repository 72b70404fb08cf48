"""Tests run on an installed metarl, or straight from a checkout where none is installed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end: an installed package wins


@pytest.fixture(scope="module")
def children_find_metarl() -> Iterator[None]:
    """Programs that a test starts find metarl whether it is installed or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """As in a run: chunks of tasks are what runs in parallel."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
