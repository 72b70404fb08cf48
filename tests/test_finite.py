"""The cheap look at numbers: what it lets through is finite."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from metarl.finite import surely_finite


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_let_through(dtype: Any, bad: float) -> None:
    values = np.zeros((3, 7), dtype)
    assert surely_finite(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for place in range(values.size):
            values.flat[place] = bad
            assert not surely_finite(values)
            values.flat[place] = 0


def test_large_numbers_are_looked_at_more_closely_and_whole_numbers_need_not_be() -> None:
    assert not surely_finite(np.array([1e300, -1e300]))  # the sum of whose squares is infinite
    assert not surely_finite(np.array([3e38], np.float32)) and not surely_finite(np.array([2e19]))
    assert surely_finite(np.array([9.0, -9.9]), below=14) and not surely_finite(np.array([-10.0]), below=10)
    assert surely_finite(np.array([True, False])) and surely_finite(np.zeros((0, 3)))
    assert surely_finite(np.ones((4, 4))[:, 1:3])
