"""Whether what is live still lives in the world that it learned from: the step `drift`, and `riskflow drift`.

Three questions to the events that a bundle has scored lately:

- inputs and score: population stability index and share of unknown values against the bundle's profile;
- quality as it should be by the scores themselves, long before labels are there (batch/quality.py);
- quality as labels say, of events older than the maturity, week by week, against what the bundle promised when judged.
  Silence means genuine only as long as labels come: what happened too late for the newest one is not measured.

What is past its threshold (section `watch` of pipeline.yaml) and is not noise is a *finding*: batch/findings.py. Every
look of the step is kept as JSON in `<home>/watch/<use case>`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from batch import quality
from batch.files import write_text
from batch.findings import (
    INPUTS,
    LABELS,
    MISSING,
    Feature,
    Finding,
    chance_of_each,
    decayed,
    drifted,
    features_of,
    silent,
)
from batch.let_through import FEWEST
from batch.past import ACTION, BUNDLE, archived_rows, known_of
from batch.past import SCORE as LIVE_SCORE
from batch.pipeline_watch import Watch
from batch.profile import independent
from batch.publish import champion_bundle
from batch.run import Run, Summary
from batch.snapshots import counted, read_snapshots
from batch.storm import Storm
from batch.training_set import AS_LABELLED, SAMPLED, newest_label_ms, sends_labels
from batch.truth import mature_before_ms
from riskflow.bundle import Bundle
from riskflow.columns import F8, Columns, take
from riskflow.drift import SCORE, Reference, Table, count, places
from riskflow.errors import NotReady
from riskflow.evaluate import KIND, TIME
from riskflow.keys import load_public_keys
from riskflow.policy import DECLINE
from riskflow.scoring import TextCodes, model_matrix

FOLDER, STATE = "watch", "storm.json"
AT_ONCE = 65_536
NAMED = 5  # findings that an alert's sentence names
ROWS, SNAPSHOTS = "rows", "snapshots"
RETRAIN, ALERT = "retrain", "alert"


@dataclass(frozen=True)
class Look:
    """What was found in one look at a bundle."""

    usecase: str
    bundle: int
    content_hash: str
    at_ms: int
    source: str
    from_ms: int | None
    to_ms: int | None
    events: int
    features: list[Feature] = field(default_factory=list)
    promised: dict[str, Any] = field(default_factory=dict)
    passed: dict[str, Any] | None = None  # promised of what it does not decline, where that alone is measured
    estimated: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None
    newest_label_ms: int | None = None  # what happened too late for it is not measured
    unheard: float = 0.0  # frauds among events since then that had time to be told, by their scores
    weeks: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    says: str = ""  # why nothing is said

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# ---- the step --------------------------------------------------------------------------------------------------------


def drift_step(run: Run, now_ms: int | None = None) -> Summary:
    """Looks at the champion; alerts and asks for a retraining where that is due. Returns what a DAG needs to know."""
    now_ms = int(time.time() * 1000) if now_ms is None else now_ms
    champion = champion_bundle(run.registry(), load_public_keys(run.conf.keys_folder))
    if champion is None:
        return {"drifted": False, "retrain": False, "alerted": False, "says": "there is no champion"}
    done = act(run, look(run, champion, now_ms=now_ms), now_ms)
    _refresh_card(run, champion)
    return done


def _refresh_card(run: Run, champion: Bundle) -> None:
    from batch.card.page import refresh  # which reads what is kept here

    refresh(run, champion)


def act(run: Run, found: Look, now_ms: int) -> Summary:
    """Keeps a look, and raises what is due: one alert for all its findings, one request for a retraining."""
    path, moved = keep(run, found), any(f.what != LABELS for f in found.findings)
    out: Summary = {
        "drifted": moved, "retrain": False, "alerted": False, "bundle": found.bundle,
        "events": found.events, "findings": [f.sentence() for f in found.findings], "says": found.says,
        "file": str(path),
    }  # fmt: skip
    if not found.findings:
        return out
    watch, storm = run.pipeline.file.watch, Storm(folder(run) / STATE)
    if moved and watch.retrain:  # that labels are silent is nothing to learn from
        out["retrain"] = storm.allows(RETRAIN, run.name, now_ms, watch.retrain_gap_ms, watch.retrains_per_day)
    if storm.allows(ALERT, run.name, now_ms, watch.alert_gap_ms, watch.alerts_per_day):
        out["alerted"] = _alert(run, found, bool(out["retrain"]))
        if not out["alerted"]:
            storm.forget(ALERT, run.name)  # the next look says it again
    return out


def asked_ms(run: Run) -> list[int]:
    """When looks have asked for a retraining."""
    return Storm(folder(run) / STATE).raised_ms(RETRAIN)


def _alert(run: Run, found: Look, retrain: bool) -> bool:
    """Whether it reached anybody."""
    from batch.alerts import alert, got_out

    more = f" and {len(found.findings) - NAMED} more" if len(found.findings) > NAMED else ""
    said = "; ".join(f.sentence() for f in found.findings[:NAMED])
    asked = ". A retraining is asked for" if retrain else ""
    text = f"bundle {found.bundle} of {run.plan.name}: {said}{more}{asked}"
    about = {"bundle": found.bundle, "events": found.events, "findings": [asdict(f) for f in found.findings]}
    return got_out(alert(run.conf, run.pipeline, run.plan.name, _kind(found), text, {**about, "retrain": retrain}))


def _kind(found: Look) -> str:
    """By the weightiest of the findings."""
    from batch.alerts import DECAY, DRIFT, NO_LABELS

    what = {finding.what for finding in found.findings}
    if what & {INPUTS, MISSING}:
        return DRIFT
    return NO_LABELS if what == {LABELS} else DECAY


# ---- looking ---------------------------------------------------------------------------------------------------------


def look(
    run: Run,
    bundle: Bundle,
    *,
    source: str | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    now_ms: int = 0,
) -> Look:
    """One look at what a bundle has scored; without a span, at its newest events, as long as the window is.

    Raises NotReady where nothing was archived, or the topic of snapshots is missing.
    """
    source = source or run.pipeline.file.watch.source
    blank = Look(run.plan.name, bundle.version, bundle.content_hash, now_ms, source, from_ms, to_ms, 0)
    blank = replace(blank, promised=promised(bundle.metrics))
    reference = Reference.of(bundle.profile, int(bundle.data.get("rows", 0)))
    if not len(reference):
        return replace(blank, says=f"bundle {bundle.version} has no profile: it was made without training data")
    if source == SNAPSHOTS:
        return _of_snapshots(run, bundle, reference, blank)
    return _of_rows(run, bundle, reference, blank)


def promised(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle showed when it was judged, on rows that it had not learned from."""
    sizes = ("validation_rows", "validation_frauds", "validation_frauds_seen")
    names = ("ap", "precision", "recall", "alerts_per_day", *sizes)
    return {name: metrics[name] for name in names if metrics.get(name) is not None}


