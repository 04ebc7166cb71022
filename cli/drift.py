"""`riskflow drift`: how far what comes in, and what comes out, is from what a bundle learned from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cli.options import Json, UseCase

FEATURES = 15  # lines of the table; --all for the rest


def register(app: typer.Typer) -> None:
    """Adds this group's commands."""
    app.command()(drift)


def drift(
    usecase: UseCase = "card_fraud",
    bundle: Annotated[str, typer.Option(help="a version or an alias")] = "champion",
    from_: Annotated[str, typer.Option("--from", help="events from this time on, RFC 3339 or a day, UTC")] = "",
    to: Annotated[str, typer.Option("--to", help="events before this time")] = "",
    source: Annotated[str, typer.Option(help="rows (archived) or snapshots (what workers counted)")] = "",
    all_: Annotated[bool, typer.Option("--all", help="every input, not only the furthest")] = False,
    as_json: Json = False,
) -> None:
    """Look at inputs, score and quality of what is live; nothing is kept, no alert is raised.

    riskflow drift card_fraud --from 2026-03-01
    """
    from batch.drift import look
    from cli.backtest import context
    from cli.common import span_ms

    if source not in ("", "rows", "snapshots"):
        raise typer.BadParameter(f"--source {source!r}: rows or snapshots")
    first, end = span_ms(from_, to)
    run, shelf = context(usecase)
    found = look(run, shelf.bundle(bundle), source=source or None, from_ms=first, to_ms=end).to_json()
    if as_json:
        print(json.dumps(found))
    else:
        report(found, all_)


def report(found: Mapping[str, Any], every: bool) -> None:
    """Prints a look."""
    span = " to ".join(_day(found[name]) for name in ("from_ms", "to_ms"))
    print(f"bundle {found['bundle']} of {found['usecase']}, {span}: {found['events']:,} events, from {found['source']}")
    if found["says"]:
        print(found["says"])
    _features(found["features"], every)
    _quality(found)
    _weeks(found["weeks"])
    if found["findings"]:
        print("\npast their thresholds:")
        for one in found["findings"]:
            print(f"  {one['what']:10} {one['name']:44} {one['found']:.4f}, wanted {one['wanted']:.4f}")
    elif not found["says"]:
        print("\nnothing is past its threshold")


def _features(features: list[dict[str, Any]], every: bool) -> None:
    if not features:
        return
    worst = sorted(features, key=lambda f: -(f["psi"] or 0.0))
    print(f"\n{'input':52}{'PSI':>9}{'noise to':>10}{'missing':>10}{'at training':>13}")
    for one in worst if every else worst[:FEATURES]:
        numbers = [_number(one[name]) for name in ("psi", "floor")]
        shares = ["-" if one[name] is None else f"{one[name]:.2%}" for name in ("missing", "missing_then")]
        print(f"{one['name']:52}{numbers[0]:>9}{numbers[1]:>10}{shares[0]:>10}{shares[1]:>13}")
    if not every and len(worst) > FEATURES:
        print(f"and {len(worst) - FEATURES} more, all nearer: --all")


def _quality(found: Mapping[str, Any]) -> None:
    sides = {"promised": found["promised"]} if found["promised"] else {}
    sides |= {"estimated": _flat(found["estimated"])} if found["estimated"] else {}
    sides |= {"of passed": found["passed"]} if found["passed"] else {}  # what measured is held against
    sides |= {"measured": _flat(found["measured"])} if found["measured"] else {}
    if not sides:
        return
    print(f"\n{'':26}" + "".join(f"{side:>12}" for side in sides))
    rows = (("average precision", "ap"), ("precision of alerts", "precision"), ("recall of alerts", "recall"))
    for words, name in rows:
        print(f"{words:26}" + "".join(f"{_number(side.get(name)):>12}" for side in sides.values()))


def _weeks(weeks: list[dict[str, Any]]) -> None:
    if not weeks:
        return
    print(f"\n{'week from':14}{'events':>10}{'frauds':>8}{'AP':>9}{'precision':>11}{'recall':>9}")
    for week in weeks:
        flat = _flat(week)
        numbers = "".join(f"{_number(flat.get(name)):>{width}}" for name, width in (("precision", 11), ("recall", 9)))
        print(
            f"{_day(week['from_ms']):14}{week['events']:>10,.0f}{week['frauds']:>8.0f}{_number(week['ap']):>9}{numbers}"
        )


def _flat(quality: Mapping[str, Any]) -> dict[str, Any]:
    review = quality["at"].get("review", {})
    return {"ap": quality["ap"], "precision": review.get("precision"), "recall": review.get("recall")}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _day(at_ms: int | None) -> str:
    return "-" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")
