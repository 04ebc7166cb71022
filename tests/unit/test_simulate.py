"""The invented world: the same for the same seed, with the frauds it promises."""

import itertools

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from batch.simulate import SCENARIOS, Delays, Shares, live, simulate
from batch.simulate.files import write
from batch.simulate.units import DAY_MS, HOUR_MS, MINUTE_MS
from riskflow.errors import DeclarationError

START_MS = 1_767_225_600_000  # 2026-01-01, a Thursday


@pytest.fixture(scope="module")
def world():
    return simulate(seed=3, start_ms=START_MS, days=60, customers=1_000, terminals=400)


@pytest.fixture(scope="module")
def told(world):
    """Events with what was planted."""
    return world.events.join(world.truth, on="event_id", maintain_order="left")


def of(told: pl.DataFrame, scenario: str) -> pl.DataFrame:
    return told.filter(pl.col("scenario") == scenario)


def test_the_same_seed_makes_the_same_world_and_another_seed_another_one():
    first, again, other = (simulate(seed, START_MS, 10, 80, 30) for seed in (1, 1, 2))
    for table in ("events", "labels", "truth"):
        assert_frame_equal(getattr(first, table), getattr(again, table))
    assert not first.events.equals(other.events)


@pytest.mark.parametrize(
    "changed", [{"seed": 2}, {"start_ms": START_MS + 1}, {"days": 11}, {"customers": 81}, {"shares": Shares(0, 0, 0)}]
)
def test_two_worlds_share_no_id_of_an_event_a_customer_or_a_terminal(changed):
    one = {"seed": 1, "start_ms": START_MS, "days": 10, "customers": 80, "terminals": 30}
    first, other = simulate(**one), simulate(**{**one, **changed})
    for name in ("event_id", "customer_id", "terminal_id"):
        assert not set(first.events[name]) & set(other.events[name])
    assert first.events["event_id"][0].startswith("t-")


def test_what_is_known_by_a_day_and_what_comes_after_it_are_the_whole_world():
    world = simulate(1, START_MS, 10, 80, 30)
    known, rest = world.until(8.5), list(live(world, START_MS + int(8.5 * DAY_MS), 100, begin_ms=0))
    later = [msgspec.json.decode(m.value) for m in rest]
    for table, feed in (("events", "events"), ("labels", "labels")):
        own = "event_id" if feed == "events" else "label_id"
        whole = getattr(world, table).filter(pl.col(world_time(feed)) < world.end_ms)[own].to_list()
        sent = [m[own] for m, of in zip(later, rest, strict=True) if of.feed == feed]
        assert getattr(known, table)[own].to_list() + sent == whole
        assert 0 < len(sent) < len(whole)
    assert known.truth["event_id"].to_list() == known.events["event_id"].to_list()


def world_time(feed):
    return {"events": "occurred_at_ms", "labels": "labelled_at_ms"}[feed]


def test_tables_have_the_promised_columns(world):
    assert world.events.schema == pl.Schema(
        {
            "event_id": pl.String,
            "occurred_at_ms": pl.Int64,
            "customer_id": pl.String,
            "terminal_id": pl.String,
            "amount": pl.Float64,
            "channel": pl.String,
        }
    )
    assert world.labels.schema == pl.Schema(
        {
            "label_id": pl.String,
            "event_id": pl.String,
            "is_fraud": pl.Boolean,
            "labelled_at_ms": pl.Int64,
            "source": pl.String,
            "customer_id": pl.String,
            "terminal_id": pl.String,
            "amount": pl.Float64,
        }
    )
    assert world.truth.columns == ["event_id", "is_fraud", "scenario"]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    start_ms=st.integers(10**12, 2 * 10**12),
    days=st.integers(1, 5),
    customers=st.integers(1, 60),
    terminals=st.integers(2, 30),
    share=st.floats(0, 0.3),
)
def test_any_world_is_well_formed(seed, start_ms, days, customers, terminals, share):
    world = simulate(seed, start_ms, days, customers, terminals, shares=Shares(share, share, share))
    events, labels = world.events, world.labels
    assert events["occurred_at_ms"].is_sorted()
    assert labels["labelled_at_ms"].is_sorted()
    assert events["occurred_at_ms"].is_between(start_ms, start_ms + days * DAY_MS, closed="left").all()
    assert events["event_id"].is_unique().all()
    assert labels["label_id"].is_unique().all()
    assert events["event_id"].is_sorted()
    assert (events["amount"] > 0).all()
    assert (events["amount"].round(2) == events["amount"]).all()
    assert events["channel"].is_in(["chip", "contactless", "online"]).all()
    assert world.truth["scenario"].is_in(SCENARIOS).all()
    assert events.null_count().sum_horizontal().sum() == 0
    joined = labels.join(events, on="event_id")
    assert len(joined) == len(labels) == len(events)
    assert (joined["labelled_at_ms"] > joined["occurred_at_ms"]).all()


