"""Histories in tables become the same columns as the same messages would, in the order in which they became known."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import polars as pl
import pytest

from batch.history import history_columns, known_by, text_column
from batch.replay import known_order
from riskflow.columns import Text, concat, take
from riskflow.declare import Entity, Feed
from riskflow.errors import DeclarationError
from riskflow.events import AHEAD_MS, EARLIEST_MS, LATEST_MS, Decoder
from riskflow.plan import Plan
from tests.unit.kernel_cases import plan_of

START = 1_700_000_000_000

sales = Feed(
    "sales",
    id="sale_id",
    at="sold_at",
    fields={"amount": float, "channel": Literal["chip", "online"] | None, "note": str | None},
)
verdicts = Feed(
    "verdicts",
    id="verdict_id",
    at="known_at",
    about="sale_id",
    fields={"is_fraud": bool, "sale_id": str, "source": str | None, "amount": float | None},
)


def plan(hashed: bool = False) -> Plan:
    entities = {"card": Entity("card", hashed=hashed), "shop": Entity("shop", optional=True)}
    return plan_of(payments=sales, reports=verdicts, **entities)


def tables() -> dict[str, pl.DataFrame]:
    return {
        "sales": pl.DataFrame(
            {
                "sale_id": ["s3", "s1", "s2", "ß"],
                "sold_at_ms": [START + 5, START, START, START + 5],
                "card": [7, 7, 8, 9],
                "shop": ["a", None, "b", ""],
                "amount": [1.5, 2.0, 3.25, 0.0],
                "channel": ["online", None, "chip", "pigeon"],
                "note": [None, "hello", "", "ü"],
            }
        ),
        "verdicts": pl.DataFrame(
            {
                "verdict_id": ["v1", "v2"],
                "known_at_ms": [START + 5, START + 1],
                "sale_id": ["s1", "s2"],
                "is_fraud": [True, False],
                "source": ["bank", None],
                "card": [7, 8],
                "shop": [None, "b"],
                "amount": [2.0, None],
            }
        ),
    }


def messages(given: Plan, key: bytes = b"") -> dict[str, object]:
    """The same rows as JSON through the stream's decoder, put in order afterwards."""
    blocks = []
    for feed, table in zip((sales, verdicts), tables().values(), strict=True):
        decoder = Decoder(given, feed, key)
        rows = [
            {("sold_at" if k == "sold_at_ms" else "known_at" if k == "known_at_ms" else k): v for k, v in row.items()}
            for row in table.iter_rows(named=True)
        ]
        blocks.append(decoder.columns([decoder.message(json.dumps(r).encode(), START + 10**6) for r in rows]))
    both = concat(blocks)
    return dict(take(both, known_order(both)))


@pytest.mark.parametrize("hashed", [False, True])
def test_a_table_gives_the_columns_that_its_messages_would(hashed: bool) -> None:
    given, key = plan(hashed), b"a key"
    found, expected = history_columns(given, tables(), key), messages(given, key)
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        if isinstance(column, Text):
            assert found[name].values() == column.values(), name
        else:
            assert found[name].dtype == column.dtype, name
            np.testing.assert_array_equal(found[name], column, err_msg=name)


def test_a_raw_id_of_a_hashed_entity_is_nowhere() -> None:
    ids = history_columns(plan(hashed=True), tables(), b"a key")["card"].strings()
    assert all(len(i) == 32 for i in ids)
    assert ids != history_columns(plan(hashed=True), tables(), b"another")["card"].strings()


def test_rows_come_as_they_became_known_labels_first_at_equal_times() -> None:
    columns = history_columns(plan(), tables())
    assert columns["_id"].strings() == ["s1", "s2", "v2", "v1", "s3", "ß"]
    assert (known_order(columns) == np.arange(6)).all()


def test_missing_is_not_empty() -> None:
    found = text_column(pl.Series(["", None, "ab", None]))
    assert found.strings() == ["", None, "ab", None]
    assert text_column(pl.Series([], dtype=pl.String)).strings() == []


def test_what_a_table_lacks_is_named_with_the_fix() -> None:
    with pytest.raises(DeclarationError, match=r"feed 'sales': has no column 'sale_id'"):
        history_columns(plan(), {"sales": tables()["sales"].drop("sale_id")})
    with pytest.raises(DeclarationError, match=r"row 2: has no card\. Fill it"):
        history_columns(plan(), {"sales": tables()["sales"].with_columns(card=pl.Series([1, None, 2, 3]))})
    with pytest.raises(DeclarationError, match=r"has the feeds \['refunds'\]"):
        history_columns(plan(), {"refunds": tables()["sales"]})


def test_files_have_the_times_that_intake_takes_and_labels_of_the_future_are_not_known_yet() -> None:
    """As intake takes them: up to five minutes ahead."""
    columns = history_columns(plan(), tables())
    assert known_by(plan(), columns, START + 5 - AHEAD_MS) is columns
    given = {**tables(), "verdicts": tables()["verdicts"].with_columns(known_at_ms=pl.lit(START + 6))}
    left = known_by(plan(), history_columns(plan(), given), START + 5 - AHEAD_MS)
    assert left["_id"].strings() == ["s1", "s2", "s3", "ß"]
    with pytest.raises(DeclarationError, match=r"feed 'sales': has 2 rows .* such as s3 at 2023-11-14T22:13:20\.005Z"):
        known_by(plan(), columns, START + 4 - AHEAD_MS)
    for wrong in (EARLIEST_MS - 1, LATEST_MS + 1):
        given["verdicts"] = tables()["verdicts"].with_columns(known_at_ms=pl.Series([START, wrong]))
        with pytest.raises(DeclarationError, match=r"'verdicts': has 1 rows that lie before 1973 .* such as v2 at"):
            known_by(plan(), history_columns(plan(), given), START + 5)
