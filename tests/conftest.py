"""Tests run on an installed metarl, or straight from a checkout where none is installed."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end: an installed package wins


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three processes for two cores: many tests wait for programs that they have started."""
    return max(1, len(os.sched_getaffinity(0)) * 3 // 2)


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


@pytest.fixture(autouse=True)
def pictures_are_drawn_where_they_are_looked_at(request: pytest.FixtureRequest, monkeypatch) -> None:
    """Rendering a run's picture takes as long as the rest of a tiny run: elsewhere a file of one pixel is written."""
    if "report" not in request.path.relative_to(ROOT / "tests").parts:
        monkeypatch.setattr("metarl.report.run_figure.png", lambda figure: one_pixel())


def one_pixel() -> bytes:
    picture = io.BytesIO()
    Image.new("L", (1, 1)).save(picture, format="png")
    return picture.getvalue()
