"""What a window can say of the values in it: zero, add, merge, result.

An aggregate keeps its state in a few float64 cells of a tile. The compiled functions below are the only implementation;
the kernel calls them for millions of tiles, and the classes call them for people and tests. An aggregate skips NaN.

    cells of        meaning
    COUNT           how many values
    SUM             their sum
    MOMENTS (3)     count, mean, sum of squared differences from the mean (M2)
    MIN, MAX        smallest, largest; NaN = none yet
    LAST (2)        event time (ms) and value of the newest; the later arrival wins at equal times
    SEEN            event time (ms) of the newest
    BITS (4)        256 bits, one set for each hashed value

None is cached by numba on its own: they are compiled into the kernel's loop, whose file is named by all sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from riskflow.columns import mix

Cells = NDArray[np.float64]

COUNT, SUM, MOMENTS, MIN, MAX, LAST, SEEN, BITS = range(8)
WIDTH = (1, 1, 3, 1, 1, 2, 1, 4)  # cells of each kind, by the numbers above
R_COUNT, R_SUM, R_MEAN, R_STD, R_MIN, R_MAX, R_LAST, R_SINCE, R_DISTINCT = range(9)
N_BITS = 256
DISTINCT_OF_ONES = np.array([N_BITS * math.log(N_BITS / max(N_BITS - ones, 1)) for ones in range(N_BITS + 1)])


@njit(error_model="numpy", forceinline=True)
def zero_cells(kind, cells, at):  # type: ignore[no-untyped-def]
    """Writes the empty state of one kind into cells[at:]."""
    if kind in (MIN, MAX, SEEN):
        cells[at] = np.nan
    elif kind == LAST:
        cells[at] = np.nan
        cells[at + 1] = np.nan
    else:
        width = 3 if kind == MOMENTS else 4 if kind == BITS else 1
        for j in range(width):
            cells[at + j] = 0.0


@njit(error_model="numpy", forceinline=True)
def add_cells(kind, cells, bits, at, value, value_bits, at_ms):  # type: ignore[no-untyped-def]
    """Adds one value, seen at event time at_ms. `bits` and `value_bits` are the same memory as int64."""
    if value != value:
        return
    if kind == COUNT:
        cells[at] += 1.0
    elif kind == SUM:
        cells[at] += value
    elif kind == MOMENTS:  # Welford 1962
        cells[at] += 1.0
        difference = value - cells[at + 1]
        cells[at + 1] += difference / cells[at]
        cells[at + 2] += difference * (value - cells[at + 1])
    elif kind == MIN:
        if not cells[at] <= value:
            cells[at] = value
    elif kind == MAX:
        if not cells[at] >= value:
            cells[at] = value
    elif kind == LAST:
        if not cells[at] > at_ms:
            cells[at] = at_ms
            cells[at + 1] = value
    elif kind == SEEN:
        if not cells[at] > at_ms:
            cells[at] = at_ms
    elif kind == BITS:
        bit = _bit_of(value, value_bits)
        bits[at + (bit >> 6)] |= np.int64(1) << (bit & 63)


@njit(error_model="numpy", forceinline=True)
def merge_run(kind, into, into_bits, to, cells, bits, at, step, n):  # type: ignore[no-untyped-def]
    """Merges n tiles' cells, at `at`, `at - step`, ... (newest first), into the state of newer ones in into[to:]."""
    if kind in (COUNT, SUM):
        total = into[to]
        for _ in range(n):
            total += cells[at]
            at -= step
        into[to] = total
    elif kind == MOMENTS:
        for _ in range(n):
            _merge_moments(into, to, cells, at)
            at -= step
    elif kind == MIN:
        for _ in range(n):
            if cells[at] < into[to] or into[to] != into[to]:
                into[to] = cells[at]
            at -= step
    elif kind == MAX:
        for _ in range(n):
            if cells[at] > into[to] or into[to] != into[to]:
                into[to] = cells[at]
            at -= step
    elif kind in (LAST, SEEN):
        _merge_newest(kind, into, to, cells, at, step, n)
    elif kind == BITS:
        for _ in range(n):
            for j in range(4):
                into_bits[to + j] |= bits[at + j]
            at -= step


@njit(error_model="numpy", forceinline=True)
def result_of(result, cells, bits, at, at_ms):  # type: ignore[no-untyped-def]
    """The feature's value: NaN where there is nothing to say, 0 for counts and sums of nothing."""
    value = cells[at]
    if result == R_MEAN:  # a count and a sum stand side by side
        value = cells[at + 1] / cells[at] if cells[at] > 0.0 else np.nan
    elif result == R_STD:
        value = math.sqrt(max(cells[at + 2], 0.0) / (cells[at] - 1.0)) if cells[at] > 1.0 else np.nan
    elif result == R_LAST:
        value = cells[at + 1]
    elif result == R_SINCE:
        value = (at_ms - cells[at]) / 1000.0
    elif result == R_DISTINCT:
        value = DISTINCT_OF_ONES[_ones(bits[at]) + _ones(bits[at + 1]) + _ones(bits[at + 2]) + _ones(bits[at + 3])]
    return value if value == value else np.nan  # one NaN, whatever made it


@njit(error_model="numpy", forceinline=True)
def _merge_moments(into, to, cells, at):  # type: ignore[no-untyped-def]
    """Chan, Golub, LeVeque 1979; the first one is copied, so that huge values do not overflow against nothing."""
    if cells[at] == 0.0:
        return
    if into[to] == 0.0:
        for j in range(3):
            into[to + j] = cells[at + j]
        return
    n = into[to] + cells[at]
    difference = cells[at + 1] - into[to + 1]
    into[to + 1] += difference * (cells[at] / n)
    into[to + 2] += cells[at + 2] + difference * difference * (into[to] * cells[at] / n)
    into[to] = n


