"""Random streams: pure functions of their keys, all different, numbered once and for all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from metarl.seeding import FEW, Domain, Stream, generator, restart


def first_draw(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))


def test_domains_are_never_renumbered() -> None:
    assert {domain.name: domain.value for domain in Domain} == {
        "TASKS": 1,
        "RESET": 2,
        "NOISE": 3,
        "LEARNER": 4,
        "INIT": 5,
        "EVAL_TASKS": 6,
        "EVAL_RESET": 7,
        "EVAL_NOISE": 8,
        "EVAL_LEARNER": 9,
        "BOOTSTRAP": 10,
        "CHOICE_TASKS": 11,
        "STRATEGIES": 12,
        "CHOICE_STRATEGIES": 13,
        "ADAPT_NOISE": 14,
        "ADAPT_RESET": 15,
        "ADAPT_LEARNER": 16,
        "FILM_RESET": 17,
        "START": 18,
        "EVAL_START": 19,
        "ADAPT_START": 20,
    }


def test_a_stream_is_what_its_docstring_says() -> None:
    """SeedSequence(root, spawn_key=(domain, iteration, task_slot, phase, lane)), spelt out."""
    key = np.random.SeedSequence(7, spawn_key=(3, 11, 12, 13, 14))
    expected = np.random.Generator(np.random.PCG64(key)).standard_normal(5)
    found = generator(7, Domain.NOISE, iteration=11, task_slot=12, phase=13, lane=14)
    np.testing.assert_array_equal(found.standard_normal(5), expected)


def test_the_bits_of_a_known_stream() -> None:
    """Numbers written down when this test was: another numpy or another key layout would change every result."""
    assert generator(0, Domain.TASKS).integers(1000, size=5).tolist() == [75, 228, 886, 437, 726]


def test_a_stream_depends_on_nothing_but_its_key() -> None:
    before = generator(3, Domain.RESET, iteration=2).random(4)
    for _ in range(10):
        generator(3, Domain.RESET, iteration=1).random(100)
    np.random.default_rng(0).random(100)
    np.testing.assert_array_equal(generator(3, Domain.RESET, iteration=2).random(4), before)


def test_no_two_keys_of_a_grid_share_a_stream() -> None:
    """1 944 neighbouring keys, zeros among them: what a short key padded with zeros, or ``seed + i``, would confuse."""
    grid = itertools.product(
        range(3), (Domain.RESET, Domain.NOISE, Domain.EVAL_NOISE), range(3), range(4), range(3), range(6)
    )
    draws = {
        first_draw(generator(root, domain, iteration=iteration, task_slot=slot, phase=phase, lane=lane))
        for root, domain, iteration, slot, phase, lane in grid
    }
    assert len(draws) == 3 * 3 * 3 * 4 * 3 * 6


def test_every_part_of_the_key_counts() -> None:
    parts = ("iteration", "task_slot", "phase", "lane")
    changed = [first_draw(generator(1, Domain.NOISE, **{part: 1})) for part in parts]
    assert len({first_draw(generator(1, Domain.NOISE)), first_draw(generator(2, Domain.NOISE)), *changed}) == 6
    assert len({first_draw(generator(1, domain)) for domain in Domain}) == len(Domain)


def test_large_key_parts_do_not_wrap_around() -> None:
    top = 2**32 - 1
    draws = {first_draw(generator(0, Domain.NOISE, lane=lane)) for lane in (0, 1, top - 1, top)}
    assert len(draws) == 4
    assert first_draw(generator(2**32, Domain.NOISE)) != first_draw(generator(0, Domain.NOISE))


@pytest.mark.parametrize("part", ["iteration", "task_slot", "phase", "lane"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_key_part_out_of_range_is_an_error(part: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"key parts in \[0, 2\*\*32\).*{value}"):
        generator(0, Domain.TASKS, **{part: value})


def test_a_negative_root_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected a root >= 0 .* got root -1"):
        generator(-1, Domain.TASKS)


def test_streams_of_training_and_evaluation_differ_everywhere() -> None:
    """Same root, iteration and phase: switching evaluation on or off must change no training bit."""
    draws = []
    for stream in (Stream(5, 0, 0), Stream(5, 0, 0, evaluation=True)):
        draws += [first_draw(stream.noise(slot, lane)) for slot, lane in itertools.product(range(3), range(4))]
        draws += [first_draw(stream.reset(slot)) for slot in range(3)]
    assert len(set(draws)) == len(draws)


def test_streams_are_generators_of_the_documented_domains() -> None:
    training, evaluation = Stream(5, 6, 7), Stream(5, 6, 7, evaluation=True)
    place = {"iteration": 6, "phase": 7, "task_slot": 8}
    assert first_draw(training.noise(8, 9)) == first_draw(generator(5, Domain.NOISE, lane=9, **place))
    assert first_draw(evaluation.noise(8, 9)) == first_draw(generator(5, Domain.EVAL_NOISE, lane=9, **place))
    assert first_draw(training.reset(8)) == first_draw(generator(5, Domain.RESET, **place))
    assert first_draw(evaluation.reset(8)) == first_draw(generator(5, Domain.EVAL_RESET, **place))


def test_asking_twice_gives_the_stream_from_its_start() -> None:
    stream = Stream(0, 1, 2)
    np.testing.assert_array_equal(stream.noise(0, 0).random(3), stream.noise(0, 0).random(3))


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("root", [0, 1, 2**32 - 1, 2**32, 2**64 + 5, 2**130 + 3])
def test_the_noise_of_many_lanes_is_that_of_each(root: int, evaluation: bool) -> None:
    stream = Stream(root, iteration=2**32 - 1, phase=2, evaluation=evaluation)
    found = [(rng.random(3), rng.standard_normal(2)) for rng in stream.noise_of_lanes(70_000, 3, 5)]
    assert len(found) == 15
    for (task, lane), (uniform, normal) in zip(itertools.product(range(3), range(5)), found, strict=True):
        rng = stream.noise(70_000 + task, lane)
        np.testing.assert_array_equal(uniform, rng.random(3))
        np.testing.assert_array_equal(normal, rng.standard_normal(2))


@pytest.mark.parametrize("more", [[], [2**64], [2**200 + 1]], ids=["64 bits", "65 bits", "201 bits"])
def test_many_generators_start_where_numpy_starts_them(more: list[int]) -> None:
    seeds = [0, 1, 2**31 - 1, 2**32, 2**63, 2**64 - 1, *np.random.default_rng(0).integers(2**31, size=500).tolist()]
    seeds += more
    rngs = [np.random.Generator(np.random.PCG64(1)) for _ in seeds]
    for rng in rngs:
        rng.integers(5, dtype=np.uint8)  # leaves half a word behind, which must go
    restart(rngs, seeds)
    for rng, seed in zip(rngs, seeds, strict=True):
        expected = np.random.PCG64(seed).state
        assert rng.bit_generator.state == expected


@pytest.mark.parametrize("number", [1, FEW - 1, FEW, 3 * FEW])
def test_a_negative_seed_is_refused_and_any_number_of_others_is_not(number: int) -> None:
    rngs = [np.random.default_rng(0) for _ in range(number)]
    restart(rngs, range(number))
    assert [rng.bit_generator.state for rng in rngs] == [np.random.PCG64(seed).state for seed in range(number)]
    with pytest.raises(ValueError, match="non-negative"):
        restart(rngs, [*range(number - 1), -1])
