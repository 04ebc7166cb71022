"""Commands that make and move data: simulate, import, produce, label."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from batch.produce import Outgoing
    from batch.simulate import World

SIMULATE = "riskflow simulate"
Json = Annotated[bool, typer.Option("--json", help="print the summary as one line of JSON")]
UseCase = Annotated[str, typer.Option(help="use case whose topics are written")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("simulate")(simulate)
    app.command("import")(import_)
    app.command("produce")(produce)
    app.command("label")(label)


def simulate(
    out: Annotated[Path | None, typer.Option(help="folder for events, labels, truth and a manifest")] = None,
    to_kafka: Annotated[bool, typer.Option("--to-kafka", help="send events and labels to Kafka")] = False,
    days: Annotated[int, typer.Option(min=1)] = 90,
    customers: Annotated[int, typer.Option(min=1)] = 2_000,
    terminals: Annotated[int, typer.Option(min=2)] = 1_000,
    seed: int = 1,
    per_day: Annotated[float, typer.Option(help="mean payments of a customer on a day")] = 2.0,
    start: Annotated[
        str, typer.Option(help="first moment, RFC 3339; default 2026-01-01, with --to-kafka DAYS ago")
    ] = "",
    rate: Annotated[float | None, typer.Option(help="events a second (Kafka); default 400")] = None,
    speed: Annotated[float | None, typer.Option(help="instead of --rate: seconds of the world in a second")] = None,
    from_day: Annotated[float, typer.Option(help="send only what happens from this day on (Kafka)")] = 0.0,
    until_day: Annotated[float | None, typer.Option(help="write only what is known by this day (--out)")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace files that simulate did not make (--out)")] = False,
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Invent card payments with planted fraud; labels follow after a delay.

    riskflow simulate --out /tmp/history --days 90 --seed 7

    riskflow simulate --to-kafka --rate 400 --days 30

    The same options make the same world with the same ids; any other world has other ids. A world whose beginning is
    history goes on live when both are given the same --start, --days and so on, and the same day:

    riskflow simulate --out history --start 2026-01-01 --until-day 60

    riskflow simulate --to-kafka --start 2026-01-01 --from-day 60
    """
    from batch.simulate import simulate as build

    if to_kafka == (out is not None):
        raise typer.BadParameter("give either --out FOLDER or --to-kafka")
    if out is not None:
        _check_free(out, force)
    world = build(seed, _start_ms(start, days if to_kafka else None), days, customers, terminals, per_day=per_day)
    if out is not None:
        about = {"seed": seed, "days": days, "customers": customers, "terminals": terminals, "per_day": per_day}
        _report(_write_world(out, world if until_day is None else world.until(until_day), about), as_json)
    else:
        _report(_send(_messages(world, usecase, from_day, rate, speed)), as_json)


def _start_ms(start: str, days_ago: int | None) -> int:
    import time

    from batch.simulate.units import DAY_MS
    from cli.common import at_ms

    if not start and days_ago is not None:
        return int(time.time() * 1000) - days_ago * DAY_MS
    return at_ms(start or "2026-01-01", "--start") or 0


def _check_free(out: Path, force: bool) -> None:
    """Says that an earlier world is replaced; raises BadParameter for tables that something else made."""
    from batch.simulate.files import made_by

    maker = made_by(out)
    if maker == SIMULATE:
        print(f"{out}: the world that lay there is replaced", file=sys.stderr)
    elif maker is not None and not force:
        raise typer.BadParameter(f"{out} holds tables made by {maker}: name another folder, or replace them by --force")


def _write_world(out: Path, world: World, about: dict[str, object]) -> dict[str, object]:
    from batch.simulate.files import write

    about = {"made_by": SIMULATE, **about, "start_ms": world.start_ms, "end_ms": world.end_ms}
    return write(out, about, events=world.events, labels=world.labels, truth=world.truth)


def _messages(
    world: World, usecase: str, from_day: float, rate: float | None, speed: float | None
) -> Iterator[Outgoing]:
    from batch.produce import Outgoing
    from batch.simulate import live
    from batch.simulate.units import DAY_MS

    rate = 400.0 if rate is None and speed is None else rate
    topics = {feed: _topic(usecase, feed) for feed in ("events", "labels")}
    for message in live(world, world.start_ms + int(from_day * DAY_MS), rate, begin_ms=0, speed=speed):
        yield Outgoing(topics[message.feed], message.key, message.value, message.due_ms / 1000)


def import_(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV")],
    out: Annotated[Path, typer.Option(help="folder for events.parquet and labels.parquet")],
    columns: Annotated[str, typer.Option(help="field=COLUMN,... for columns with other names")] = "",
    delay: Annotated[str, typer.Option(help="when a column is_fraud became known, after the event")] = "7d",
    labels: Annotated[Path | None, typer.Option(help="file with event_id, is_fraud, known_at")] = None,
    as_json: Json = False,
) -> None:
    """Take a history from Parquet or CSV.

    riskflow import tx.csv --columns event_id=TRANSACTION_ID,occurred_at=TX_DATETIME,is_fraud=TX_FRAUD --out history
    """
    from batch import importer
    from batch.simulate.files import write
    from riskflow.durations import duration_ms

    mapped, delay_ms = importer.column_map(columns), duration_ms(delay)
    events, known = importer.history(file, mapped, delay_ms, labels)
    _report(write(out, {"made_by": "riskflow import", "columns": mapped}, events=events, labels=known), as_json)


def produce(
    file: Annotated[Path, typer.Argument(help="Parquet, CSV or lines of JSON (.jsonl)")],
    topic: Annotated[str, typer.Option(help="for example card_fraud.events")],
    rate: Annotated[
        float | None, typer.Option(help="messages a second; without it as fast as Kafka takes them")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="instead of --rate: pace by the rows' times, this much faster")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send the rows of a file to Kafka as JSON and wait until all are acknowledged.

    riskflow produce history/events.parquet --topic card_fraud.events --rate 1000
    """
    from batch.produce import from_file

    _report(_send(from_file(file, topic, rate, speed)), as_json)


def label(
    event_id: str,
    verdict: Annotated[Literal["fraud", "genuine"], typer.Argument(help="fraud or genuine")],
    source: Annotated[str, typer.Option(help="who says so")] = "analyst",
    usecase: UseCase = "card_fraud",
    as_json: Json = False,
) -> None:
    """Say what an event was; the next training learns from it.

    riskflow label p-1 fraud
    """
    import time

    from batch import produce as to

    row = to.label(event_id, verdict == "fraud", source, int(time.time() * 1000))
    _send(iter([to.Outgoing(_topic(usecase, "labels"), event_id.encode(), to.as_json(row), 0.0)]))
    _report(row, as_json)


def _topic(usecase: str, feed: str) -> str:
    from riskflow.names import Names
    from riskflow.settings import settings

    return Names(usecase, prefix=settings().topic_prefix).feed(feed)


def _send(messages: Iterator[Outgoing]) -> dict[str, object]:
    from batch.produce import send
    from riskflow.settings import settings

    return send(messages, settings().kafka, _progress).summary()


def _progress(sent: int, acknowledged: int) -> None:
    print(f"{sent:,} sent, {acknowledged:,} acknowledged", file=sys.stderr)


def _report(summary: dict[str, object], as_json: bool) -> None:
    """Data to stdout: one line of JSON, or one line for each value."""
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print(f"{name:16} {value if isinstance(value, str) else json.dumps(value)}")
