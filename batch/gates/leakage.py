"""Too good to be true: a figure that nobody reaches, or one input that tells all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.gates.base import Declared, Gate, Share, Whole

if TYPE_CHECKING:
    from batch.gates.case import Case


class Leakage(Declared, tag="leakage"):
    """What is known only after the event (a label, a chargeback flag) is the usual reason."""

    most_ap: Share = 0.99  # of the candidate on validation rows
    most_auc_alone: Share = 0.99  # of any one input, whichever way it points
    shown: Whole = 5

    def judge(self, case: Case) -> Gate:
        wanted = f"average precision at most {self.most_ap:g}, of one input alone AUC at most {self.most_auc_alone:g}"
        alone = sorted(case.auc_alone().items(), key=lambda item: -item[1])
        ap = case.figures["ap"]
        suspects = [f"average precision {ap:.4f}"] if ap is not None and ap > self.most_ap else []
        suspects += [f"{name} alone AUC {auc:.4f}" for name, auc in alone if auc > self.most_auc_alone]
        reached = "unknown" if ap is None else f"{ap:.4f}"
        innocent = f"average precision {reached}, at most {alone[0][1]:.4f} alone" if alone else "no input"
        return self.outcome(
            not suspects, "; ".join(suspects) or innocent, wanted, ap=ap, auc_alone=dict(alone[: self.shown])
        )
