"""The evaluation path: rows that fail alone, entities that are missing, ids that mean harm, the laws of bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from riskflow import evaluate
from riskflow.columns import Text
from riskflow.declare import Count, Distinct, Max, Sum, Windows, mark
from riskflow.errors import DeclarationError
from riskflow.plan import Plan
from riskflow.settings import settings
from riskflow.usecase import load_usecase
from tests.unit.kernel_cases import START, Folded, card, columns_of, history, plan_of, shop
from tests.unit.test_columns import HOSTILE

paid = Windows(by=card, over=["1d"], events=[Count()], amount=[Sum()], shop=[Distinct()])
visited = Windows(by=shop, over=["1d"], events=[Count()], doubled=[Max()])


def doubled(amount: Any) -> Any:
    return 2.0 * amount


def careful(amount: Any) -> Any:
    if np.any(amount == 13.0):
        raise ValueError("thirteen")
    return amount + 1.0


def after_careful(careful: Any) -> Any:
    return careful * 2.0


def signed_nan(amount: Any) -> Any:
    return np.where(amount > 5.0, np.nan, -np.nan)


def row(i: int, **fields: Any) -> dict[str, Any]:
    return {"_id": b"%d" % i, "at_ms": START + i, "card": b"c", "shop": b"s", "amount": float(i), **fields}


def test_a_calculation_that_raises_for_one_row_fails_for_that_row_only() -> None:
    plan = plan_of(careful, after_careful, paid=paid)
    rows = [row(i) for i in range(12, 16)]
    folded = Folded(plan)
    out = folded.block(columns_of(rows))
    np.testing.assert_array_equal(out["careful"], [13.0, math.nan, 15.0, 16.0])
    np.testing.assert_array_equal(out["after_careful"], [26.0, math.nan, 30.0, 32.0])
    assert out["_degraded"].strings() == ["", "careful", "", ""]
    assert folded.failures.counts == {"careful": 1}
    assert folded.failures.examples == {"careful": "ValueError: thirteen"}
    healthy = Folded(plan).block(columns_of([rows[0]]))
    assert healthy["careful"].tobytes() == out["careful"][:1].tobytes()


def test_not_known_is_one_nan() -> None:
    out = Folded(plan_of(signed_nan, paid=paid)).block(columns_of([row(1), row(9)]))
    assert out["signed_nan"].tobytes() == np.array([np.nan, np.nan]).tobytes()


def test_an_optional_entity_may_be_missing() -> None:
    rows = [row(0), row(1, shop=Text.MISSING), row(2), row(3, shop=b"")]
    folded = Folded(plan_of(doubled, paid=paid, visited=visited))
    out = folded.block(columns_of(rows))
    np.testing.assert_array_equal(out["visited_events_count_1d"], [0.0, math.nan, 1.0, 0.0])
    np.testing.assert_array_equal(out["visited_doubled_max_1d"], [math.nan, math.nan, 0.0, math.nan])
    assert out["paid_events_count_1d"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert set(folded.records[1]) == {b"s", b""}


def test_all_rows_without_the_entity() -> None:
    folded = Folded(plan_of(doubled, paid=paid, visited=visited))
    out = folded.block(columns_of([row(0, shop=Text.MISSING)]))
    assert np.isnan(out["visited_events_count_1d"]).all()
    assert folded.records[1] == {}


def test_ids_are_data() -> None:
    ids = [v.encode() for v in HOSTILE]
    plan = plan_of(doubled, paid=paid, visited=visited)
    rows = [row(i, card=c, shop=s, _id=b"%d" % i) for i, (c, s) in enumerate((c, s) for c in ids for s in ids)]
    rows += [row(1000 + i, _id=c, card=b"another") for i, c in enumerate(ids)]
    folded = Folded(plan)
    out = folded.block(columns_of(rows))
    assert len(out["at_ms"]) == len(rows)
    assert out["paid_events_count_1d"][: len(ids) ** 2].tolist() == [float(i % len(ids)) for i in range(len(ids) ** 2)]
    assert set(folded.records[0]) == {*ids, b"another"}
    assert set(folded.records[1]) == {*ids, b"s"}


def test_an_empty_block_is_no_trouble() -> None:
    folded = Folded(plan_of(doubled, paid=paid, visited=visited))
    out = folded.block(columns_of([]))
    assert len(out["paid_events_count_1d"]) == 0


@mark(by=card)
def no_number(amount: float) -> float:
    return "high" if amount != amount + 1e18 and amount < -1e300 else 1.0  # type: ignore[return-value]


LEVELS = (1, 2, 3)


def _far(amount: float) -> int:
    return LEVELS[int(amount)] if amount > 7777.0 else 1


@mark(by=card)
def level(amount: float) -> float:
    return _far(amount) * 1.0


@mark(by=card)
def lowest(level: float) -> bool:
    return level + LEVELS[0] < 3


def test_a_mark_that_looks_behind_a_tuple_is_not_known_for_that_row_only() -> None:
    plan = plan_of(level=level, lowest=lowest, paid=Windows(by=card, over=["1d"], level=[Count()], lowest=[Sum()]))
    out = Folded(plan).block(columns_of([row(1), row(2, amount=9999.0), row(3), row(4)]))
    np.testing.assert_array_equal(out["level"], [1.0, math.nan, 1.0, 1.0])
    assert out["lowest"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert out["paid_level_count_1d"].tolist() == [0.0, 1.0, 1.0, 2.0]
    assert out["paid_lowest_sum_1d"].tolist() == [0.0, 1.0, 1.0, 2.0]


def test_a_mark_that_does_not_compile_is_named() -> None:
    plan = plan_of(no_number=no_number, paid=Windows(by=card, over=["1d"], no_number=[Count()]))
    with pytest.raises(DeclarationError, match="no_number"):
        Folded(plan).block(columns_of([row(1)]))


@pytest.fixture(scope="module")
def card_fraud() -> Plan:
    return Plan.of(load_usecase("card_fraud", settings().usecases))


@pytest.mark.parametrize("size", [1, 2, 7, 64, 512])
def test_card_fraud_gives_the_same_bits_in_blocks_of_any_size(card_fraud: Plan, size: int) -> None:
    columns = card_fraud_rows(card_fraud, 512)
    n = len(columns["at_ms"])
    whole, cut = Folded(card_fraud), Folded(card_fraud)
    one = whole.block(columns)
    many = cut.blocks(columns, [size] * n)
    for name in card_fraud.features:
        assert b"".join(m[name].tobytes() for m in many) == one[name].tobytes(), name
    assert whole.records == cut.records


def card_fraud_rows(plan: Plan, n: int) -> Any:
    """A history with the columns of card_fraud."""
    columns = history(seed=3, n=n, days=50.0)
    rows = len(columns["at_ms"])
    columns["customer_id"], terminal = columns.pop("card"), columns.pop("shop")
    columns["terminal_id"] = Text.of(v if v != Text.MISSING else b"s" for v in terminal.values())
    for name, kind in plan.fields.items():
        columns.setdefault(name, evaluate.empty_field(kind.kind, rows))
    return columns
