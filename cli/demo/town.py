"""The invented town: a history that ends at a cut, and what happens after it, as a stream that has not happened yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch.simulate import World
    from batch.simulate.live import Message

PER_DAY = 2.0  # payments of a customer
DAY_MS = 86_400_000
LONGEST_S = 900  # the world goes on for so many seconds of streaming; a demo is over before


@dataclass(frozen=True)
class Town:
    """A world and the moment at which its past ends. It ends now, so nothing in it lies in the future."""

    world: World
    cut_ms: int

    def write_history(self, folder: Path) -> tuple[Path, Path]:
        """Events and labels that were known at the cut, as Parquet."""
        folder.mkdir(parents=True, exist_ok=True)
        events, labels = folder / "events.parquet", folder / "labels.parquet"
        self.past("events", "occurred_at_ms").write_parquet(events)
        self.past("labels", "labelled_at_ms").write_parquet(labels)
        return events, labels

    def past(self, table: str, at: str) -> Any:
        frame = getattr(self.world, table)
        return frame.filter(frame[at] < self.cut_ms)

    def stream(self, rate_per_s: float) -> Iterator[Message]:
        """What comes after the cut, due at a steady rate; labels in between at no cost."""
        from batch.simulate import live

        return live(self.world, self.cut_ms, rate_per_s, begin_ms=0)


def invent(days: int, customers: int, rate_per_s: float, seed: int) -> Town:
    """A town whose past is `days` long and whose future lasts longer than the demo."""
    from batch.simulate import simulate

    future = ceil(LONGEST_S * rate_per_s / (customers * PER_DAY * 0.8)) + 1
    start_ms = int(time.time() * 1000) - (days + future) * DAY_MS
    world = simulate(seed, start_ms, days + future, customers, max(20, customers // 2), per_day=PER_DAY)
    return Town(world, start_ms + days * DAY_MS)
