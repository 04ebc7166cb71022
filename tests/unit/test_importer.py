"""Other people's files become our tables, or an error that says which column and row, and what to do."""

from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from batch import importer
from batch.simulate import simulate
from batch.simulate.files import write
from riskflow.errors import DeclarationError

NOON = datetime(2026, 1, 31, 12, 0, 0, 250_000)
NOON_MS = int(NOON.replace(tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000


def rows(**columns) -> pl.DataFrame:
    """Two good events, with some columns replaced."""
    good = {
        "event_id": ["a", "b"],
        "occurred_at": [NOON, NOON + timedelta(hours=1)],
        "customer_id": [7, 8],
        "terminal_id": ["007", "x"],
        "amount": [1.5, 20.0],
    }
    return pl.DataFrame({**good, **columns})


# the map


def test_a_map_names_a_column_for_each_field():
    assert importer.column_map("event_id=ID, occurred_at = When,") == {"event_id": "ID", "occurred_at": "When"}
    assert importer.column_map("") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [("event_id", "field=COLUMN"), ("a=", "field=COLUMN"), ("a=x,a=y", "twice"), ("9=x", "not a name")],
)
def test_a_map_that_cannot_be_read_is_refused(text, says):
    with pytest.raises(DeclarationError, match=says):
        importer.column_map(text)


def test_a_missing_column_names_the_field_what_there_is_and_the_fix():
    with pytest.raises(DeclarationError) as error:
        importer.events(rows(), {"event_id": "ID"})
    assert "field event_id: there is no column 'ID', only event_id, occurred_at" in str(error.value)
    assert "--columns event_id=COLUMN" in str(error.value)


def test_other_mapped_columns_travel_on_and_the_rest_stays_behind():
    table = rows(CUR=["EUR", "EUR"], SECRET=[1, 2])
    events = importer.events(table, {"currency": "CUR"})
    assert events["currency"].to_list() == ["EUR", "EUR"]
    assert "SECRET" not in events.columns


# times


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("t", [NOON]),
        pl.Series("t", [NOON], dtype=pl.Datetime("ns")),
        pl.Series("t", [NOON.replace(tzinfo=UTC)]).dt.convert_time_zone("Europe/Rome"),
        pl.Series("t", [NOON_MS]),
        pl.Series("t", [str(NOON_MS)]),
        pl.Series("t", ["2026-01-31T12:00:00.250Z"]),
        pl.Series("t", ["2026-01-31T13:00:00.25+01:00"]),
        pl.Series("t", ["2026-01-31 12:00:00.250"]),
        pl.Series("t", ["2026-01-31 13:00:00.250+01"]),
        pl.Series("t", [" 2026-01-31t12:00:00.250000z "]),
    ],
    ids=lambda column: f"{column.dtype} {column[0]}",
)
def test_a_moment_is_the_same_however_it_is_written(column):
    assert importer.at_ms(column).to_list() == [NOON_MS]
    assert importer.at_ms(column).dtype == pl.Int64


def test_a_day_is_its_midnight_in_utc():
    midnight = NOON_MS // DAY_MS * DAY_MS
    assert importer.at_ms(pl.Series("t", [date(2026, 1, 31)])).to_list() == [midnight]
    assert importer.at_ms(pl.Series("t", ["2026-01-31"])).to_list() == [midnight]


