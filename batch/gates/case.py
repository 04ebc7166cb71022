"""What gates look at: a candidate, its bundle, the rows it is measured on, and the champion beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batch.compare import Beside
from batch.gates.sanity import sanity_value
from batch.train import Trained, input_values
from batch.training_set import TrainingSet
from batch.weights import weights
from riskflow.bundle import Bundle
from riskflow.columns import F8, I8, Columns, Text, n_rows, take
from riskflow.declare import TEXT
from riskflow.evaluate import ID
from riskflow.plan import Plan
from riskflow.policy import APPROVE, I1, Decider, Numbers
from riskflow.scoring import Scorer

if TYPE_CHECKING:
    from batch.pipeline import Pipeline

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """One candidate before its gates. `score` are out-of-time scores of the validation rows, calibrated."""

    plan: Plan
    pipeline: Pipeline
    data: TrainingSet  # everything that was learned from
    validation: TrainingSet  # its newest part
    best: Trained
    score: F8
    numbers: Numbers  # the policy, thresholds resolved
    figures: Mapping[str, Any]  # of `score`
    bundle: Bundle | None  # None: it could not be made
    champion: Bundle | None
    beside: Beside

    @cached_property
    def flagged(self) -> Bools:
        """Validation rows that would not be approved, by score or rule."""
        return self._decided(self.numbers, self.score, self.validation) != APPROVE

    @property
    def weights(self) -> F8:
        """How many events each validation row stands for."""
        return weights(self.validation.weight, len(self.validation))

    def actions(self, beside: Beside) -> tuple[I1, I1]:
        """What candidate and champion would do with the rows that they are compared on."""
        assert beside.rows is not None
        assert self.champion is not None
        mine = self._decided(self.numbers, beside.score, beside.rows)
        return mine, self._decided(self.champion.policy, beside.other, beside.rows)

    def entity(self, rows: TrainingSet) -> I8:
        """The first entity of each row, as a hash: rows of one entity are not independent of each other."""
        ids = rows.columns[self.plan.entities[0]]
        assert isinstance(ids, Text)
        return ids.hashes()

    def groups(self, field: str) -> dict[str, NDArray[np.int64]]:
        """Group -> its validation rows."""
        from batch.tally import segment_values

        words = np.array(segment_values(self.plan, self.validation.columns, field), dtype=object).astype(str)
        return {str(group): np.flatnonzero(words == group) for group in np.unique(words)}

    def auc_alone(self) -> dict[str, float]:
        """How well each model input ranks validation rows alone, whichever way it points; missing counts as lowest."""
        from sklearn.metrics import roc_auc_score

        fraud = self.validation.fraud
        if len(np.unique(fraud)) < 2:
            return {}
        out = {}
        best = self.best
        known = input_values(self.plan, self.validation.columns, best.dictionaries, best.transferred)
        for name, column in known.items():
            values = np.nan_to_num(np.asarray(column, np.float64), nan=-np.finfo(np.float64).max)
            ranks = np.unique(values, return_inverse=True)[1]
            auc = float(roc_auc_score(fraud, ranks, sample_weight=self.validation.weight))
            out[name] = max(auc, 1 - auc)
        return out

    def block_ms(self, rows: int, blocks: int) -> list[float]:
        """Milliseconds that each of several blocks of validation rows takes, after one that is not counted."""
        assert self.bundle is not None
        scorer = Scorer(self.plan, self.bundle)
        columns = {name: self.validation.columns[name] for name in scorer.columns}
        taken = []
        for i in range(blocks + 1):
            block = take(columns, (np.arange(rows) + i * rows) % n_rows(columns))
            began = time.perf_counter()
            scorer.score(block)
            taken.append((time.perf_counter() - began) * 1000)
        return taken[1:]

    def scores_of(self, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Scores of made-up rows; an input that a row does not give is at its usual, any other column is missing."""
        assert self.bundle is not None
        scorer = Scorer(self.plan, self.bundle)
        columns: Columns = {name: self._column(name, rows) for name in scorer.columns}
        return dict(zip(rows, scorer.score(columns).score.tolist(), strict=True))

    def _column(self, name: str, rows: Mapping[str, Mapping[str, Any]]) -> Any:
        assert self.bundle is not None
        if name == ID:
            return Text.of_strings(rows)
        given = [
            sanity_value(self.plan, name, row[name], name) if name in row else self._usual(name)
            for row in rows.values()
        ]
        if self.plan.nodes[name].type.kind == TEXT:
            return Text.of_strings(str(v) if isinstance(v, str) else None for v in given)
        like = self.validation.columns[name]
        assert not isinstance(like, Text)
        missing = -1 if like.dtype.kind == "i" else np.nan
        return np.array([missing if v is None else v for v in given], like.dtype)

    def _usual(self, name: str) -> Any:
        assert self.bundle is not None
        usual = self.bundle.reference.get(name)
        words = self.bundle.dictionaries.get(name)
        if words is not None:  # a text's usual is its code
            return words[int(usual)] if usual is not None and 0 <= usual < len(words) else None
        return usual

    def _decided(self, numbers: Numbers, score: F8, rows: TrainingSet) -> I1:
        return Decider(numbers, self.plan).decide(score, rows.columns).action
