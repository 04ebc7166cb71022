"""`riskflow score` and `riskflow backtest`: a bundle over the past. Nothing that is live changes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Columns, Delay, Json, Labels, UseCase

if TYPE_CHECKING:
    from batch.backtest import Costs
    from riskflow.policy import Policy

BundleName = Annotated[str, typer.Option("--bundle", help="a version, an alias such as champion, or a file")]
From = Annotated[str, typer.Option("--from", help="events from this time on, RFC 3339 or a day, UTC")]
To = Annotated[str, typer.Option("--to", help="events before this time")]
Fold = Annotated[bool, typer.Option("--fold", help="work features out again even where the archive has them")]
Events = Annotated[Path | None, typer.Option(help="a history in Parquet or CSV instead of the archive")]


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    app.command()(score)
    app.command()(backtest)


def score(
    usecase: UseCase,
    bundle: BundleName = "champion",
    from_: From = "",
    to: To = "",
    out: Annotated[Path | None, typer.Option(help="default: scores-<use case>-<version>.parquet")] = None,
    reasons: Annotated[bool, typer.Option("--reasons", help="say why, for what is not approved")] = False,
    fold: Fold = False,
    events: Events = None,
    labels: Labels = None,
    columns: Columns = "",
    delay: Delay = "7d",
    as_json: Json = False,
) -> None:
    """Score archived events with a bundle, to Parquet: the bits that the stream gives.

    riskflow score card_fraud --bundle 7 --from 2026-03-01 --out scores.parquet
    """
    from batch.score_batch import past_for, score_columns, score_table
    from cli.bar import bar
    from cli.common import span_ms, writable
    from riskflow.scoring import Scorer

    began, (first, end) = time.monotonic(), span_ms(from_, to)
    run, shelf = context(usecase)
    chosen = shelf.bundle(bundle)
    out = writable(out or Path(f"scores-{usecase}-{chosen.version}.parquet"))
    with bar("reading the past") as tell:
        tables = _tables(events, labels, columns, delay)
        found = past_for(run, chosen, shelf.needs, tell=tell, from_ms=first, to_ms=end, fold=fold, tables=tables)
        scores = score_columns(Scorer(run.plan, chosen), found.columns, reasons=reasons, tell=tell)
    table = score_table(chosen, found.columns, scores, reasons=reasons)
    table.write_parquet(out, compression="zstd")
    seconds = round(time.monotonic() - began, 1)
    counts = dict(table["action"].value_counts().iter_rows())
    if as_json:
        about = {"events": len(table), "bundle": chosen.version, "out": str(out), "features": found.says}
        print(json.dumps({**about, "actions": counts, "seconds": seconds}))
        return
    print(f"{len(table):,} events scored with bundle {chosen.version} in {seconds} s; features {found.says}")
    print(", ".join(f"{n:,} {action}" for action, n in sorted(counts.items())) + f"; written to {out}")


def backtest(
    usecase: UseCase,
    bundle: BundleName = "champion",
    policy: Annotated[Path | None, typer.Option(help="a policy.yaml to try instead of the bundle's")] = None,
    from_: From = "",
    to: To = "",
    segments: Annotated[str, typer.Option(help="fields to show figures by, as channel,country")] = "",
    cost_missed: Annotated[str, typer.Option(help="of a missed fraud: a number, or the field that is lost")] = "",
    cost_alert: Annotated[float | None, typer.Option(min=0, help="of one review")] = None,
    cost_wrong_decline: Annotated[float | None, typer.Option(min=0, help="of declining a genuine event")] = None,
    fold: Fold = False,
    events: Events = None,
    labels: Labels = None,
    columns: Columns = "",
    delay: Delay = "7d",
    errors: Annotated[
        bool, typer.Option("--errors", help="how right the forecast of a live bundle was, figure by figure")
    ] = False,
    as_json: Json = False,
) -> None:
    """What a bundle would have decided, beside what was decided live and what was true.

    riskflow backtest card_fraud --bundle 7 --from 2026-03-01 --segments channel --cost-missed amount --cost-alert 5
    """
    from dataclasses import replace

    from batch.backtest import backtest as run_it
    from batch.forecasts import keep
    from cli.backtest_report import report
    from cli.bar import bar
    from cli.common import span_ms

    began, (first, end) = time.monotonic(), span_ms(from_, to)
    costs = _costs(cost_missed, cost_alert, cost_wrong_decline)
    run, shelf = context(usecase)
    chosen = shelf.bundle(bundle)
    if errors:
        _errors(run, shelf, chosen, as_json)
        return
    with bar("reading the past") as tell:
        found = run_it(
            run, chosen, shelf.needs, policy=_policy(policy, run.plan), tell=tell, costs=costs,
            segments=[s for s in segments.split(",") if s], from_ms=first, to_ms=end, fold=fold,
            tables=_tables(events, labels, columns, delay),
        )  # fmt: skip
    found = replace(found, seconds=time.monotonic() - began)
    path = keep(found, run.conf.lake_folder)
    if as_json:
        print(json.dumps({**found.summary(), "kept": str(path)}))
        return
    report(found.summary())
    print(f"\nkept in {path}")


def _errors(run: Any, shelf: Any, chosen: Any, as_json: bool) -> None:
    from batch.forecast_errors import forecast_error
    from cli.backtest_report import report_errors
    from cli.bar import bar

    with bar("reading the past") as tell:
        found = forecast_error(run, shelf, chosen, tell)
    if as_json:
        print(json.dumps(found))
    else:
        report_errors(found)


def context(usecase: str) -> tuple[Any, Any]:
    from batch.read_only import Shelf
    from batch.run import Run
    from cli.common import load_plan
    from riskflow.settings import settings

    run = Run.of(load_plan(usecase), settings(), "backtest")
    return run, Shelf(run.plan, run.conf)


def _tables(events: Path | None, labels: Path | None, columns: str, delay: str) -> Any:
    """A history in files; None: the archive."""
    from batch.importer import column_map, history
    from riskflow.durations import duration_ms

    if events is None:
        if labels or columns:
            raise typer.BadParameter("--labels and --columns go with --events")
        return None
    found = history(events, column_map(columns), duration_ms(delay), labels)
    return dict(zip(("events", "labels"), found, strict=True))


def _policy(path: Path | None, plan: Any) -> Policy | None:
    from riskflow.policy import Policy

    if path is None:
        return None
    policy = Policy.load(path)
    policy.check(plan)
    return policy


def _costs(missed: str, alert: float | None, wrong_decline: float | None) -> Costs | None:
    """Those of the command line; None: those that the policy declares."""
    from batch.backtest import Costs

    if not missed and alert is None and wrong_decline is None:
        return None
    if not missed or alert is None:
        raise typer.BadParameter("--cost-missed and --cost-alert go together, and --cost-wrong-decline with both")
    try:
        return Costs(float(missed), alert, wrong_decline or 0.0)
    except ValueError:
        return Costs(missed, alert, wrong_decline or 0.0)
