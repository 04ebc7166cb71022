"""The reference profile: what a model's inputs and its scores looked like at training, in bins.

A bin holds about a tenth of the rows. A value that a tenth of them share has a bin of its own, and so has each value
of an input with few of them; else a change within one bin would not be seen. Bins are cut, and rows counted, from
float32, as models see values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from riskflow.columns import F8, Columns
from riskflow.declare import CATEGORY, TEXT
from riskflow.drift import BINS, F4, SCORE, WIDTH, Reference, count, places
from riskflow.plan import Plan
from riskflow.scoring import model_matrix

DECILES = np.linspace(0, 1, 11)
LOOKED_AT = 100_000  # rows that bins are cut by; all are counted

Entry = dict[str, Any]


def profile_of(plan: Plan, values: Mapping[str, Any], rows: Columns, score: F8, scored: Columns) -> dict[str, Entry]:
    """For each input: `cuts` of its bins, `counts` of the rows in them, those not known last; and see `independent`.

    Of numbers also `deciles` and the share `missing`; of codes `shares`. values: the models' inputs of these rows.
    score: of rows that the models had not learned from, so that live scores can be like them.
    """
    sizes = {**independent(plan, rows, values), **independent(plan, scored, [SCORE])}
    entries = {name: _entry(plan.nodes[name].type.kind, column) for name, column in values.items()}
    entries[SCORE] = _numbers(score)
    return {name: {**entry, "independent": sizes[name]} for name, entry in entries.items()}


def independent(plan: Plan, rows: Columns, names: Iterable[str]) -> dict[str, float]:
    """As how many independent rows these count, for each input or the score.

    What a window of a customer says is much the same in all the customer's rows, so fifty customers are not a thousand
    samples. Taken is the worst case, rows of one entity being all alike: n^2 over the sum of squares of the entities'
    numbers of rows (Kish, Survey Sampling, 1965). The entity is that of the input's stage; the first one for fields and
    for the score.
    """
    sizes = [_independent(rows[entity]) for entity in plan.entities]
    return {name: sizes[0 if name == SCORE else max(0, plan.nodes[name].stage)] for name in names}


def _independent(column: Any) -> float:
    there = np.flatnonzero(~column.missing())
    alone = len(column) - len(there)
    counts = np.unique(column.hashes()[there], return_counts=True)[1].astype(np.float64)
    squares = float((counts**2).sum()) + alone
    return len(column) ** 2 / squares if squares else 0.0


def _entry(kind: str, column: Any) -> Entry:
    return _codes(column) if kind in (CATEGORY, TEXT) else _numbers(column)


def _numbers(column: Any) -> Entry:
    seen = _as_seen(column)
    known = seen[~np.isnan(seen)]
    deciles = np.quantile(known.astype(np.float64), DECILES).tolist() if len(known) else None
    return {"deciles": deciles, "missing": 1 - len(known) / max(len(column), 1), **_bins(seen, -np.inf)}


def _codes(column: Any) -> Entry:
    codes, counts = np.unique(column, return_counts=True)
    shares = {str(c): float(n / len(column)) for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}
    return {"shares": shares, "low": 0.0, **_bins(_as_seen(column), 0.0)}


def _as_seen(column: Any) -> F4:
    """The column as a model sees it: float32, infinity cut off."""
    seen: F4 = model_matrix(["x"], {"x": np.asarray(column)}, len(column))[: len(column), 0]
    return seen


def _bins(seen: F4, low: float) -> Entry:
    blank = {"low": low, "cuts": cuts_of(seen[seen >= low]), "counts": [0] * WIDTH}
    reference = Reference.of({"x": blank})
    table, matrix = reference.table(), np.ascontiguousarray(seen[:, None])
    count(places(reference, [("m", ["x"])]), {"m": matrix}, np.zeros(0), np.arange(len(seen)), table)
    return {"cuts": blank["cuts"], "counts": table[0].tolist()}


def cuts_of(values: F4) -> list[float]:
    """Upper ends of all bins but the last, rising; values are known ones.

    >>> cuts_of(np.repeat(np.float32([0, 1, 2]), [90, 5, 5])), cuts_of(np.float32([7, 7]))[1:]
    ([0.0, 1.0], [7.0])
    """
    if len(values) > LOOKED_AT:
        values = values[np.linspace(0, len(values) - 1, LOOKED_AT).astype(np.int64)]
    found, counts = np.unique(values, return_counts=True)
    if len(found) == 1:  # what is smaller and what is larger would both be news
        return [float(np.nextafter(found[0], np.float32(-np.inf))), float(found[0])]
    last = found if len(found) <= BINS else found[_last_of_bins(counts)]
    return [float(v) for v in last[:-1]]


def _last_of_bins(counts: Any) -> list[int]:
    """The last value's number of each bin, ten at most: heavy values alone, the others together up to a tenth."""
    target = counts.sum() / BINS
    bins: list[list[int]] = []  # [last value, rows, whether it is one heavy value]
    for i, n in enumerate(counts.tolist()):
        heavy = n >= target
        if not bins or heavy or bins[-1][2] or bins[-1][1] + n > target:
            bins.append([i, n, heavy])
        else:
            bins[-1] = [i, bins[-1][1] + n, False]
    while len(bins) > BINS:
        lightest = min(range(len(bins) - 1), key=lambda b: bins[b][1] + bins[b + 1][1])
        bins[lightest : lightest + 2] = [[bins[lightest + 1][0], bins[lightest][1] + bins[lightest + 1][1], False]]
    return [last for last, _, _ in bins]
