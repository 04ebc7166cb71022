"""`riskflow evaluate` on a small world: who is learned from and tested on, and that nothing is known too early."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from batch import evaluate as chain
from batch.given import Given
from batch.importer import column_map, history
from batch.pipeline import Pipeline
from batch.pipeline_search import SearchFile
from batch.search import Search
from batch.simulate import Shares, simulate
from cli import train as command
from cli.common import load_plan

DAY = 86_400_000
FIRST = datetime(2026, 3, 1, tzinfo=UTC)
START = int(FIRST.timestamp() * 1000)
COLUMNS = "event_id=ID,occurred_at=WHEN,customer_id=WHO,terminal_id=WHERE,amount=HOW_MUCH,is_fraud=BAD"
TRAIN, TEST, DELAY_DAYS = (14, 21), (24, 28), 3  # days of the world: first, and first after


@dataclass(frozen=True)
class Told:
    """A file, and its rows as a person would count them."""

    path: Path
    rows: pl.DataFrame  # ID, WHEN, WHO, BAD, day


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    shares = Shares(stolen_card=0.02, compromised_terminal=0.02, card_testing=0.005)
    world = simulate(5, START, 28, 250, 120, per_day=3.0, shares=shares)
    table = world.events.join(world.truth, on="event_id").select(
        ID="event_id",
        WHEN=pl.from_epoch("occurred_at_ms", time_unit="ms"),
        WHO="customer_id",
        WHERE="terminal_id",
        HOW_MUCH="amount",
        BAD=pl.col("is_fraud").cast(pl.Int8),
        day=(pl.col("occurred_at_ms") - START) // DAY,
    )
    path = tmp_path_factory.mktemp("told") / "tx.parquet"
    table.drop("day").write_parquet(path)
    return Told(path, table)


def day(number: int) -> str:
    return (FIRST + timedelta(days=number)).strftime("%Y-%m-%d")


def options(path: Path, *more: str) -> list[str]:
    days = {"--train-from": TRAIN[0], "--train-to": TRAIN[1] - 1, "--test-from": TEST[0], "--test-to": TEST[1] - 1}
    spans = [word for option, number in days.items() for word in (option, day(number))]
    given = ["evaluate", "card_fraud", "--events", str(path), "--columns", COLUMNS, "--delay", f"{DELAY_DAYS}d"]
    return [*given, *spans, "--top-k", "10", *more]


def run(arguments: list[str]) -> dict[str, Any]:
    app = typer.Typer()
    command.register(app)
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_the_last_line_counts_what_a_person_counts(told: Told) -> None:
    found = run(options(told.path, "--drop-known", "customer_id", "--json"))
    train = told.rows.filter(pl.col("day").is_between(*TRAIN, closed="left"))
    test = naive_test_rows(told.rows)
    assert (found["train_rows"], found["train_frauds"]) == (len(train), train["BAD"].sum())
    assert (found["test_rows"], found["test_frauds"]) == (len(test), test["BAD"].sum())
    assert {"auc", "ap", "cp_at_k", "seconds"} <= found.keys()
    assert found["ap"] > 3 * test["BAD"].mean(), "better than chance"


def naive_test_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Day by day: out go customers with a fraud since the first training day that is as old as the delay."""
    kept = []
    for today in range(*TEST):
        frauds = rows.filter((pl.col("BAD") == 1) & pl.col("day").is_between(TRAIN[0], today - DELAY_DAYS - 1))
        known = frauds["WHO"].unique().to_list()
        kept.append(rows.filter((pl.col("day") == today) & ~pl.col("WHO").is_in(known)))
    return pl.concat(kept)


def protocol(**other: Any) -> chain.Protocol:
    spans = {
        "train_from_ms": START + TRAIN[0] * DAY,
        "train_until_ms": START + TRAIN[1] * DAY,
        "test_from_ms": START + TEST[0] * DAY,
        "test_until_ms": START + TEST[1] * DAY,
        "delay_ms": DELAY_DAYS * DAY,
    }
    return chain.Protocol(**{**spans, **other})


def replayed(told: Told, labels: pl.DataFrame | None = None) -> chain.Replayed:
    plan = load_plan("card_fraud")
    events, known = history(told.path, column_map(COLUMNS), DELAY_DAYS * DAY)
    tables = {"events": events, "labels": known if labels is None else labels}
    return chain.replay_history(plan, Pipeline.of(plan), tables, START + TEST[1] * DAY)


