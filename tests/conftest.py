"""Tests run on an installed metarl, or straight from a checkout where none is installed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))  # at the end: an installed package wins


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """As in a run: chunks of tasks are what runs in parallel."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
