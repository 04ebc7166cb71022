"""Reasons: the inputs that raised a score, in words, through all layers and however the block was cut."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from riskflow.bundle import Bundle
from riskflow.columns import take
from riskflow.declare import FieldType
from riskflow.explain import TOGETHER, Family, families_of, occluded, show, words
from riskflow.policy import APPROVE, Decider
from riskflow.scoring import Scorer
from tests.unit.bundle_cases import bundle, columns, plan


@dataclasses.dataclass
class Linear:
    """A layer whose output is a weighted sum, so that what occlusion must find is known."""

    name: str
    weights: dict[str, float]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def run(self, values: Any, rows: int) -> Any:
        self.rows = rows
        return sum(w * np.asarray(values[i], float) for i, w in self.weights.items()) + np.zeros(rows)


def outputs_of(layers: list[Linear], values: dict[str, Any], rows: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in layers:
        found[layer.name] = layer.run({**values, **found}, rows)
    return found


def test_occlusion_goes_through_lower_layers() -> None:
    layers = [
        Linear("low", {"a": 2.0, "b": 1.0}),
        Linear("other", {"c": 1.0}),
        Linear("top", {"low": 10.0, "other": 1.0, "a": 1.0}),
    ]
    values = {"a": np.array([5.0, 1.0]), "b": np.array([3.0, 3.0]), "c": np.array([7.0, 0.0])}
    families = [Family(("a",), ""), Family(("b",), ""), Family(("c",), "")]
    reference = {"a": 1.0, "b": 0.0, "c": 0.0}
    outputs = outputs_of(layers, values, 2)
    drops = outputs["top"] - occluded(layers, values, outputs, families, reference)
    np.testing.assert_allclose(drops, [[4 * 21, 0], [30, 30], [7, 0]])


def test_only_families_that_reach_a_layer_are_run_there() -> None:
    layers = [Linear("low", {"a": 1.0}), Linear("top", {"low": 1.0, "c": 1.0})]
    values = {"a": np.ones(4), "c": np.ones(4)}
    outputs = outputs_of(layers, values, 4)
    occluded(layers, values, outputs, [Family(("a",), ""), Family(("c",), "")], {"a": 0.0, "c": 0.0})
    assert (layers[0].rows, layers[1].rows) == (4, 8)


def test_families_share_a_text_or_a_window_feature() -> None:
    inputs = ("amount", "spent_amount_mean_1d", "spent_amount_mean_7d", "spent_events_count_1d", "to_usual", "other")
    windows = {n for n in inputs if n.startswith("spent")}
    found = families_of(inputs, windows, {"spent_events_*": "busy: {value}", "amount": "big", "to_usual": "big"})
    assert [f.members for f in found] == [
        ("amount", "to_usual"),
        ("spent_amount_mean_1d", "spent_amount_mean_7d"),
        ("spent_events_count_1d",),
        ("other",),
    ]
    assert [f.text for f in found] == ["big", "", "busy: {value}", ""]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(plan(), bundle())


def test_reasons_are_for_rows_that_are_not_approved(scorer: Scorer) -> None:
    scored = scorer.score(columns()[0])
    reasons = scored.reasons()
    assert len(reasons) == len(scored.flagged) == (scored.action != APPROVE).sum() > 20
    assert all(1 <= len(r) <= 3 and all(r) for r in reasons)


def test_rule_reasons_come_first(scorer: Scorer) -> None:
    scored = scorer.score(columns()[0])
    burst = np.flatnonzero(scored.hits[0])
    assert len(burst)
    for words_ in scored.reasons(burst):
        assert words_[0] == "many payments in an hour"


def test_reasons_do_not_depend_on_the_block(scorer: Scorer) -> None:
    rows, _ = columns()
    scored = scorer.score(rows)
    whole = dict(zip(scored.flagged.tolist(), scored.reasons(), strict=True))
    for row in scored.flagged[:40].tolist():
        assert scorer.score(take(rows, np.array([row]))).reasons() == [whole[row]]


def test_a_planted_cause_is_the_first_reason(scorer: Scorer) -> None:
    rows, _ = columns()
    quiet: Any = np.flatnonzero(scorer.score(rows).action == APPROVE)[:20]
    some = take(rows, quiet)
    some["amount"] = np.full(20, 400.0)
    scored = scorer.score(some)
    reasons = scored.reasons(np.arange(20))
    assert sum(r[0] == "amount 400" for r in reasons) >= 15


def test_a_row_at_its_usual_blames_nothing(scorer: Scorer) -> None:
    values = {name: np.array([scorer._explainer.reference[name]]) for name in scorer.inputs}
    outputs: dict[str, Any] = {}
    for layer in scorer.layers:
        outputs[layer.name] = layer.run({**values, **outputs}, 1)
    nothing = np.zeros((2, 1), np.bool_)
    assert scorer._explainer.reasons(values, {}, outputs, nothing) == [[TOGETHER]]


def test_values_read_well() -> None:
    number, flag = FieldType("number", True), FieldType("flag", True)
    category = FieldType("category", True, ("chip", "online"))
    assert [show(v, number) for v in (2.0, 0.5, 1234.5678, float("nan"))] == ["2", "0.5", "1235", "not known"]
    assert [show(v, flag) for v in (1.0, 0.0)] == ["yes", "no"]
    assert [show(v, category) for v in (1.0, -1.0)] == ["online", "not known"]
    assert words("spent_amount_mean_30d") == "spent amount mean (30d)"


def test_a_text_is_filled_with_value_and_usual() -> None:
    numbers = {**bundle().policy, "reasons": {"amount": "paid {value}, mostly {usual}"}}
    scorer = Scorer(plan(), Bundle.of({**bundle().manifest, "policy": numbers}, bundle().files))
    rows, _ = columns(50)
    rows["amount"] = np.full(50, 400.0)
    said = [r for reasons in scorer.score(rows).reasons(np.arange(50)) for r in reasons]
    assert f"paid 400, mostly {show(bundle().reference['amount'] or 0, FieldType('number', True))}" in said


def test_a_rule_without_a_text_is_called_by_its_name() -> None:
    rules = [{"name": "too_big", "when": "amount >= 0", "action": "review", "reason": ""}]
    numbers = {**bundle().policy, "rules": rules}
    scorer = Scorer(plan(), Bundle.of({**bundle().manifest, "policy": numbers}, bundle().files))
    assert scorer.score(columns(20)[0]).reasons()[0][0] == "rule too big"
    assert Decider(numbers, plan()).rules[0].name == "too_big"
