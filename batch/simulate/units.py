"""Lengths of time in milliseconds, and the span in which a world lives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


class Span(NamedTuple):
    """From `start_ms` up to, not including, `end_ms` (UTC epoch)."""

    start_ms: int
    end_ms: int

    @property
    def length_ms(self) -> int:
        return self.end_ms - self.start_ms

    def moments(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` moments, each as likely as any other."""
        return rng.integers(self.start_ms, self.end_ms, n)

    def keep(self, payments: pl.DataFrame) -> pl.DataFrame:
        """The payments that lie inside."""
        return payments.filter(pl.col("at_ms").is_between(self.start_ms, self.end_ms, closed="left"))


def spread_out(size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups of `size` members laid end to end: for each member its group, and its place in it (0, 1, ...)."""
    group = np.repeat(np.arange(len(size)), size)
    first = np.cumsum(size) - size
    return group, np.arange(len(group)) - first[group]