def _of_snapshots(run: Run, bundle: Bundle, reference: Reference, blank: Look) -> Look:
    snapshots = read_snapshots(run.conf, run.names)
    newest = max((s.to_ms for s in snapshots if s.hash == bundle.content_hash), default=0)
    from_ms = blank.from_ms if blank.from_ms is not None else newest - run.pipeline.file.watch.window_ms
    whole = counted(snapshots, bundle.content_hash, from_ms, blank.to_ms)
    if whole is None:
        return replace(blank, says=f"no worker has counted anything of bundle {bundle.version} in that time")
    found = replace(blank, from_ms=whole.from_ms, to_ms=whole.to_ms, events=whole.events)
    table = reference.table(whole.counts)
    sizes = np.minimum(table.sum(axis=1), reference.independent)  # snapshots do not know whose events they were
    return _judged(run.pipeline.file.watch, found, reference, table, sizes)


def _of_rows(run: Run, bundle: Bundle, reference: Reference, blank: Look) -> Look:
    whole = archived_rows(run, [*run.plan.entities, *(name for name in reference.names if name != SCORE)])
    if not len(np.asarray(whole[TIME])):
        raise NotReady(f"the lake {run.conf.lake_folder} holds no rows. Run `riskflow archive {run.plan.name}`")
    at_ms = np.asarray(whole[TIME])
    mine = (np.asarray(whole[KIND]) == 0) & (np.asarray(whole[BUNDLE]) == bundle.version)
    mine &= ~np.isnan(np.asarray(whole[LIVE_SCORE]))
    if not mine.any():
        return replace(blank, says=f"no archived event was scored by bundle {bundle.version}")
    window_ms, newest = run.pipeline.file.watch.window_ms, int(at_ms[mine].max())
    from_ms = newest - window_ms + 1 if blank.from_ms is None else blank.from_ms
    to_ms = newest + 1 if blank.to_ms is None else blank.to_ms
    rows = np.flatnonzero(mine & (at_ms >= from_ms) & (at_ms < to_ms))
    found = replace(blank, from_ms=from_ms, to_ms=to_ms, events=len(rows))
    if not len(rows):
        return replace(found, says="no event of that time was scored by it")
    score = np.asarray(whole[LIVE_SCORE])
    expected = quality.estimated(score[rows], bundle.policy).to_json()
    measured = _measured(run, whole, np.flatnonzero(mine), bundle)
    found = replace(found, estimated=expected, **measured)
    columns = take(whole, rows)
    sizes = independent(run.plan, columns, reference.names)
    table = table_of(reference, bundle, columns)
    return _judged(run.pipeline.file.watch, found, reference, table, np.array([sizes[n] for n in reference.names]))