def test_what_becomes_known_later_changes_nothing_that_was_learned_or_seen(told: Told) -> None:
    """Verdicts of the test days are turned round: features, training labels and tested rows stay, truth does not."""
    plan = load_plan("card_fraud")
    _, known = history(told.path, column_map(COLUMNS), DELAY_DAYS * DAY)
    assert known is not None
    late = pl.col("labelled_at_ms") >= START + TEST[1] * DAY
    turned = known.with_columns(is_fraud=pl.when(late).then(~pl.col("is_fraud")).otherwise(pl.col("is_fraud")))
    honest, other = replayed(told), replayed(told, turned)
    for name in plan.features:
        assert honest.columns[name].tobytes() == other.columns[name].tobytes(), name  # type: ignore[union-attr]
    a, b = (chain.tested_rows(plan, r, protocol(drop_known="customer_id")) for r in (honest, other))
    assert a.columns["_id"].values() == b.columns["_id"].values()  # type: ignore[union-attr]
    assert a.frauds != b.frauds


def test_a_training_label_counts_only_if_known_by_the_end_of_the_training_days_and_the_delay(told: Told) -> None:
    plan = load_plan("card_fraud")
    pipeline = Pipeline.of(plan)
    _, known = history(told.path, column_map(COLUMNS), DELAY_DAYS * DAY)
    assert known is not None
    slow = known.with_columns(labelled_at_ms=pl.col("labelled_at_ms") + DAY)  # one day later than the delay says
    frame, on_time = (chain.training_rows(plan, pipeline, replayed(told, t), protocol()) for t in (slow, known))
    days = told.rows.filter((pl.col("BAD") == 1) & pl.col("day").is_between(TRAIN[0], TRAIN[1] - 1))
    assert on_time.frauds == len(days)
    assert frame.frauds == len(days.filter(pl.col("day") < TRAIN[1] - 1))
    assert len(frame) == len(on_time)


def test_a_search_sees_nothing_of_the_test_days(told: Told) -> None:
    """Verdicts and amounts after the training days and the delay are others: what is tried and found is the same."""
    plan, tables = load_plan("card_fraud"), history(told.path, column_map(COLUMNS), DELAY_DAYS * DAY)
    assert tables[1] is not None
    tested = pl.col("occurred_at_ms") >= START + TEST[0] * DAY
    late = pl.col("labelled_at_ms") >= START + TEST[0] * DAY
    events = tables[0].with_columns(amount=pl.when(tested).then(1.0).otherwise(pl.col("amount")))
    labels = tables[1].with_columns(is_fraud=pl.when(late).then(~pl.col("is_fraud")).otherwise(pl.col("is_fraud")))
    pipeline = Pipeline(msgspec.structs.replace(Pipeline.of(plan).file, candidates=["logistic_regression"]))
    found = []
    for events_labels in (tables, (events, labels)):
        both = dict(zip(("events", "labels"), events_labels, strict=True))
        replayed = chain.replay_history(plan, pipeline, both, START + TEST[1] * DAY)
        given = Given(Search(SearchFile(trials=2)))
        found.append(chain.evaluate(plan, pipeline, replayed, protocol(), given))
    assert found[0]["search"] == found[1]["search"]
    assert found[0]["race"] == found[1]["race"]
    assert found[0]["ap"] != found[1]["ap"], "the test days are others"
    assert {layer["trials"] for layer in found[0]["search"]["layers"].values()} == {2}


def test_the_command_searches_where_it_is_told_to(told: Told, tmp_path: Path) -> None:
    found = run(options(told.path, "--trials", "1", "--search-folder", str(tmp_path), "--json"))
    assert {layer["trials"] for layer in found["search"]["layers"].values()} == {1}
    assert {p.name for p in tmp_path.iterdir()} == {"history.parquet", "found.json", "history.svg", "journal.log"}


def test_wrong_days_and_names_are_said(told: Told) -> None:
    result = CliRunner().invoke(_app(), [*options(told.path)[:-2], "--train-from", "yesterday"])
    assert result.exit_code == 2
    with pytest.raises(chain.DeclarationError, match="tests on days that it learned from"):
        protocol(test_from_ms=START + DAY)
    with pytest.raises(chain.DeclarationError, match="'shop' is no entity"):
        chain.tested_rows(load_plan("card_fraud"), replayed(told), protocol(drop_known="shop"))


def _app() -> typer.Typer:
    app = typer.Typer()
    command.register(app)
    return app
