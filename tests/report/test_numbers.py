"""Numbers as words."""

from __future__ import annotations

from metarl.report.numbers import count, duration, number, significant


def test_a_number_has_a_proper_minus_and_none_before_a_zero() -> None:
    assert [number(value) for value in (-1.26, -0.04, 0.04, 2.0)] == ["−1.3", "0.0", "0.0", "2.0"]
    assert (number(-0.25, 2), number(1234.5, 0)) == ("−0.25", "1234")  # a half goes to the even neighbour


def test_large_numbers_are_counted_in_millions() -> None:
    assert [count(value) for value in (99_999, 100_000, 15_960_000)] == ["99999", "0.1 M", "16.0 M"]


def test_times_are_in_minutes_from_one_minute_on() -> None:
    assert [duration(value) for value in (0.04, 59.9, 60, 150)] == ["0.0 s", "59.9 s", "1.0 min", "2.5 min"]


def test_three_digits_are_told_and_all_before_the_point() -> None:
    values = (-0.23456, 19.0, 99.96, -12345.6, 0.0, -0.0, None)
    assert [significant(value) for value in values] == ["−0.235", "19.0", "100", "−12346", "0.00", "0.00", "–"]
