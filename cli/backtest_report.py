"""How a backtest's summary is shown to a person."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

ROWS = (
    ("alerts a day", "alerts_per_day"), ("reviews a day", "reviews_per_day"), ("declines a day", "declines_per_day"),
    ("frauds caught", "caught"), ("frauds missed", "missed"), ("precision of alerts", "flagged.precision"),
    ("recall of alerts", "flagged.recall"), ("precision of reviews", "review.precision"),
    ("precision of declines", "decline.precision"), ("recall of declines", "decline.recall"),
    ("cost", "cost.total"),
)  # fmt: skip


SIDES = ("forecast", "shadow", "shown")


def report(summary: Mapping[str, Any]) -> None:
    """Prints it."""
    _head(summary)
    _figures(summary)
    _flips(summary)
    for name, groups in summary["by"].items():
        _groups(name, groups)


def report_errors(found: Mapping[str, Any]) -> None:
    """Prints what was foretold of a bundle beside what it has shown."""
    print(f"bundle {found['bundle']} of {found['usecase']}")
    for side in [side for side in SIDES if found[side]]:
        span = " to ".join(_day(found[side][name]) for name in ("from_ms", "to_ms"))
        print(f"{side:10} {span}: {found[side]['events']:,} events")
    print(f"\n{'':24}" + "".join(f"{side:>12}" for side in (*SIDES, "error")))
    for name, one in found["figures"].items():
        values = "".join(f"{_number(one[side]):>12}" for side in (*SIDES, "error"))
        print(f"{name.replace('flagged.', '').replace('_', ' '):24}{values}")
    print(f"\nkept in {found['kept']}")


def _head(summary: Mapping[str, Any]) -> None:
    span = " to ".join(_day(summary[name]) for name in ("from_ms", "to_ms"))
    name = f"bundle {summary['bundle']}" if summary["published"] else f"bundle {summary['content_hash'][:12]}"
    thresholds = ", ".join(
        f"{what} from {summary[what]}" for what in ("review", "decline") if summary[what] is not None
    )
    print(f"{name} of {summary['usecase']}, {span}: {summary['events']:,} events in {summary['seconds']} s")
    print(f"policy of {summary['policy']}: {thresholds or 'rules only'}; features {summary['features']}")
    own = summary["own"]
    if own and own["events"]:
        said = "all the same" if not own["flips"] else f"{own['flips']:,} COME OUT DIFFERENTLY: run riskflow parity"
        print(f"{own['events']:,} of them it had decided itself: {said}")


def _figures(summary: Mapping[str, Any]) -> None:
    live = summary["beside_live"]
    sides = {"backtest": summary["figures"]}
    if live:
        whole = summary["decided_live"] == summary["events"]
        sides = live if whole else {**sides, "where live": live["backtest"], "live": live["live"]}
    figures = summary["figures"]
    print(f"\n{figures['frauds']:,} frauds; of {figures['unknown']:,} events nobody knows: too young, or declined\n")
    print(f"{'':24}" + "".join(f"{side:>14}" for side in sides))
    for words, name in ROWS:
        values = [_figure(side, name) for side in sides.values()]
        if any(value is not None for value in values):
            print(f"{words:24}" + "".join(f"{_number(value):>14}" for value in values))


def _flips(summary: Mapping[str, Any]) -> None:
    if not summary["decided_live"]:
        print("\nnothing of it was decided live, so no decision flips")
        return
    print(f"\n{summary['flipped']:,} of {summary['decided_live']:,} decisions flip ({summary['flipped_share']:.2%})")
    for name, counts in summary["flips"].items():
        truths = ", ".join(f"{counts[t]:,} {t}" for t in ("fraud", "genuine", "unknown") if counts[t])
        print(f"  {name:20} {counts['events']:>9,}  ({truths})")
        for example in [e for e in summary["examples"] if e["flip"] == name][:2]:
            scores = " -> ".join("none" if s is None else f"{s:g}" for s in (example["live_score"], example["score"]))
            print(f"      {example['event_id']}  {_day(example['at_ms'])}  score {scores}  {example['truth']}")


def _groups(name: str, groups: Mapping[str, Any]) -> None:
    print(f"\n{name:16}{'events':>11}{'alerts/day':>12}{'caught':>9}{'missed':>9}{'precision':>11}{'flipped':>9}")
    for group, figures in groups.items():
        precision = _number(figures["flagged"]["precision"])
        print(
            f"{group:16}{figures['events']:>11,}{figures['alerts_per_day']:>12.1f}{figures['caught']:>9,}"
            f"{figures['missed']:>9,}{precision:>11}{figures['flipped']:>9,}"
        )


def _figure(figures: Mapping[str, Any], name: str) -> Any:
    found: Any = figures
    for part in name.split("."):
        found = found[part] if found is not None else None
    return found


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}" if value < 10 else f"{value:,.1f}"


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
