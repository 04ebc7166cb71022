"""Holds data against the ranges that `checks` in pipeline.yaml accepts, before anything expensive begins.

Each result is a Gate: name, what was found, what is accepted. A step that runs them writes all of them to checks.json.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from batch import lake
from batch.gates.base import Gate, bounds_in_words
from batch.metrics import days
from batch.pipeline_checks import Checks, FieldCheck, Range
from batch.profile import Entry, entry_of, psi_of
from batch.training_set import TrainingSet, newest_label_ms
from batch.weights import part
from riskflow.columns import F8, Columns, Text
from riskflow.declare import CATEGORY, FLAG, NUMBER, TEXT
from riskflow.evaluate import ID, TIME
from riskflow.names import Names
from riskflow.plan import Plan

RESULTS = "checks.json"
FIRST = "there is no earlier training set"
VALUES, KNOWN = "values", "known"  # of a field, each with a profile


def check_amount(data: TrainingSet, checks: Checks) -> list[Gate]:
    """Whether there is enough to learn from, with labels as usual."""
    return [
        _ranged("rows", len(data), checks.rows),
        _ranged("frauds", data.frauds, checks.frauds),
        _ranged("label_rate", round(data.rate, 6), checks.label_rate),
    ]


def check_labels_come(plan: Plan, columns: Columns, data: TrainingSet, checks: Checks) -> Gate:
    """Whether labels still come: else the newest frauds, of which nobody has spoken, would be learned as genuine.

    columns: rows of all feeds.
    """
    newest_ms = newest_label_ms(plan, columns)
    heard = data.at_ms <= (newest_ms or 0)
    since, rate = int((~heard).sum()), float(data.fraud[heard].mean()) if heard.any() else 0.0
    evidence = {"newest_label_ms": newest_ms, "events_since": since, "usual_rate": rate}
    found = round(rate * since, 2)
    return Gate(
        "unheard", checks.unheard.holds(found), found, f"{checks.unheard.words} since the newest label", evidence
    )


def check_fields(plan: Plan, data: TrainingSet, checks: Checks) -> list[Gate]:
    """Share missing and range of each field of events that is there."""
    out = []
    for name, kind in plan.scored.types.items():
        if name not in data.columns or not len(data):
            continue
        column, wanted = data.columns[name], checks.fields.get(name, FieldCheck())
        if wanted.missing is not None or not kind.optional:
            most = checks.missing if wanted.missing is None else Range(most=wanted.missing)
            out.append(_ranged(f"missing {name}", round(missing_share(column, data.weight), 6), most))
        if (wanted.least, wanted.most) != (None, None):
            out.append(_inside(name, column, wanted, data.weight))
    return out


def check_inputs(data: TrainingSet, checks: Checks, names: list[str]) -> Gate:
    """The input of a model that is missing most often."""
    shares = {name: missing_share(data.columns[name], data.weight) for name in names}
    worst = max(shares, key=lambda name: shares[name], default="no input")
    share = shares.get(worst, 0.0)
    most = dict(sorted(shares.items(), key=lambda item: -item[1])[:10])
    return Gate("missing", checks.missing.holds(share), f"{worst} {share:.4f}", checks.missing.words, most)


def check_against_last(plan: Plan, data: TrainingSet, checks: Checks, last: Mapping[str, Any] | None) -> list[Gate]:
    """Events a day and the shape of each field beside the last training set (its data.json)."""
    if last is None or not len(data):
        return [Gate(name, True, FIRST, getattr(checks, name).words) for name in ("volume", "drift")]
    usual = last.get("events", last["rows"]) / days(np.array([last["from_ms"], last["to_ms"]]))
    now = data.events / days(data.at_ms)
    ratio, evidence = now / usual, {"events_a_day": now, "last_events_a_day": usual, "last_run": last["run"]}
    wanted = f"{checks.volume.words} times the last training set's events a day"
    out = [Gate("volume", checks.volume.holds(ratio), round(ratio, 4), wanted, evidence)]
    for name, then in last.get("profile", {}).items():
        if name in data.columns and VALUES in then:
            own = checks.fields.get(name, FieldCheck()).drift
            most = checks.drift if own is None else Range(most=own)
            moved = {what: psi_of(then[what], c, data.weight) for what, c in _aspects(data.columns[name]).items()}
            found = float(np.nanmax([*moved.values()]))  # nothing known of its values: the other one tells
            out.append(Gate(f"drift {name}", most.holds(found), round(found, 4), f"PSI {most.words}", moved))
    return out


def _aspects(column: Any) -> dict[str, Any]:
    """What may drift of a field: its values, where they are known, and whether they are."""
    return {VALUES: column, KNOWN: (~_missing(column)).astype(np.float64)}


def check_schema(plan: Plan, names: Names, folder: Path) -> Gate:
    """Every entity and field of events in the newest archived rows of each partition, with the type it declares.

    A field that events may lack is looked for in all partitions together: one that was declared since is not in the
    rows of a partition to which nobody has sent anything meanwhile.
    """
    wanted = "every declared field, with its type"
    newest = {part.partition: part.path for part in lake.parts(folder, names.rows)}
    wrong: dict[str, str] = {}
    schemas = [pl.read_parquet_schema(path) for path in newest.values()]
    somewhere = {name for schema in schemas for name in schema}
    may_lack = {name for name, kind in plan.scored.types.items() if kind.optional and name in somewhere}
    for schema in schemas:
        if ID in schema:  # else it holds nothing but what could not be read
            wrong |= _mismatches(plan, schema, may_lack)
    found = "; ".join(f"{name} {text}" for name, text in wrong.items())
    return Gate("schema", not wrong, found or f"{len(newest)} partitions as declared", wanted)


def profiles(plan: Plan, data: TrainingSet) -> dict[str, dict[str, Entry]]:
    """What each field of events looks like, for the next training to be held against; texts have no bins."""
    kinds = {n: k.kind for n, k in plan.scored.types.items() if n in data.columns and k.kind != TEXT}
    return {
        name: {
            what: entry_of(kind if what == VALUES else NUMBER, column, data.weight)
            for what, column in _aspects(data.columns[name]).items()
        }
        for name, kind in kinds.items()
    }


def write_results(results: list[Gate], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = [{**vars(r)} for r in results]
    path.write_text(json.dumps({"passed": all(r.passed for r in results), "checks": about}, indent=2) + "\n")


def missing_share(column: Any, weight: F8 | None = None) -> float:
    """Of the events, those whose value is not known; 1 where there are none. weight: how many each row stands for."""
    return float(np.average(_missing(column), weights=weight)) if len(column) else 1.0


def _missing(column: Any) -> Any:
    if isinstance(column, Text):
        return column.missing()
    return column < 0 if column.dtype == np.int32 else np.isnan(column)


def _ranged(name: str, found: float, accepted: Range) -> Gate:
    return Gate(name, accepted.holds(found), found, accepted.words)


def _inside(name: str, column: Any, wanted: FieldCheck, weight: F8 | None) -> Gate:
    there = ~np.isnan(column)
    known = column[there]
    low, high = (-np.inf if wanted.least is None else wanted.least), (np.inf if wanted.most is None else wanted.most)
    outside = (known < low) | (known > high)
    share = float(np.average(outside, weights=part(weight, there))) if len(known) else 0.0
    found = f"{share:.4f} outside" + (f", values {known.min():g} to {known.max():g}" if len(known) else "")
    accepted = f"at most {wanted.outside:g} of values outside of {bounds_in_words(wanted.least, wanted.most)}"
    return Gate(f"range {name}", share <= wanted.outside, found, accepted)


def _mismatches(plan: Plan, schema: Mapping[str, Any], may_lack: Collection[str]) -> dict[str, str]:
    kinds = {TIME: NUMBER, ID: TEXT, **dict.fromkeys(plan.entities, TEXT)}
    kinds |= {name: kind.kind for name, kind in plan.scored.types.items()}
    fits = {
        NUMBER: lambda t: t.is_numeric(), FLAG: lambda t: t.is_numeric() or t == pl.Boolean,
        CATEGORY: lambda t: t.is_integer(), TEXT: lambda t: t in (pl.String, pl.Binary),
    }  # fmt: skip
    out = {}
    for name, kind in kinds.items():
        if name not in schema:
            if name not in may_lack:
                out[name] = "is not there"
        elif schema[name] != pl.Null and not fits[kind](schema[name]):
            out[name] = f"is {schema[name]}, declared as {kind}"
    return out
