"""What of a look at live scores is worth telling: past its threshold, and further away than noise would be.

All that is looked at together says something about nothing but noise in at most `false_alarms` of the looks
(Bonferroni). Noise is that of independent samples; how many rows count as independent is what batch/profile.py says for
inputs and the score. For quality every event counts, and the threshold `decay` has to make up for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import exp
from typing import Any

import numpy as np

from batch.pipeline_watch import Watch
from batch.quality import spread_of_share
from riskflow.columns import F8
from riskflow.drift import Reference, Table, missing_share

INPUTS, MISSING, ESTIMATED, MEASURED, LABELS = "inputs", "missing", "estimated", "measured", "labels"
QUALITIES = 4  # that are looked at beside the features; that labels come is one


@dataclass(frozen=True)
class Feature:
    """One input, or the score. `floor` is how far noise alone may take the index, `missing_floor` the unknown share.

    None where nothing is known.
    """

    name: str
    psi: float | None
    floor: float | None
    missing: float | None
    missing_then: float | None
    missing_floor: float | None


@dataclass(frozen=True)
class Finding:
    """One thing that is past its threshold: what was found, what was wanted."""

    what: str
    name: str
    found: float
    wanted: float

    def sentence(self) -> str:
        if self.what == INPUTS:
            return f"{self.name} has drifted (PSI {self.found:.2f}, at most {self.wanted:.2f})"
        if self.what == MISSING:
            return f"{self.name} is not known in {self.found:.1%} of the events, at training in {self.wanted:.1%}"
        if self.what == LABELS:
            return f"no {self.name}, and about {self.wanted:.0f} frauds were to be told: look at who sends labels"
        return f"{self.what} {self.name.replace('_', ' ')} is {self.found:.3f}, promised {self.wanted:.3f}"


def chance_of_each(watch: Watch, reference: Reference) -> float:
    """Index and unknown share of each feature, and the qualities, share the chance of a false alarm."""
    return watch.false_alarms / (2 * len(reference) + QUALITIES)


def features_of(reference: Reference, table: Table, independent: F8, chance: float) -> list[Feature]:
    """independent: as how many independent rows those of the table count, for each feature.

    Under no drift the index over (1/n + 1/m) follows chi square with one degree less than there are bins (Yurdakul and
    Naranjo, Statistical properties of the population stability index, 2020).
    """
    from scipy.stats import chi2

    now, then = missing_share(table), missing_share(reference.counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = 1 / (independent * (1 - now)) + 1 / (reference.independent * (1 - then))
    floors = chi2.ppf(1 - chance, np.maximum(reference.bins - 1, 1)) * sizes
    apart = _missing_floor(now, then, independent, reference.independent, chance)
    figures = (reference.psi(table, independent), floors, now, then, apart)
    rows = zip(*([_finite(v) for v in column.tolist()] for column in figures), strict=True)
    return [Feature(name, *row) for name, row in zip(reference.names, rows, strict=True)]


def _missing_floor(now: F8, then: F8, n: F8, m: F8, chance: float) -> F8:
    """How far from `then` noise alone may take a share: by the arc sine of its root, whose spread is the same for all
    shares (Anscombe, The transformation of Poisson, binomial and negative-binomial data, 1948)."""
    from scipy.stats import norm

    with np.errstate(divide="ignore", invalid="ignore"):
        angles = [np.arcsin(np.sqrt((s * size + 0.375) / (size + 0.75))) for s, size in ((now, n), (then, m))]
        far = norm.ppf(1 - chance / 2) * np.sqrt(0.25 / n + 0.25 / m)
    end = np.clip(angles[1] + np.sign(angles[0] - angles[1]) * far, 0.0, np.pi / 2)
    floor: F8 = np.abs(np.sin(end) ** 2 - then)
    return floor


def drifted(watch: Watch, features: list[Feature]) -> list[Finding]:
    """Inputs first whose index is largest; then those that are no longer, or suddenly, known."""
    moved = [
        Finding(INPUTS, f.name, f.psi, max(watch.psi, f.floor))
        for f in features
        if f.psi is not None and f.floor is not None and f.psi >= max(watch.psi, f.floor)
    ]
    gone = [
        Finding(MISSING, f.name, f.missing, f.missing_then)
        for f in features
        if f.missing is not None
        and f.missing_then is not None
        and f.missing_floor is not None
        and abs(f.missing - f.missing_then) >= max(watch.missing, f.missing_floor)
    ]
    return sorted(moved, key=lambda f: -f.found) + sorted(gone, key=lambda f: -abs(f.found - f.wanted))


def decayed(
    watch: Watch,
    promised: Mapping[str, Any],
    estimated: Mapping[str, Any] | None,
    measured: Mapping[str, Any] | None,
    chance: float,
    passed: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Quality below what is left of the promise, by more than the noise of both samples.

    passed: what was promised of events that the bundle does not decline, where those alone are measured.

    An average precision is taken for a share that was seen on the frauds (the binomial interval of Boyd, Eng and Page,
    Area Under the Precision-Recall Curve: Point Estimates and Confidence Intervals, 2013).
    """
    pairs: list[tuple[str, str, float | None, float, float | None, float]] = []
    for what, now, promise in (
        (ESTIMATED, estimated, promised),
        (MEASURED, measured, promised if passed is None else passed),
    ):
        frauds = promise.get("validation_frauds_seen", promise.get("validation_frauds", 0))
        then = promise.get("precision")
        alerts = promise.get("recall", 0.0) * frauds / then if then else 0.0
        review = now["at"].get("review") if now else None
        if review:
            pairs.append((what, "precision of alerts", review["precision"], review["seen_on"], then, alerts))
        if now and what == MEASURED:
            pairs.append((what, "average precision", now["ap"], now["frauds_seen"], promise.get("ap"), frauds))
    return [
        Finding(what, name, now, then)
        for what, name, now, size, then, size_then in pairs
        if now is not None and then is not None and _fallen(watch, now, size, then, size_then, chance)
    ]


def silent(newest_ms: int | None, unheard: float, chance: float) -> list[Finding]:
    """Frauds that were to be told since the newest label, by the scores, when it is no accident that none was.

    newest_ms: when it came; None: there never was one. The number of frauds is taken for that of a Poisson process.
    """
    if exp(-unheard) > chance:
        return []
    name = "label at all"
    if newest_ms is not None:
        name = f"label since {datetime.fromtimestamp(newest_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    return [Finding(LABELS, name, 0.0, unheard)]


def _fallen(watch: Watch, now: float, size: float, then: float, size_then: float, chance: float) -> bool:
    from scipy.stats import norm

    if not min(size, size_then):
        return False
    left = 1 - watch.decay
    spread = np.hypot(spread_of_share(now, size), left * spread_of_share(then, size_then))
    return bool(now < left * then - norm.ppf(1 - chance) * spread)


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
