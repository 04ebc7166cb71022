"""Drift: how far inputs and scores of today are from those that a bundle learned from, told from counts in bins.

A bundle's profile has up to ten bins for each model input and for the score, with how many rows of training lay in
each. Here rows are counted into the same bins, from the very float32 matrix that the models see; stream and batch call
the same kernel. Counts are whole numbers: those of parts, added up, are those of the whole.

Not known (NaN, a category's code below 0) has a count of its own, beside the bins.

A *snapshot* is what one worker has counted of one bundle between two moments. Snapshots merge in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from riskflow.columns import F8, I8
from riskflow.hashing import mix

BINS = 10
MISSING = BINS  # the column of what is not known, behind the bins
WIDTH = BINS + 1
SCORE = "_score"  # the name of the score among the features
SALT = 0x9E3779B97F4A7C15  # an event's part in the sample has nothing to do with other uses of its hash
UNSEEN = 0.5  # rows that a bin has on top of those counted: an empty one would be infinitely far away

F4 = NDArray[np.float32]
Table = NDArray[np.int64]  # one row for each feature, WIDTH columns


@dataclass(frozen=True)
class Reference:
    """What a bundle's profile says of its features, as arrays: one row for each of `names`."""

    names: tuple[str, ...]
    low: F4  # below it a value is not known: 0 for codes, else minus infinity
    cuts: F4  # a value lies in the first bin whose cut it does not exceed
    bins: I8  # how many there are
    counts: Table  # at training
    independent: F8  # as how many independent rows those of training count

    @classmethod
    def of(cls, profile: Mapping[str, Any], rows: int = 0) -> Reference:
        """rows: what was learned from, for profiles of older bundles, which hold shares instead of counts."""
        entries = {name: _entry(entry, rows) for name, entry in profile.items()}
        known = {name: entry for name, entry in entries.items() if entry is not None}
        low = np.array([entry[0] for entry in known.values()], np.float32)
        cuts = np.full((len(known), BINS - 1), np.inf, np.float32)
        counts = np.zeros((len(known), WIDTH), np.int64)
        for i, (_, mine, table) in enumerate(known.values()):
            cuts[i, : len(mine)], counts[i] = mine, table
        bins = np.array([len(mine) + 1 for _, mine, _ in known.values()], np.int64)
        sizes = [profile[name].get("independent", counts[i].sum()) for i, name in enumerate(known)]
        return cls(tuple(known), low, cuts, bins, counts, np.array(sizes, np.float64))

    def __len__(self) -> int:
        return len(self.names)

    def table(self, counts: Mapping[str, Sequence[int]] | None = None) -> Table:
        """A snapshot's counts as a table; of nothing by default."""
        out = np.zeros((len(self), WIDTH), np.int64)
        for i, name in enumerate(self.names):
            out[i] = (counts or {}).get(name, 0)
        return out

    def psi(self, table: Table, independent: F8 | None = None) -> F8:
        """The population stability index of each feature, over what is known; NaN where nothing is.

        The sum over bins of (a - e) ln(a / e), with the share a of now and e of training (Siddiqi, Credit Risk
        Scorecards, 2006). Half a row is added to each bin of either side; half an independent one, where it is known
        how many those of the table are.
        """
        there = np.arange(BINS) < self.bins[:, None]
        if independent is None:
            a, e = _shares(table, there, 1.0), _shares(self.counts, there, 1.0)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                weights = table.sum(axis=1) / independent, self.counts.sum(axis=1) / self.independent
            a, e = (_shares(t, there, w[:, None]) for t, w in zip((table, self.counts), weights, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(there, (a - e) * np.log(a / e), 0.0)
        out: F8 = terms.sum(axis=1)
        out[(known(table) == 0) | (known(self.counts) == 0)] = np.nan
        return out


def known(table: Table) -> I8:
    """How many values of each feature are known."""
    found: I8 = table[:, :BINS].sum(axis=1)
    return found


def missing_share(table: Table) -> F8:
    """The share of each feature that is not known; NaN where nothing was counted."""
    with np.errstate(invalid="ignore"):
        out: F8 = table[:, MISSING] / table.sum(axis=1)
    return out


def _shares(table: Table, there: NDArray[np.bool_], rows_of_one: Any) -> F8:
    raised = np.where(there, table[:, :BINS] + UNSEEN * rows_of_one, 0.0)
    out: F8 = raised / raised.sum(axis=1, keepdims=True)
    return out


def _entry(entry: Mapping[str, Any], rows: int) -> tuple[float, Sequence[float], Sequence[float]] | None:
    """(low, cuts, counts) of a profile's entry; None where it says nothing of the values."""
    low = float(entry.get("low", -np.inf))
    if "counts" in entry:
        return low, entry["cuts"], entry["counts"]
    if entry.get("deciles") and rows:
        return low, *_from_deciles(entry["deciles"], entry.get("missing", 0.0), rows)
    if entry.get("shares") and rows:
        return 0.0, *_from_shares(entry["shares"], rows)
    return None


def _from_deciles(deciles: Sequence[float], missing: float, rows: int) -> tuple[list[float], list[int]]:
    """Deciles that are equal are one bin; how many rows lie in it is known to a tenth only."""
    cuts, times = np.unique(np.asarray(deciles[1:-1], np.float32), return_counts=True)
    there = round(rows * (1 - missing))
    counts = [*(times * there // BINS).tolist()]
    counts.append(there - sum(counts))
    return cuts.tolist(), [*counts, *[0] * (BINS - len(counts)), rows - there]


def _from_shares(shares: Mapping[str, float], rows: int) -> tuple[list[float], list[int]]:
    """One bin for each of the lowest codes, the rest in one."""
    counted = {int(code): round(share * rows) for code, share in shares.items()}
    codes = sorted(code for code in counted if code >= 0)
    own, rest = codes[: BINS - 1], codes[BINS - 1 :]
    counts = [*(counted[code] for code in own), sum(counted[code] for code in rest)]
    cuts = own if rest else own[:-1]
    counts = counts if rest else counts[:-1] or [0]
    return [float(c) for c in cuts], [*counts, *[0] * (BINS - len(counts)), counted.get(-1, 0)]


# ---- snapshots -------------------------------------------------------------------------------------------------------

FEATURES_AT_ONCE = 4_000  # in one message: some hundred KiB


class Snapshot(msgspec.Struct, frozen=True):
    """Counts of one bundle. `from_ms` to `to_ms` is when they were counted, by wall clock.

    `events` were scored; of these `share`, chosen by the hash of the event's id, was counted.
    """

    bundle: int
    hash: str
    share: float
    from_ms: int
    to_ms: int
    events: int
    counts: dict[str, list[int]]

    def parts(self) -> list[Snapshot]:
        """The same as snapshots of some of the features each, so that a message has an end."""
        names = list(self.counts)
        starts = range(0, max(len(names), 1), FEATURES_AT_ONCE)
        chosen = [{n: self.counts[n] for n in names[i : i + FEATURES_AT_ONCE]} for i in starts]
        return [msgspec.structs.replace(self, counts=c, events=0 if i else self.events) for i, c in enumerate(chosen)]


def merge(snapshots: Iterable[Snapshot]) -> Snapshot | None:
    """One snapshot of what these have counted, all of one bundle; None for none. In any order, in any grouping."""
    out: Snapshot | None = None
    for one in snapshots:
        out = one if out is None else _both(out, one)
    return out


def _both(one: Snapshot, other: Snapshot) -> Snapshot:
    if one.hash != other.hash:
        raise ValueError(f"snapshots of bundles {one.bundle} and {other.bundle} do not merge")
    counts = dict(one.counts)
    for name, mine in other.counts.items():
        counts[name] = [a + b for a, b in zip(counts[name], mine, strict=True)] if name in counts else mine
    return Snapshot(
        one.bundle, one.hash, min(one.share, other.share), min(one.from_ms, other.from_ms),
        max(one.to_ms, other.to_ms), one.events + other.events, counts,
    )  # fmt: skip


# ---- counting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Where features stand in a matrix: `features[i]` of the reference is column `columns[i]`; with their bins."""

    matrix: str  # a layer's name, or SCORE
    columns: I8
    features: I8
    low: F4
    cuts: F4  # one row for each cut, one column for each feature

    @classmethod
    def of(cls, reference: Reference, matrix: str, found: Sequence[tuple[int, int]]) -> Places:
        columns, features = (np.array(numbers, np.int64) for numbers in zip(*found, strict=True))
        low, cuts = reference.low[features], np.ascontiguousarray(reference.cuts[features].T)
        return cls(matrix, columns, features, low, cuts)


def places(reference: Reference, layers: Iterable[tuple[str, Sequence[str]]]) -> list[Places]:
    """Each feature once, in the first layer that has it, and the score. layers: (name, inputs)."""
    numbers = {name: i for i, name in enumerate(reference.names)}
    found = {
        layer: [(column, numbers.pop(name)) for column, name in enumerate(inputs) if name in numbers]
        for layer, inputs in layers
    }
    if SCORE in numbers:
        found[SCORE] = [(0, numbers[SCORE])]
    return [Places.of(reference, matrix, mine) for matrix, mine in found.items() if mine]


def count(where: Sequence[Places], matrices: Mapping[str, F4], score: F8, rows: I8, table: Table) -> None:
    """Adds these rows to a table. matrices: what each layer saw; score: of all rows."""
    if len(rows):
        for one in where:
            matrix = score.astype(np.float32)[:, None] if one.matrix == SCORE else matrices[one.matrix]
            _count(matrix, rows, one.columns, one.features, one.low, one.cuts, table)


@njit(cache=True)
def _count(matrix, rows, columns, features, low, cuts, table):  # type: ignore[no-untyped-def]
    """One row after another, and in it one cut after another over all features: the compiler makes vectors of that."""
    n = columns.shape[0]
    value, bins = np.empty(n, np.float32), np.empty(n, np.int32)
    for row in rows:
        for i in range(n):
            value[i] = matrix[row, columns[i]]
        for i in range(n):  # NaN is not above anything
            bins[i] = np.int32(0) if value[i] >= low[i] else np.int32(MISSING)
        for k in range(cuts.shape[0]):
            for i in range(n):
                bins[i] += np.int32(value[i] > cuts[k, i])
        for i in range(n):
            table[features[i], bins[i]] += 1


def sampled(ids: I8, share: float) -> I8:
    """Numbers of the rows that are counted, by the hash of the event's id: wherever they are asked for, the same."""
    if share >= 1.0:
        return np.arange(len(ids), dtype=np.int64)
    rows = np.empty(len(ids), np.int64)
    n = _sampled(ids, np.uint64(int(share * 2.0**64)), rows)
    return rows[:n]


@njit(cache=True)
def _sampled(ids, below, rows):  # type: ignore[no-untyped-def]
    n = 0
    for i in range(ids.shape[0]):
        if mix(np.uint64(ids[i]) ^ np.uint64(SALT)) < below:
            rows[n] = i
            n += 1
    return n
