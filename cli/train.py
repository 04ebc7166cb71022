"""`riskflow evaluate` and `riskflow train`: models from a history in files."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Columns, Delay, Json, Labels, Seconds, Trials, UseCase

if TYPE_CHECKING:
    from batch.evaluate import Protocol

Events = Annotated[Path, typer.Option(help="Parquet or CSV with one row for each event")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(evaluate)
    app.command()(train)


def evaluate(
    usecase: UseCase,
    events: Events,
    train_from: Annotated[str, typer.Option(help="first day to learn from, YYYY-MM-DD, UTC")],
    train_to: Annotated[str, typer.Option(help="last day to learn from, inclusive")],
    test_from: Annotated[str, typer.Option(help="first day to test on")],
    test_to: Annotated[str, typer.Option(help="last day to test on, inclusive")],
    labels: Labels = None,
    columns: Columns = "",
    delay: Delay = "7d",
    top_k: Annotated[int, typer.Option(min=1, help="cards a day that can be looked at")] = 100,
    drop_known: Annotated[
        str | None, typer.Option(help="entity: on each test day leave out those with a fraud known by then")
    ] = None,
    trials: Trials = None,
    search_seconds: Seconds = None,
    search_folder: Annotated[Path | None, typer.Option(help="where the search keeps its history")] = None,
    as_json: Json = False,
) -> None:
    """Measure a use case on any history: replay, train, bundle, ONNX scores, metrics.

    riskflow evaluate card_fraud --events tx.parquet --columns event_id=ID,occurred_at=TIME,is_fraud=FRAUD
    --train-from 2018-07-25 --train-to 2018-07-31 --test-from 2018-08-08 --test-to 2018-08-14 --json
    """
    from batch.importer import column_map, history
    from batch.pipeline import Pipeline
    from batch.pipeline_search import searching
    from cli.common import load_plan
    from riskflow.durations import duration_ms

    started = time.monotonic()
    protocol = _protocol(train_from, train_to, test_from, test_to, duration_ms(delay), top_k, drop_known)
    plan = load_plan(usecase)
    tables = dict(
        zip(("events", "labels"), history(events, column_map(columns), protocol.delay_ms, labels), strict=True)
    )
    pipeline = searching(Pipeline.of(plan), trials, search_seconds)
    report = _evaluate(plan, pipeline, tables, protocol, search_folder)
    _report({**report, "seconds": round(time.monotonic() - started, 1)}, as_json)


def train(
    usecase: UseCase,
    events: Events,
    labels: Labels = None,
    columns: Columns = "",
    delay: Delay = "7d",
    trials: Trials = None,
    search_seconds: Seconds = None,
    publish: Annotated[bool, typer.Option("--publish", help="publish as champion if it passes its gates")] = False,
    why: Annotated[str, typer.Option(help="the reason, for the history")] = "trained from files",
    as_json: Json = False,
) -> None:
    """Train a first bundle on a history in files, judge it and, if asked to, publish it.

    riskflow train card_fraud --events history/events.parquet --labels history/labels.parquet --publish
    """
    from dataclasses import replace

    from batch.importer import column_map, history
    from batch.pipeline_search import searching
    from batch.run import Run
    from cli.common import load_plan
    from riskflow.durations import duration_ms
    from riskflow.settings import settings

    started = time.monotonic()
    mapped = column_map(columns)
    run = Run.of(load_plan(usecase), settings(), time.strftime("files-%Y%m%dT%H%M%S", time.gmtime()))
    run = replace(run, pipeline=searching(run.pipeline, trials, search_seconds))
    tables = dict(zip(("events", "labels"), history(events, mapped, duration_ms(delay), labels), strict=True))
    summary = _train(run, tables, publish, why)
    _report({**summary, "seconds": round(time.monotonic() - started, 1)}, as_json)


def _train(run: Any, tables: dict[str, Any], publish: bool, why: str) -> dict[str, Any]:
    """Frame, race, verdict and, if asked to, publication; raises GatesFailed with the refusal."""
    from batch import retrain
    from batch.publish import GatesFailed, read_verdict
    from cli.common import user

    if publish:
        run.check_can_publish()
    frame = retrain.frame_from_tables(run, tables)
    _tell(f"{frame['rows']:,} rows to learn from, {frame['frauds']:,} frauds; training {', '.join(run.candidates)}")
    retrain.train_all(run)
    verdict = retrain.judge_run(run, alone=not publish)
    if not verdict["passed"]:
        raise GatesFailed(read_verdict(run.folder).refusal())
    published = retrain.publish_run(run, who=user(), why=why) if publish else {}
    return {**published, "run": str(run.folder), "candidate": verdict["candidate"], **verdict["metrics"]}


def _evaluate(
    plan: Any, pipeline: Any, tables: dict[str, Any], protocol: Protocol, folder: Path | None
) -> dict[str, Any]:
    from batch import evaluate as chain
    from batch.run import Run
    from riskflow.settings import settings

    if tables["labels"] is None:
        raise typer.BadParameter("the events have no column is_fraud: map it with --columns, or give --labels FILE")
    _tell(f"{len(tables['events']):,} events, {len(tables['labels']):,} labels")
    replayed = chain.replay_history(plan, pipeline, tables, protocol.test_until_ms)
    _tell("replayed; training")
    return chain.evaluate(plan, pipeline, replayed, protocol, Run(plan, pipeline, settings(), "evaluate").given(folder))


def _protocol(
    train_from: str, train_to: str, test_from: str, test_to: str, delay_ms: int, top_k: int, drop_known: str | None
) -> Protocol:
    from batch.evaluate import Protocol
    from riskflow.policy import DAY_MS

    first, last = _day_ms("--train-from", train_from), _day_ms("--train-to", train_to)
    test_first, test_last = _day_ms("--test-from", test_from), _day_ms("--test-to", test_to)
    return Protocol(first, last + DAY_MS, test_first, test_last + DAY_MS, delay_ms, top_k, drop_known)


def _day_ms(option: str, text: str) -> int:
    from datetime import UTC, datetime

    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r} is not a day; write 2018-07-25") from None


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _report(summary: dict[str, Any], as_json: bool) -> None:
    """Data to stdout: one line of JSON, or one line for each value."""
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print(f"{name:16} {value if isinstance(value, str) else json.dumps(value)}")
