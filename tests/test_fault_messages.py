"""What is said of exceptions that nobody expected, whatever they say of themselves."""

from __future__ import annotations

from typing import Any

import pytest

from metarl.errors import WorkerError
from metarl.faults import LONGEST, explained, sentence
from metarl.sampling.executors.codec import answer, decode, encode


class Speechless(RuntimeError):
    def __str__(self) -> str:
        raise KeyError("no words")


def test_a_message_is_told_on_one_line_up_to_its_2000th_letter() -> None:
    assert sentence(ValueError("a\n  b")) == "ValueError: a b"
    assert sentence(ValueError("y" * LONGEST)) == f"ValueError: {'y' * 2000}"
    assert sentence(ValueError("y" * 10**7)) == f"ValueError: {'y' * 1999}…"


@pytest.mark.filterwarnings("error")
def test_an_exception_whose_message_raises_is_told_by_its_name() -> None:
    told = explained(Speechless())
    assert str(told).startswith("Speechless: its message raises KeyError") and not isinstance(told, WorkerError)


def fail(unit: Any) -> None:
    raise Speechless


def test_it_is_the_answer_to_its_unit() -> None:
    succeeded, failure = decode(answer(encode((fail, None)), encode(1)))
    assert not succeeded and failure.sentence == "Speechless: its message raises KeyError"
    assert failure.rebuild() is None