@pytest.mark.parametrize("wrong", [{"days": 0}, {"customers": 0}, {"terminals": 1}, {"per_day": 0.0}])
def test_a_world_without_time_people_or_shops_is_refused(wrong):
    with pytest.raises(DeclarationError, match=next(iter(wrong))):
        simulate(1, START_MS, **wrong)


# genuine behaviour


def test_more_fraud_does_not_change_what_honest_people_do():
    none = Shares(0, 0, 0)
    honest = simulate(5, START_MS, 20, 200, 60, shares=none)
    tested = simulate(5, START_MS, 20, 200, 60, shares=Shares(0, 0, 0.02))
    genuine = tested.events.join(tested.truth, on="event_id").filter(~pl.col("is_fraud"))
    assert not honest.truth["is_fraud"].any()
    columns = ["occurred_at_ms", "customer_id", "terminal_id", "amount"]
    one, two = (events.with_columns(_numbers()).select(columns).sort(columns) for events in (honest.events, genuine))
    assert_frame_equal(one, two)


def _numbers():
    """Ids without the world that they name."""
    return pl.col("customer_id", "terminal_id").str.slice(-6)


def test_customers_come_back_to_their_shops(told):
    visits = of(told, "genuine").group_by("customer_id", "terminal_id").len()
    top = visits.sort("len", descending=True).group_by("customer_id").head(8).group_by("customer_id").agg(pl.sum("len"))
    share = top["len"].sum() / visits["len"].sum()
    assert 0.5 < share < 0.95


