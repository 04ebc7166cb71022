"""What a field looked like, and how far another set of rows has moved from it.

The population stability index of two sets over the same bins: sum of (q - p) * ln(q / p). Source: Siddiqi, Credit Risk
Scorecards, 2006. Numbers have ten bins, the deciles of the first set; missing values are a bin of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from riskflow.columns import F8, Text
from riskflow.declare import CATEGORY

DECILES = np.arange(1, 10) / 10
SMALLEST = 1e-4  # share of a bin that is empty on one side

Profile = dict[str, Any]


def profile_of(kind: str, column: Any) -> Profile | None:
    """Shares of a column's bins; None for what has no bins (texts) or no rows."""
    if isinstance(column, Text) or not len(column):
        return None
    values = np.asarray(column)
    edges = [] if kind == CATEGORY else _edges(values)
    return {"kind": kind, "edges": edges, "shares": _shares(kind, edges, values).tolist()}


def psi(profile: Mapping[str, Any], column: Any) -> float:
    """How far these rows are from the profile; 0 for the same shares, above 0.25 usually called a major shift."""
    values = np.asarray(column)
    before = np.array(profile["shares"], np.float64)
    now = _shares(profile["kind"], profile["edges"], values, len(before))
    before, now = (np.clip(_padded(s, max(len(before), len(now))), SMALLEST, None) for s in (before, now))
    return float(((now - before) * np.log(now / before)).sum())


def _edges(values: F8) -> list[float]:
    """Deciles, each once: what most rows have in common is one bin."""
    known = values[~np.isnan(values)]
    return np.unique(np.quantile(known, DECILES)).tolist() if len(known) else []


def _shares(kind: str, edges: list[float], values: Any, fewest: int = 0) -> F8:
    """The share of each bin, missing first. A category's bins are its codes."""
    if kind == CATEGORY:
        counts = np.bincount(values.astype(np.int64) + 1, minlength=max(fewest, 1))
    else:
        place = np.searchsorted(edges, values, side="right") + 1
        counts = np.bincount(np.where(np.isnan(values), 0, place), minlength=len(edges) + 2)
    return counts / max(len(values), 1)


def _padded(shares: F8, length: int) -> F8:
    return np.pad(shares, (0, length - len(shares)))
