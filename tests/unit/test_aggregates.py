"""Aggregates on their own: zero, add, merge, result."""

from __future__ import annotations

import doctest
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riskflow import aggregates
from riskflow.aggregates import AGGREGATES, Aggregate, Cells, Count, Distinct, Last, Max, Mean, Min, Std, Sum

numbers = st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), max_size=12)
modest = settings(max_examples=30, deadline=None)
each = pytest.mark.parametrize("aggregate", [a() for a in AGGREGATES], ids=lambda a: a.name)


def state_of(aggregate: Aggregate, values: list[float], start_ms: int = 0) -> Cells:
    state = aggregate.zero()
    for i, value in enumerate(values):
        state = aggregate.add(state, value, start_ms + i)
    return state


def test_the_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(aggregates).failed == 0


@each
def test_nothing_says_nothing(aggregate: Aggregate) -> None:
    nothing = 0.0 if isinstance(aggregate, Count | Sum | Distinct) else math.nan
    np.testing.assert_equal(aggregate.of(), nothing)
    np.testing.assert_equal(aggregate.of(math.nan, math.nan), nothing)


@each
@modest
@given(older=numbers, newer=numbers)
def test_merging_is_adding_in_turn(aggregate: Aggregate, older: list[float], newer: list[float]) -> None:
    merged = aggregate.merge(state_of(aggregate, newer, 1000), state_of(aggregate, older))
    added = state_of(aggregate, older)
    for i, value in enumerate(newer):
        added = aggregate.add(added, value, 1000 + i)
    found, expected = aggregate.result(merged, 2000), aggregate.result(added, 2000)
    if isinstance(aggregate, Sum | Mean | Std):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-6)
    else:
        np.testing.assert_equal(found, expected)


@each
@modest
@given(values=numbers)
def test_merging_with_nothing_changes_no_bit(aggregate: Aggregate, values: list[float]) -> None:
    state, zero = state_of(aggregate, values), aggregate.zero()
    bits = np.float64(aggregate.result(state, 99)).tobytes()
    assert np.float64(aggregate.result(aggregate.merge(state, zero), 99)).tobytes() == bits
    assert np.float64(aggregate.result(aggregate.merge(zero, state), 99)).tobytes() == bits


@modest
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_the_usual_words_mean_the_usual(values: list[float]) -> None:
    assert Sum().of(*values) == pytest.approx(math.fsum(values), abs=1e-6)
    assert Mean().of(*values) == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert Std().of(*values) == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)
    assert (Min().of(*values), Max().of(*values), Last().of(*values)) == (min(values), max(values), values[-1])


def test_std_keeps_its_digits_far_from_zero() -> None:
    assert Std().of(1e9, 1e9 + 1, 1e9 + 2) == 1.0
    assert Std().of(1e200, 1e200) == 0.0


def test_the_later_arrival_wins_at_equal_times_and_a_late_one_does_not() -> None:
    last = Last()
    state = last.add(last.add(last.zero(), 1.0, 5), 2.0, 5)
    assert last.result(state) == 2.0
    assert last.result(last.add(state, 3.0, 4)) == 2.0


@pytest.mark.parametrize(("different", "error"), [(50, 0.045), (250, 0.054), (500, 0.067)])
def test_distinct_errs_as_it_says(different: int, error: float) -> None:
    rng = np.random.default_rng(different)
    distinct, found = Distinct(), []
    for _ in range(60):
        state = distinct.zero()
        for value in rng.random(different):
            state = distinct.add(state, float(value))
        found.append(distinct.result(state))
    assert np.std(found) / different < 1.4 * error
    assert np.mean(found) == pytest.approx(different, rel=0.02)


def test_distinct_of_small_whole_numbers_and_zeros() -> None:
    assert Distinct().of(*(float(i % 20) for i in range(200))) == pytest.approx(20, abs=2)
    assert Distinct().of(0.0, -0.0) == Distinct().of(0.0)
    assert Distinct().of(*np.random.default_rng(1).random(20_000)) <= 1_420
