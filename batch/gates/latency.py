"""How long the bundle takes for a block of events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.gates.base import Declared, Gate, Positive, Whole

if TYPE_CHECKING:
    from batch.gates.case import Case


class Latency(Declared, tag="latency"):
    """Milliseconds to score one block on one thread: the median of several, since a busy machine adds to some."""

    rows: Whole = 64
    most_ms: Positive = 50.0
    blocks: Whole = 30

    def judge(self, case: Case) -> Gate:
        import numpy as np

        wanted = f"at most {self.most_ms:g} ms for {self.rows} rows"
        if case.bundle is None:
            return self.outcome(False, "there is no bundle", wanted)
        taken = case.block_ms(self.rows, self.blocks)
        median, slow = (float(np.quantile(taken, q)) for q in (0.5, 0.95))
        evidence = {"median_ms": median, "p95_ms": slow, "rows": self.rows, "blocks": len(taken)}
        return self.outcome(median <= self.most_ms, f"{median:.2f} ms", wanted, **evidence)
