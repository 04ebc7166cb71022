"""Holds data against the ranges that `checks` in pipeline.yaml accepts, before anything expensive begins.

Each result is a Gate: name, what was found, what is accepted. A step that runs them writes all of them to checks.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from batch import lake
from batch.field_profile import Profile, profile_of, psi
from batch.gates.base import Gate, bounds_in_words
from batch.metrics import days
from batch.pipeline_checks import Checks, FieldCheck, Range
from batch.training_set import TrainingSet
from riskflow.columns import Text
from riskflow.declare import CATEGORY, FLAG, NUMBER, TEXT
from riskflow.evaluate import ID, TIME
from riskflow.names import Names
from riskflow.plan import Plan

RESULTS = "checks.json"
FIRST = "there is no earlier training set"


def check_amount(data: TrainingSet, checks: Checks) -> list[Gate]:
    """Whether there is enough to learn from, with labels as usual."""
    return [
        _ranged("rows", len(data), checks.rows),
        _ranged("frauds", data.frauds, checks.frauds),
        _ranged("label_rate", round(data.rate, 6), checks.label_rate),
    ]


def check_fields(plan: Plan, data: TrainingSet, checks: Checks) -> list[Gate]:
    """Share missing and range of each field of events that is there."""
    out = []
    for name, kind in plan.scored.types.items():
        if name not in data.columns or not len(data):
            continue
        column, wanted = data.columns[name], checks.fields.get(name, FieldCheck())
        if wanted.missing is not None or not kind.optional:
            most = checks.missing if wanted.missing is None else Range(most=wanted.missing)
            out.append(_ranged(f"missing {name}", round(missing_share(column), 6), most))
        if (wanted.least, wanted.most) != (None, None):
            out.append(_inside(name, column, wanted))
    return out


def check_inputs(data: TrainingSet, checks: Checks, names: list[str]) -> Gate:
    """The input of a model that is missing most often."""
    shares = {name: missing_share(data.columns[name]) for name in names}
    worst = max(shares, key=lambda name: shares[name], default="no input")
    share = shares.get(worst, 0.0)
    most = dict(sorted(shares.items(), key=lambda item: -item[1])[:10])
    return Gate("missing", checks.missing.holds(share), f"{worst} {share:.4f}", checks.missing.words, most)


def check_against_last(plan: Plan, data: TrainingSet, checks: Checks, last: Mapping[str, Any] | None) -> list[Gate]:
    """Events a day and the shape of each field beside the last training set (its data.json)."""
    if last is None or not len(data):
        return [Gate(name, True, FIRST, getattr(checks, name).words) for name in ("volume", "drift")]
    usual = last["rows"] / days(np.array([last["from_ms"], last["to_ms"]]))
    ratio = len(data) / days(data.at_ms) / usual
    evidence = {"events_a_day": len(data) / days(data.at_ms), "last_events_a_day": usual, "last_run": last["run"]}
    wanted = f"{checks.volume.words} times the last training set's events a day"
    out = [Gate("volume", checks.volume.holds(ratio), round(ratio, 4), wanted, evidence)]
    for name, profile in last.get("profile", {}).items():
        if name in data.columns:
            own = checks.fields.get(name, FieldCheck()).drift
            most = checks.drift if own is None else Range(most=own)
            found = psi(profile, data.columns[name])
            out.append(Gate(f"drift {name}", most.holds(found), round(found, 4), f"PSI {most.words}"))
    return out


def check_schema(plan: Plan, names: Names, folder: Path) -> Gate:
    """Every entity and field of events in the newest archived rows of each partition, with the type it declares."""
    wanted = "every declared field, with its type"
    newest = {part.partition: part.path for part in lake.parts(folder, names.rows)}
    wrong: dict[str, str] = {}
    for path in newest.values():
        schema = pl.read_parquet_schema(path)
        if ID in schema:  # else it holds nothing but what could not be read
            wrong |= _mismatches(plan, schema)
    found = "; ".join(f"{name} {text}" for name, text in wrong.items())
    return Gate("schema", not wrong, found or f"{len(newest)} partitions as declared", wanted)


def profiles(plan: Plan, data: TrainingSet) -> dict[str, Profile]:
    """What each field of events looks like, for the next training to be held against."""
    found = {n: profile_of(k.kind, data.columns[n]) for n, k in plan.scored.types.items() if n in data.columns}
    return {name: profile for name, profile in found.items() if profile is not None}


def write_results(results: list[Gate], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = [{**vars(r)} for r in results]
    path.write_text(json.dumps({"passed": all(r.passed for r in results), "checks": about}, indent=2) + "\n")


def missing_share(column: Any) -> float:
    """Of a column's rows, those whose value is not known; 1 where there are no rows."""
    if not len(column):
        return 1.0
    if isinstance(column, Text):
        return float(column.missing().mean())
    return float((column < 0).mean() if column.dtype == np.int32 else np.isnan(column).mean())


def _ranged(name: str, found: float, accepted: Range) -> Gate:
    return Gate(name, accepted.holds(found), found, accepted.words)


def _inside(name: str, column: Any, wanted: FieldCheck) -> Gate:
    known = column[~np.isnan(column)]
    low, high = (-np.inf if wanted.least is None else wanted.least), (np.inf if wanted.most is None else wanted.most)
    share = float(((known < low) | (known > high)).mean()) if len(known) else 0.0
    found = f"{share:.4f} outside" + (f", values {known.min():g} to {known.max():g}" if len(known) else "")
    accepted = f"at most {wanted.outside:g} of values outside of {bounds_in_words(wanted.least, wanted.most)}"
    return Gate(f"range {name}", share <= wanted.outside, found, accepted)


def _mismatches(plan: Plan, schema: Mapping[str, Any]) -> dict[str, str]:
    kinds = {TIME: NUMBER, ID: TEXT, **dict.fromkeys(plan.entities, TEXT)}
    kinds |= {name: kind.kind for name, kind in plan.scored.types.items()}
    fits = {
        NUMBER: lambda t: t.is_numeric(), FLAG: lambda t: t.is_numeric() or t == pl.Boolean,
        CATEGORY: lambda t: t.is_integer(), TEXT: lambda t: t in (pl.String, pl.Binary),
    }  # fmt: skip
    out = {}
    for name, kind in kinds.items():
        if name not in schema:
            out[name] = "is not there"
        elif schema[name] != pl.Null and not fits[kind](schema[name]):
            out[name] = f"is {schema[name]}, declared as {kind}"
    return out