@njit(error_model="numpy", forceinline=True)
def _merge_newest(kind, into, to, cells, at, step, n):  # type: ignore[no-untyped-def]
    """The first tile with a value has the newest one: event times of tiles do not overlap."""
    for _ in range(n):
        if into[to] == into[to]:
            return
        into[to] = cells[at]
        if kind == LAST:
            into[to + 1] = cells[at + 1]
        at -= step


@njit(error_model="numpy", forceinline=True)
def _bit_of(value, value_bits):  # type: ignore[no-untyped-def]
    """Which of the 256 bits a value sets; 0.0 and -0.0 are one value."""
    return np.int64(mix(np.uint64(value_bits if value != 0.0 else 0)) & np.uint64(N_BITS - 1))


@njit(error_model="numpy", forceinline=True)
def _ones(word):  # type: ignore[no-untyped-def]
    """How many bits of an int64 are set."""
    w = np.uint64(word)
    w -= (w >> np.uint64(1)) & np.uint64(0x5555555555555555)
    w = (w & np.uint64(0x3333333333333333)) + ((w >> np.uint64(2)) & np.uint64(0x3333333333333333))
    w = (w + (w >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((w * np.uint64(0x0101010101010101)) >> np.uint64(56))


@dataclass(frozen=True)
class Aggregate:
    """One aggregate. State is a float64 array of its cells; `add` and `merge` return a new one."""

    word: ClassVar[str]
    kinds: ClassVar[tuple[int, ...]]
    result_kind: ClassVar[int]

    @property
    def name(self) -> str:
        """The word in a feature's name: `amount_mean_30d`."""
        return self.word

    def zero(self) -> Cells:
        cells = np.zeros(sum(WIDTH[k] for k in self.kinds))
        for kind, at in self._cells():
            zero_cells(kind, cells, at)
        return cells

    def add(self, state: Cells, value: float, at_ms: int = 0) -> Cells:
        """State with one more value."""
        cells = state.copy()
        bits = np.array([value], np.float64).view(np.int64)[0]
        for kind, at in self._cells():
            add_cells(kind, cells, cells.view(np.int64), at, float(value), bits, float(at_ms))
        return cells

    def merge(self, newer: Cells, older: Cells) -> Cells:
        """State of both tiles; the newer tile stands first."""
        cells = newer.copy()
        for kind, at in self._cells():
            merge_run(kind, cells, cells.view(np.int64), at, older, older.view(np.int64), at, 0, 1)
        return cells

    def result(self, state: Cells, at_ms: int = 0) -> float:
        return float(result_of(self.result_kind, state, state.view(np.int64), 0, float(at_ms)))

    def of(self, *values: float) -> float:
        """The result over values seen 1 s apart, the first at 0: for doctests and people."""
        state = self.zero()
        for i, value in enumerate(values):
            state = self.add(state, value, 1000 * i)
        return self.result(state, 1000 * len(values))

    def _cells(self) -> list[tuple[int, int]]:
        offsets = np.cumsum([0, *(WIDTH[k] for k in self.kinds)])
        return [(k, int(o)) for k, o in zip(self.kinds, offsets, strict=False)]


class Count(Aggregate):
    """How many values are known. Over a yes-or-no field: how many are yes.

    >>> Count().of(5.0, float("nan"), 7.0)
    2.0
    """

    word, kinds, result_kind = "count", (COUNT,), R_COUNT


class Sum(Aggregate):
    """
    >>> Sum().of(5.0, float("nan"), 7.5)
    12.5
    """

    word, kinds, result_kind = "sum", (SUM,), R_SUM


class Mean(Aggregate):
    """NaN for no value.

    >>> Mean().of(5.0, 7.0)
    6.0
    """

    word, kinds, result_kind = "mean", (COUNT, SUM), R_MEAN


class Std(Aggregate):
    """Sample standard deviation (divisor n - 1); NaN below two values.

    >>> Std().of(2.0, 4.0, 6.0)
    2.0
    """

    word, kinds, result_kind = "std", (MOMENTS,), R_STD


class Min(Aggregate):
    """
    >>> Min().of(5.0, 3.0, 7.0)
    3.0
    """

    word, kinds, result_kind = "min", (MIN,), R_MIN


class Max(Aggregate):
    """
    >>> Max().of(5.0, 9.0, 7.0)
    9.0
    """

    word, kinds, result_kind = "max", (MAX,), R_MAX


class Last(Aggregate):
    """The value with the newest event time.

    >>> Last().of(5.0, 9.0, 7.0)
    7.0
    """

    word, kinds, result_kind = "last", (LAST,), R_LAST


class TimeSinceLast(Aggregate):
    """Seconds from the newest value to the event.

    >>> TimeSinceLast().of(1.0, 1.0)
    1.0
    """

    word, kinds, result_kind = "time_since_last", (SEEN,), R_SINCE


class Distinct(Aggregate):
    """How many different values: linear counting over 256 bits (Whang, Vander-Zanden, Taylor 1990).

    Standard error 4.5 % at 50 values, 5.4 % at 250, 6.7 % at 500 and growing beyond; it cannot say more than 1,419.

    >>> round(Distinct().of(17, 99, 17), 2)
    2.01
    """

    word, kinds, result_kind = "distinct", (BITS,), R_DISTINCT


AGGREGATES: tuple[type[Aggregate], ...] = (Count, Sum, Mean, Std, Min, Max, Last, TimeSinceLast, Distinct)