def _judged(watch: Watch, found: Look, reference: Reference, table: Table, sizes: F8) -> Look:
    chance = chance_of_each(watch, reference)
    features = features_of(reference, table, sizes, chance)
    found = replace(found, features=features)
    if found.events < watch.fewest_events:
        return replace(found, says=f"{found.events} events are too few to tell: {watch.fewest_events} are wanted")
    quality_gone = decayed(watch, found.promised, found.estimated, found.measured, chance, found.passed)
    unheard = silent(found.newest_label_ms, found.unheard, chance)
    return replace(found, findings=[*drifted(watch, features), *quality_gone, *unheard])


def table_of(reference: Reference, bundle: Bundle, columns: Columns) -> Table:
    """Counts of these rows, as the stream counts them: from values cast as models see them."""
    names = [name for name in reference.names if name != SCORE]
    codes = {name: TextCodes(words) for name, words in bundle.dictionaries.items()}
    values: dict[str, Any] = {n: codes[n](columns[n]) if n in codes else columns[n] for n in names}
    score, where, table = np.asarray(columns[LIVE_SCORE]), places(reference, [("all", names)]), reference.table()
    for first in range(0, len(score), AT_ONCE):
        part = {name: column[first : first + AT_ONCE] for name, column in values.items()}
        now = score[first : first + AT_ONCE]
        matrix = model_matrix(names, part, len(now))
        count(where, {"all": matrix}, now, np.arange(len(now)), table)
    return table


def _measured(run: Run, whole: Columns, rows: Any, bundle: Bundle) -> dict[str, Any]:
    """Measured quality of the newest of these rows whose truth is known, and of every week; of those that it does not
    decline alone, where too few of the others are known. They were its best, so the rest is worse by itself."""
    if not sends_labels(run.plan):
        return {}
    at_ms, score, found = np.asarray(whole[TIME])[rows], np.asarray(whole[LIVE_SCORE])[rows], known_of(run, whole, rows)
    newest_label = newest_label_ms(run.plan, whole)
    silence = {"newest_label_ms": newest_label, "unheard": _unheard(run, whole, newest_label or 0)}
    kept, passed = found.known & (at_ms < mature_before_ms(run, newest_label or 0)), None
    if _declines_unseen(run, bundle, at_ms[kept], score[kept], found.weight[kept]):
        kept, passed = kept & (score < bundle.policy["decline"]), promised(bundle.metrics.get("passed", {}))
    if not kept.any():
        return silence
    at_ms, score, fraud, weight = at_ms[kept], score[kept], found.fraud[kept], found.weight[kept]
    newest = at_ms > at_ms.max() - run.pipeline.file.watch.window_ms
    return {
        **silence,
        "passed": passed,
        "measured": quality.quality(score[newest], fraud[newest], bundle.policy, weight[newest]).to_json(),
        "weeks": quality.by_week(score, fraud, at_ms, bundle.policy, weight),
    }


def _unheard(run: Run, whole: Columns, newest_label_ms: int) -> float:
    """How many frauds nobody has spoken of, by the scores of whoever decided: of events since the newest label that had
    time to get theirs, and were not declined where that ends in silence."""
    file, at_ms, score = run.pipeline.file, np.asarray(whole[TIME]), np.asarray(whole[LIVE_SCORE])
    if file.review.learn == SAMPLED:  # nobody is asked about the others
        return 0.0
    due = (np.asarray(whole[KIND]) == 0) & (at_ms > newest_label_ms) & (at_ms < mature_before_ms(run, int(at_ms.max())))
    if file.declined != AS_LABELLED:
        due &= np.asarray(whole[ACTION]) != DECLINE
    return float(np.nansum(score[due]))


def _declines_unseen(run: Run, bundle: Bundle, at_ms: Any, score: F8, weight: F8) -> bool:
    """Whether what the bundle's score declines is unknown, but for too few that were let through within the window.

    Of rows whose truth is known.
    """
    threshold, file = bundle.policy["decline"], run.pipeline.file
    if threshold is None or file.declined == AS_LABELLED or file.review.learn == SAMPLED or not len(at_ms):
        return False
    newest = at_ms > at_ms.max() - file.watch.window_ms
    return int((newest & (score >= threshold) & (weight > 1)).sum()) < FEWEST


# ---- history ---------------------------------------------------------------------------------------------------------


def folder(run: Run) -> Path:
    return run.conf.home / FOLDER / run.plan.name


def keep(run: Run, found: Look) -> Path:
    """Writes a look."""
    stamp = datetime.fromtimestamp(found.at_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    path = folder(run) / f"{stamp}-{found.bundle}.json"
    write_text(path, json.dumps(found.to_json(), indent=1) + "\n")
    return path


def kept(run: Run, content_hash: str | None = None) -> list[Mapping[str, Any]]:
    """Every look, or those at one bundle; the newest last."""
    found = []
    for path in sorted(folder(run).glob("*Z-*.json")):
        with suppress(ValueError):
            found.append(json.loads(path.read_text()))
    return [one for one in found if content_hash in (None, one["content_hash"])]
