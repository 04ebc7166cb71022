"""Row by row beside the champion: how many change sides, and who."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.gates.base import Declared, Gate, Share, Whole, within

if TYPE_CHECKING:
    from batch.gates.case import Case


class Changes(Declared, tag="changes"):
    """At most a share of rows is decided otherwise than by the champion (actions, rules included)."""

    most: Share = 0.05
    mean_difference: Share = 1.0  # of the score, over all rows
    examples: Whole = 5

    def judge(self, case: Case) -> Gate:
        import numpy as np

        beside = case.beside
        if beside.rows is None:
            return self.outcome(True, "nothing to compare with", f"any: {beside.basis}")
        mine, its = case.actions(beside)
        moved = mine != its
        further = np.abs(beside.score - beside.other)
        share, gap = (float(np.average(one, weights=beside.rows.weight)) for one in (moved, further))
        passed = share <= self.most and within(gap, None, self.mean_difference)
        found = f"{share:.4f} of rows change sides, scores move by {gap:.4f}"
        wanted = f"at most {self.most:g} and {self.mean_difference:g} on {beside.where}"
        return self.outcome(
            passed, found, wanted, share=share, mean_difference=gap, rows=len(moved), flips=_flips(mine, its),
            examples=self._furthest(case, moved),
        )  # fmt: skip

    def _furthest(self, case: Case, moved: object) -> list[dict[str, object]]:
        """Those whose score moves most."""
        import numpy as np

        beside = case.beside
        assert beside.rows is not None
        rows = np.flatnonzero(moved)
        gap = np.abs(beside.score[rows] - beside.other[rows])
        rows = rows[np.argsort(-gap, kind="stable")[: self.examples]]
        ids = beside.rows.columns["_id"].take(rows).strings()  # type: ignore[union-attr]
        scores = zip(beside.score[rows].tolist(), beside.other[rows].tolist(), strict=True)
        return [{"event_id": i, "candidate": a, "champion": b} for i, (a, b) in zip(ids, scores, strict=True)]


def _flips(mine: object, its: object) -> dict[str, int]:
    """From which action of the champion's to which, and how many rows."""
    import numpy as np

    from riskflow.policy import ACTIONS

    pairs, counts = np.unique(np.stack([np.asarray(its), np.asarray(mine)]), axis=1, return_counts=True)
    named = zip(pairs.T.tolist(), counts.tolist(), strict=True)
    return {f"{ACTIONS[a]} -> {ACTIONS[b]}": n for (a, b), n in named if a != b}
