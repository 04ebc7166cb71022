"""Candidate and champion side by side on the same rows.

A champion is compared on validation rows that it had not learned from either. A young one has learned from nearly all
of them; then both bundles are compared as they stand, since each has seen the rows, and the verdict says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batch.training_set import TrainingSet
from riskflow.bundle import Bundle
from riskflow.columns import F8
from riskflow.plan import Plan
from riskflow.scoring import Scorer

NO_SCORES = np.zeros(0)


@dataclass(frozen=True)
class Comparison:
    """Both on the same rows. Without figures there was nothing to compare with; `basis` says why, or which rows."""

    basis: str
    version: int | None = None
    rows: int = 0
    candidate: dict[str, Any] = field(default_factory=dict)
    champion: dict[str, Any] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)  # row by row


@dataclass(frozen=True)
class Beside:
    """The rows on which both are compared and both their scores; no rows: `basis` says why there are none."""

    basis: str
    version: int | None = None
    rows: TrainingSet | None = None
    score: F8 = field(default_factory=lambda: NO_SCORES)
    other: F8 = field(default_factory=lambda: NO_SCORES)

    @property
    def where(self) -> str:
        return f"{len(self.rows or ())} {self.basis}"


def side_by_side(
    plan: Plan, validation: TrainingSet, score: F8, bundle: Bundle | None, champion: Bundle | None, fewest_frauds: float
) -> Beside:
    """score: the candidate's out-of-time scores of all validation rows. fewest_frauds: among rows new to both."""
    if champion is None or bundle is None:
        return Beside("there is no champion" if champion is None else "the candidate has no bundle")
    changed = [n for n, print_ in champion.needed.items() if n not in plan.nodes or plan.nodes[n].fingerprint != print_]
    if changed:
        return Beside(f"champion {champion.version} needs {changed[0]!r} as it no longer is", champion.version)
    unseen = validation.at_ms > champion.data.get("last_ms", 0)
    if validation.rows(unseen).frauds >= fewest_frauds:
        rows, score, basis = validation.rows(unseen), score[unseen], "rows that neither had learned from"
    else:
        rows, basis = validation, "rows that both bundles had learned from, since the champion is young"
        score = Scorer(plan, bundle).score(rows.columns).score
    return Beside(basis, champion.version, rows, score, Scorer(plan, champion).score(rows.columns).score)
