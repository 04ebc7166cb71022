"""What becomes known, and when: chargebacks for frauds, a confirmation for the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri

from batch.simulate.units import DAY_MS

FRAUD_SOURCE, GENUINE_SOURCE = "chargeback", "confirmed"


@dataclass(frozen=True)
class Delays:
    """From a payment to its label, in ms. Frauds: log-normal, cut off; genuine ones: all after the same time."""

    chargeback_median_ms: int = 5 * DAY_MS
    chargeback_spread: float = 0.6  # sigma of the logarithm
    chargeback_most_ms: int = 21 * DAY_MS
    genuine_ms: int | None = 7 * DAY_MS  # None: only frauds are ever reported

    def draw(self, rng: np.random.Generator, is_fraud: np.ndarray) -> np.ndarray:
        """A delay in ms for each payment; the cut is made by drawing below it, so nothing piles up there."""
        most = ndtr(np.log(self.chargeback_most_ms / self.chargeback_median_ms) / self.chargeback_spread)
        z = ndtri(rng.uniform(1e-9, most, int(is_fraud.sum())))
        delay_ms = np.full(len(is_fraud), self.genuine_ms or 0, np.int64)
        delay_ms[is_fraud] = np.maximum(1, self.chargeback_median_ms * np.exp(self.chargeback_spread * z))
        return delay_ms


def label_id() -> pl.Expr:
    """The id of a label whose sender gave none: event, source and time."""
    return pl.concat_str("event_id", "source", "labelled_at_ms", separator=":").alias("label_id")


def labels(rng: np.random.Generator, events: pl.DataFrame, is_fraud: np.ndarray, delays: Delays) -> pl.DataFrame:
    """One label for each event, in order of time; without genuine ones if `delays.genuine_ms` is None."""
    known = events.select(
        "event_id",
        is_fraud=pl.Series(is_fraud),
        labelled_at_ms=pl.col("occurred_at_ms") + pl.Series(delays.draw(rng, is_fraud)),
        source=pl.when(pl.Series(is_fraud)).then(pl.lit(FRAUD_SOURCE)).otherwise(pl.lit(GENUINE_SOURCE)),
        customer_id="customer_id",
        terminal_id="terminal_id",
        amount="amount",
    )
    if delays.genuine_ms is None:
        known = known.filter("is_fraud")
    return known.sort("labelled_at_ms", maintain_order=True).select(label_id(), *known.columns)
