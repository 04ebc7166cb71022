"""The reference profile: what a model's inputs and its scores looked like at training, in bins.

A bin holds about a tenth of the rows. A value that a tenth of them share has a bin of its own, and so has each value
of an input with few of them; else a change within one bin would not be seen. Of those, what lies beside the values of
training has bins, too: nothing is in them then, so whatever comes there is news. Bins are cut, and rows counted, from
float32, as models see values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from batch.weights import counted, part, quantiles, weights
from riskflow.columns import F8, Columns
from riskflow.declare import CATEGORY, NUMBER, TEXT
from riskflow.drift import BINS, F4, MISSING, SCORE, WIDTH, Reference
from riskflow.plan import Plan
from riskflow.scoring import model_matrix

DECILES = np.linspace(0, 1, 11)
LOOKED_AT = 100_000  # rows that bins are cut by; all are counted

Entry = dict[str, Any]


def profile_of(
    plan: Plan,
    values: Mapping[str, Any],
    rows: Columns,
    score: F8,
    scored: Columns,
    weight: F8 | None = None,
    score_weight: F8 | None = None,
) -> dict[str, Entry]:
    """What each input looks like (`entry_of`), and the score; with as many independent rows as those count.

    values: the models' inputs of these rows. score: of rows that the models had not learned from, so that live scores
    can be like them. Weights: how many events each row, and each scored one, stands for.
    """
    sizes = {**independent(plan, rows, values, weight), **independent(plan, scored, [SCORE], score_weight)}
    entries = {name: entry_of(plan.nodes[name].type.kind, column, weight) for name, column in values.items()}
    entries[SCORE] = entry_of(NUMBER, score, score_weight)
    return {name: {**entry, "independent": sizes[name]} for name, entry in entries.items()}


def independent(plan: Plan, rows: Columns, names: Iterable[str], weight: F8 | None = None) -> dict[str, float]:
    """As how many independent rows these count, for each input or the score.

    What a window of a customer says is much the same in all the customer's rows, so fifty customers are not a thousand
    samples. Taken is the worst case, rows of one entity being all alike: n^2 over the sum of squares of the entities'
    numbers of rows (Kish, Survey Sampling, 1965). The entity is that of the input's stage; the first one for fields and
    for the score.
    """
    sizes = [_independent(rows[entity], weight) for entity in plan.entities]
    return {name: sizes[0 if name == SCORE else max(0, plan.nodes[name].stage)] for name in names}


def _independent(column: Any, weight: F8 | None) -> float:
    each, missing = weights(weight, len(column)), column.missing()
    of_entities = counted(column.hashes()[~missing], each[~missing])[1]
    squares = float((of_entities**2).sum() + (each[missing] ** 2).sum())
    return float(each.sum()) ** 2 / squares if squares else 0.0


def entry_of(kind: str, column: Any, weight: F8 | None = None) -> Entry:
    """`cuts` of the bins, `counts` of the events in them, those not known last.

    Of numbers also `deciles` and the share `missing`; of codes `shares`.
    """
    seen = _as_seen(column)
    if kind in (CATEGORY, TEXT):
        codes, events = counted(column, weight)
        shares = {str(c): float(n / events.sum()) for c, n in zip(codes.tolist(), events.tolist(), strict=True)}
        return {"shares": shares, "low": 0.0, **_counted(_cuts_of_codes(seen, weight), seen, 0.0, weight)}
    known = ~np.isnan(seen)
    deciles = quantiles(seen[known].astype(np.float64), DECILES, part(weight, known)).tolist() if known.any() else None
    missing = float(np.average(~known, weights=weight)) if len(known) else 1.0
    cuts = cuts_of(seen[known], part(weight, known))
    return {"deciles": deciles, "missing": missing, **_counted(cuts, seen, -np.inf, weight)}


def _as_seen(column: Any) -> F4:
    """The column as a model sees it: float32, infinity cut off."""
    seen: F4 = model_matrix(["x"], {"x": np.asarray(column)}, len(column))[: len(column), 0]
    return seen


def psi_of(entry: Entry, column: Any, weight: F8 | None = None) -> float:
    """How far a column has moved from another one's entry, by the index of riskflow/drift.py over what is known.

    NaN where nothing is known of one of them.
    """
    reference = Reference.of({"x": entry})
    now = _counts(entry["cuts"], reference.low[0], _as_seen(column), weight)
    return float(reference.psi(reference.table({"x": now}))[0])


def _counted(cuts: list[float], seen: F4, low: float, weight: F8 | None) -> Entry:
    return {"cuts": cuts, "counts": _counts(cuts, low, seen, weight)}


def _cuts_of_codes(seen: F4, weight: F8 | None) -> list[float]:
    """A bin for each code up to the highest one, seen or not, and one for those above; as far as bins suffice."""
    known = seen >= 0
    highest = int(seen[known].max(initial=-1))
    if highest >= BINS:
        return cuts_of(seen[known], part(weight, known))
    return [float(code) for code in range(highest + 1)][: BINS - 1]


def _counts(cuts: list[float], low: float, seen: F4, weight: F8 | None) -> list[int]:
    """As `riskflow.drift.count` has them, but by weight: whole events, since counts of now are held against them."""
    place = np.where(seen >= low, np.searchsorted(np.array(cuts, np.float32), seen), MISSING)
    counts: list[int] = np.bincount(place, weight, WIDTH).round().astype(np.int64).tolist()
    return counts


def cuts_of(values: F4, weight: F8 | None = None) -> list[float]:
    """Upper ends of all bins but the last, rising; values are known ones.

    >>> cuts_of(np.repeat(np.float32([0, 1, 2]), [90, 5, 5]))[1:], cuts_of(np.float32([7, 7]))[1:]
    ([0.0, 1.0, 2.0], [7.0])
    """
    if len(values) > LOOKED_AT:
        looked_at = np.linspace(0, len(values) - 1, LOOKED_AT).astype(np.int64)
        values, weight = values[looked_at], part(weight, looked_at)
    found, counts = counted(values, weight)
    if 0 < len(found) <= BINS - 2:  # what is smaller and what is larger would both be news
        return [float(np.nextafter(found[0], np.float32(-np.inf))), *found.astype(float).tolist()]
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