def test_days_and_weeks_have_a_rhythm(told):
    hours = of(told, "genuine")["occurred_at_ms"] // HOUR_MS
    by_hour = np.bincount(hours % 24, minlength=24)
    assert by_hour[9:20].min() > 2 * by_hour[2:5].max()
    by_day = np.bincount(hours // 24 % 7, minlength=7)
    assert by_day.max() > 1.1 * by_day.min()


def test_customers_have_their_own_level_of_amounts(told):
    means = of(told, "genuine").group_by("customer_id").agg(pl.col("amount").log().mean())["amount"]
    assert means.std() > 0.35


def test_contactless_stays_under_its_limit_and_online_shops_have_no_other_channel(told):
    assert told.filter(pl.col("channel") == "contactless")["amount"].max() < 50
    channels = told.group_by("terminal_id").agg(online=(pl.col("channel") == "online").mean())["online"]
    assert channels.is_in([0.0, 1.0]).all()


def test_some_outings_are_bursts(told):
    gaps = of(told, "genuine").select(pl.col("occurred_at_ms").diff().over("customer_id")).drop_nulls().to_series()
    assert 0.05 < (gaps < 20 * MINUTE_MS).mean() < 0.4


# planted fraud


def test_the_fraud_rate_is_realistic(world):
    assert 0.005 < world.truth["is_fraud"].mean() < 0.015
    assert set(world.truth["scenario"]) == set(SCENARIOS)


def test_shares_set_how_much_of_each_scenario_is_planted():
    world = simulate(8, START_MS, 60, 1_000, 400, shares=Shares(0.01, 0.0, 0.0))
    rate = world.truth.group_by("scenario").len().with_columns(pl.col("len") / len(world.truth))
    found = dict(rate.iter_rows())
    assert set(found) == {"genuine", "stolen_card"}
    assert found["stolen_card"] == pytest.approx(0.01, rel=0.2)


def thefts(told: pl.DataFrame) -> pl.DataFrame:
    """Payments with stolen cards, each theft (a pause of two days ends it) numbered."""
    new = (pl.col("occurred_at_ms").diff() > 2 * DAY_MS).fill_null(True).over("customer_id")
    return of(told, "stolen_card").with_columns(theft=new.cum_sum().over("customer_id"))


def test_stolen_cards_pay_more_than_usual_at_strange_shops_within_hours(told):
    honest = of(told, "genuine")
    usual = honest.group_by("customer_id").agg(usual=pl.mean("amount"))
    stolen = thefts(told).join(usual, on="customer_id")
    assert (stolen["amount"] / stolen["usual"]).median() > 3
    known = stolen.join(honest.select("customer_id", "terminal_id").unique(), on=["customer_id", "terminal_id"])
    assert len(known) < 0.25 * len(stolen)
    length = stolen.group_by("customer_id", "theft").agg(
        hours=(pl.col("occurred_at_ms").max() - pl.col("occurred_at_ms").min()) / HOUR_MS, n=pl.len()
    )
    assert length["hours"].median() < 24
    assert length["n"].mean() > 4


def test_the_owner_cannot_pay_while_the_card_is_stolen_or_blocked(told):
    spans = (
        thefts(told)
        .group_by("customer_id", "theft")
        .agg(first=pl.min("occurred_at_ms"), last=pl.max("occurred_at_ms") + DAY_MS)
    )
    during = (
        of(told, "genuine").join(spans, on="customer_id").filter(pl.col("occurred_at_ms").is_between("first", "last"))
    )
    assert during.is_empty()


def test_compromised_terminals_are_few_bad_for_weeks_and_their_amounts_are_ordinary(told):
    clones = of(told, "compromised_terminal")
    bad = clones.group_by("terminal_id").agg(
        days=(pl.max("occurred_at_ms") - pl.min("occurred_at_ms")) / DAY_MS, frauds=pl.len()
    )
    assert len(bad) < 0.2 * told["terminal_id"].n_unique()
    assert bad["days"].max() <= 30
    assert bad["days"].median() > 4
    assert clones["channel"].is_in(["chip", "contactless"]).all()
    honest = of(told, "genuine").join(bad, on="terminal_id")["amount"]
    assert clones["amount"].median() == pytest.approx(honest.median(), rel=0.3)


def test_clones_follow_a_payment_of_the_same_card_at_the_same_terminal(told):
    pair = ["customer_id", "terminal_id"]
    clones = of(told, "compromised_terminal").select(*pair, at="occurred_at_ms")
    before = clones.join(told.filter(pl.col("scenario") == "genuine"), on=pair).filter(
        (pl.col("at") - pl.col("occurred_at_ms")).is_between(HOUR_MS, 48 * HOUR_MS)
    )
    # the original is missing only where the card was blocked in the meantime
    assert before.select(*pair, "at").unique().height > 0.9 * len(clones)


def test_card_testing_is_a_burst_of_tiny_payments_then_one_large(told):
    tests = of(told, "card_testing")
    tiny = tests.filter(pl.col("amount") <= 2)
    bursts = tiny.with_columns(
        burst=(pl.col("occurred_at_ms").diff() > HOUR_MS).fill_null(True).cum_sum().over("terminal_id")
    )
    each = bursts.group_by("terminal_id", "burst").agg(
        n=pl.len(),
        cards=pl.n_unique("customer_id"),
        minutes=(pl.max("occurred_at_ms") - pl.min("occurred_at_ms")) / MINUTE_MS,
    )
    assert (tests["channel"] == "online").all()
    assert each["n"].min() >= 10
    assert (each["cards"] == each["n"]).all()
    assert each["minutes"].max() <= 12
    large = tests.filter(pl.col("amount") > 2)
    assert large["amount"].median() > 200
    assert abs(len(large) - len(each)) <= 2


# labels


def test_frauds_are_reported_after_days_and_genuine_ones_confirmed_after_a_week(world):
    joined = world.labels.join(world.events, on="event_id").with_columns(
        days=(pl.col("labelled_at_ms") - pl.col("occurred_at_ms")) / DAY_MS
    )
    frauds, genuine = joined.filter("is_fraud"), joined.filter(~pl.col("is_fraud"))
    assert set(frauds["source"]) == {"chargeback"}
    assert set(genuine["source"]) == {"confirmed"}
    assert frauds["days"].median() == pytest.approx(5, abs=0.5)
    assert 10 < frauds["days"].max() <= 21
    assert (genuine["days"] == 7).all()


def test_labels_tell_the_truth(world):
    both = world.labels.join(world.truth, on="event_id", suffix="_planted")
    assert (both["is_fraud"] == both["is_fraud_planted"]).all()


def test_a_source_may_report_frauds_only():
    world = simulate(3, START_MS, 20, 200, 60, delays=Delays(genuine_ms=None))
    assert world.labels["is_fraud"].all()
    assert len(world.labels) == world.truth["is_fraud"].sum() > 0


# as a stream


def test_live_sends_what_follows_the_cut_in_order_with_labels_in_between(world):
    cut_ms = world.start_ms + 40 * DAY_MS
    messages = list(live(world, cut_ms, 400, begin_ms=1_000))
    sent = [(m.feed, msgspec.json.decode(m.value)) for m in messages]
    times = [row.get("occurred_at") or row["labelled_at"] for _, row in sent]
    assert times == sorted(times)
    assert cut_ms <= times[0]
    assert times[-1] < world.end_ms
    late = world.labels.filter(pl.col("labelled_at_ms").is_between(cut_ms, world.end_ms, closed="left"))
    assert [row["label_id"] for feed, row in sent if feed == "labels"] == late["label_id"].to_list()
    assert [row["event_id"] for feed, row in sent if feed == "events"] == (
        world.events.filter(pl.col("occurred_at_ms") >= cut_ms)["event_id"].to_list()
    )


def test_live_events_are_due_at_the_rate_and_labels_cost_nothing(world):
    messages = list(live(world, world.end_ms - 2 * DAY_MS, 400, begin_ms=1_000))
    due = [m.due_ms for m in messages if m.feed == "events"]
    assert due == pytest.approx(list(np.arange(len(due)) * 2.5 + 1_000))
    assert [m.due_ms for m in messages] == sorted(m.due_ms for m in messages)


def test_live_messages_never_carry_what_was_planted(world):
    for message in itertools.islice(live(world, world.start_ms + 30 * DAY_MS, 1, begin_ms=0), 2_000):
        row = msgspec.json.decode(message.value)
        assert "scenario" not in row
        assert message.key.decode() == row["event_id"]
        if message.feed == "events":
            assert list(row) == ["event_id", "occurred_at", "customer_id", "terminal_id", "amount", "channel"]
            assert isinstance(row["occurred_at"], int)


def test_live_at_a_speed_keeps_the_rhythm(world):
    cut_ms = world.end_ms - DAY_MS
    for message in live(world, cut_ms, begin_ms=0, speed=3_600):
        row = msgspec.json.decode(message.value)
        at_ms = row.get("occurred_at") or row["labelled_at"]
        assert message.due_ms == (at_ms - cut_ms) / 3_600


def test_live_can_write_the_wall_clock_into_events(world):
    messages = live(world, world.end_ms - DAY_MS, 100, begin_ms=5_000, stamp="wall")
    stamps = [msgspec.json.decode(m.value).get("occurred_at") for m in messages if m.feed == "events"]
    assert stamps[:3] == [5_000, 5_010, 5_020]


@pytest.mark.parametrize("pace", [{}, {"rate_per_s": 1, "speed": 1}, {"rate_per_s": 0}, {"speed": -1}])
def test_live_wants_one_pace(world, pace):
    with pytest.raises(DeclarationError, match="Give one of them"):
        next(live(world, world.start_ms, begin_ms=0, **pace))


# as files


def test_a_world_survives_its_files(world, tmp_path):
    manifest = write(tmp_path, {"seed": 3}, events=world.events, labels=world.labels, truth=world.truth)
    assert_frame_equal(pl.read_parquet(tmp_path / "events.parquet"), world.events)
    assert_frame_equal(pl.read_parquet(tmp_path / "labels.parquet"), world.labels)
    assert manifest == msgspec.json.decode((tmp_path / "manifest.json").read_bytes())
    assert manifest["tables"]["events"]["rows"] == len(world.events)


def test_a_new_history_leaves_nothing_of_the_old_one(world, tmp_path):
    write(tmp_path, {}, events=world.events, labels=world.labels, truth=world.truth)
    write(tmp_path, {}, events=world.events)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.parquet", "manifest.json"]