@given(
    st.lists(
        st.datetimes(
            min_value=datetime(1974, 1, 1),
            max_value=datetime(2100, 1, 1),
            timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
        ),
        min_size=1,
    )
)
def test_any_rfc3339_text_is_read_as_python_reads_it(moments):
    expected = [(m - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) for m in moments]
    assert importer.at_ms(pl.Series("t", [m.isoformat() for m in moments])).to_list() == expected


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([NOON_MS, NOON_MS // 1000], "column t, row 2: 1769860800 is too small for milliseconds; is it seconds"),
        ([NOON_MS * 1000], "row 1: 1769860800250000 is too large"),
        (["2026-01-31T12:00:00Z", "yesterday"], "column t, row 2: 'yesterday' is not a time"),
        (["2026-02-30T12:00:00Z"], "is not a time"),
        ([str(NOON_MS // 1000)], "is it seconds"),
        ([NOON, None], "row 2: None is empty"),
        ([True], "has type Boolean"),
        ([1.5], "has type Float64"),
    ],
)
def test_a_time_that_is_none_is_refused(values, says):
    with pytest.raises(DeclarationError, match=says):
        importer.at_ms(pl.Series("t", values))


# ids, amounts, flags


def test_ids_become_text():
    assert importer.ids(pl.Series("c_id", [7, 8])).to_list() == ["7", "8"]
    assert importer.ids(pl.Series("c_id", [7.0])).to_list() == ["7"]
    assert importer.ids(pl.Series("c_id", ["007", "", "\x00", "🙂"])).to_list() == ["007", "", "\x00", "🙂"]


@pytest.mark.parametrize(
    ("values", "says"),
    [([1, None], "row 2: None is empty"), ([1.5], "is no id"), (["x" * 129], "longer than 128"), ([True], "Boolean")],
)
def test_an_id_that_is_none_is_refused(values, says):
    with pytest.raises(DeclarationError, match=says):
        importer.ids(pl.Series("c_id", values))


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_an_amount_must_be_finite(bad):
    with pytest.raises(DeclarationError, match=r"column AMT, row 2: .* is not a finite number"):
        importer.events(rows(AMT=[1.0, bad]), {"amount": "AMT"})


def test_amounts_may_be_text_but_not_words():
    assert importer.amounts(pl.Series("amount", ["1.50", "2"])).to_list() == [1.5, 2.0]
    with pytest.raises(DeclarationError, match="'1,50' is not a finite number"):
        importer.amounts(pl.Series("amount", ["1,50"]))


@pytest.mark.parametrize(
    "values", [[True, False, None], [1, 0, None], [1.0, 0.0, None], ["TRUE", "false", None], ["1", "0", ""]]
)
def test_flags_are_true_false_or_not_known(values):
    assert importer.flags(pl.Series("is_fraud", values)).to_list() == [True, False, None]


def test_another_flag_is_refused():
    with pytest.raises(DeclarationError, match="column is_fraud, row 2: 2 is neither true nor false"):
        importer.flags(pl.Series("is_fraud", [1, 2]))


# events and labels


def test_events_are_put_in_order_of_time_and_keep_their_order_at_equal_times():
    events = importer.events(rows(occurred_at=[NOON, NOON - timedelta(hours=1)]), {})
    assert events["event_id"].to_list() == ["b", "a"]
    assert importer.events(rows(occurred_at=[NOON, NOON]), {})["event_id"].to_list() == ["a", "b"]


def test_an_event_that_is_there_twice_is_refused():
    with pytest.raises(DeclarationError, match="column event_id, row 1: 'a' is there more than once"):
        importer.events(rows(event_id=["a", "a"]), {})


def test_labels_are_known_after_the_delay_both_classes_and_not_where_nothing_is_known():
    events = importer.events(rows(is_fraud=[True, None]), {})
    labels = importer.labels_of(events, 7 * DAY_MS)
    assert labels.to_dicts() == [
        {
            "label_id": f"a:import:{NOON_MS + 7 * DAY_MS}",
            "event_id": "a",
            "is_fraud": True,
            "labelled_at_ms": NOON_MS + 7 * DAY_MS,
            "source": "import",
            "customer_id": "7",
            "terminal_id": "007",
            "amount": 1.5,
        }
    ]


def test_labels_may_come_from_a_file_of_their_own(tmp_path):
    rows().rename({"event_id": "ID"}).write_parquet(tmp_path / "events.parquet")
    known = {"ID": ["b", "elsewhere"], "fraud": [1, 0], "known_at": ["2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z"]}
    pl.DataFrame(known).write_csv(tmp_path / "labels.csv")
    columns = {"event_id": "ID", "is_fraud": "fraud"}
    events, labels = importer.history(tmp_path / "events.parquet", columns, 0, tmp_path / "labels.csv")
    assert "is_fraud" not in events.columns
    assert labels.select("event_id", "is_fraud", "customer_id").rows() == [("b", True, "8"), ("elsewhere", False, None)]


def test_without_flags_there_are_no_labels(tmp_path):
    rows().write_parquet(tmp_path / "events.parquet")
    assert importer.history(tmp_path / "events.parquet", {}, 0)[1] is None


# files


def test_csv_ids_keep_their_zeros(tmp_path):
    rows().write_csv(tmp_path / "events.csv")
    events = importer.read_events(tmp_path / "events.csv", {})
    assert events["terminal_id"].to_list() == ["007", "x"]
    assert events["occurred_at_ms"][0] == NOON_MS


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_simulated_world_comes_back_as_it_was(tmp_path, ending):
    world = simulate(1, NOON_MS, 5, 40, 20)
    table = world.events.join(world.truth.select("event_id", "is_fraud"), on="event_id", maintain_order="left")
    path = tmp_path / f"w.{ending}"
    getattr(table, f"write_{ending}")(path)
    events, labels = importer.history(path, {}, 7 * DAY_MS)
    assert_frame_equal(events, world.events, check_column_order=False)
    assert len(labels) == len(events)
    write(tmp_path / "out", {}, events=events, labels=labels)
    assert_frame_equal(pl.read_parquet(tmp_path / "out" / "events.parquet"), events)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.xlsx", b"", "ends in '.xlsx'"),
        ("a.parquet", b"not parquet", "cannot be read"),
        ("a.csv", b"", "cannot be read"),
        ("a.csv", b"x,y\n1,2,3\n", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DeclarationError, match=says):
        importer.read_table(tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DeclarationError, match="no such file"):
        importer.read_table(tmp_path / "none.csv")
