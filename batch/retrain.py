"""Retraining as steps that hand over files, so that Airflow's tasks and batch/local_chain.py call them one by one.

    archive  ->  labels  ->  check  ->  replay  ->  train (one for each candidate)  ->  judge  ->  publish

    runs/<use case>/<run>/
        checks.json                  what was looked at before     manifest.json   what the frame was made of
        frame.parquet                what is learned from          data.json       which rows these are
        candidates/<name>/           a trained candidate, or why there is none
        bundle.bin                   the best one's, not signed    verdict.json    the evidence, gate by gate
        search/                      what a search tried, if one was asked for: batch/search_history.py
        published.json, or refusal.txt

Every step takes a Run, returns a small summary that is JSON, and may be done again. No clock decides what is learned
from: the span ends where the newest archived row is as old as the maturity.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from batch import checks
from batch.archived import CheckFailed, collected, seen_now, span_set, with_features
from batch.files import write_text
from batch.gates import Gate
from batch.gates.parity import OnnxParity
from batch.history import history_columns
from batch.judge import Judged, judge
from batch.mix_ups import check_ids, mixed_up
from batch.publish import Published, champion_bundle, publish, read_verdict, write_verdict
from batch.replay import replay
from batch.run import Run, Summary
from batch.train import Span, Trained
from batch.train import train as race
from batch.training_set import TrainingSet
from batch.truth import terms_of
from riskflow.bundle import Bundle
from riskflow.columns import Columns, n_rows
from riskflow.errors import RiskflowError
from riskflow.evaluate import Failures
from riskflow.hashkey import read_hash_key
from riskflow.keys import load_private_key, load_public_keys
from riskflow.names import checked
from riskflow.policy import DAY_MS
from riskflow.registry import CHAMPION

NOT_TRAINED = "not_trained.json"  # in a candidate's folder: why its training failed
FRAME, DATA, BUNDLE, PUBLISHED = "frame.parquet", "data.json", "bundle.bin", "published.json"
SEARCH = "search"
MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


# ---- steps -----------------------------------------------------------------------------------------------------------


def archive(run: Run) -> Summary:
    """Brings the lake up to the ends of the logs."""
    from batch.archive import archive as bring

    return bring(run.plan, run.conf).summary()


def check(run: Run) -> Summary:
    """Whether enough was archived, with labels as usual, before anything expensive begins; raises CheckFailed."""
    columns = collected(run)
    data = span_set(run, columns, terms_of(run, columns))
    results = _check_results(run, columns, data)
    _stop_at_failed(run, results)
    about = {"rows": len(data), "frauds": data.frauds, "label_rate": data.rate, "archived_rows": n_rows(columns)}
    return {**about, **mixed_up(results)}


def _stop_at_failed(run: Run, results: list[Gate]) -> None:
    """Writes all results down; raises CheckFailed with those that are not as accepted."""
    checks.write_results(results, run.folder / checks.RESULTS)
    failed = [result.sentence() for result in results if not result.passed]
    if failed:
        raise CheckFailed(f"{run.plan.name}: not fit to learn from. " + "; ".join(failed))


def _check_results(run: Run, columns: Columns, data: TrainingSet) -> list[Gate]:
    wanted = run.pipeline.file.checks
    results = checks.check_amount(data, wanted)
    if wanted.schema:
        results.append(checks.check_schema(run.plan, run.names, run.conf.lake_folder))
        if not results[-1].passed:
            return results  # fields that are something else cannot be looked into
    results.append(checks.check_labels_come(run.plan, columns, data, wanted))
    results += checks.check_fields(run.plan, data, wanted)
    results += check_ids(run.plan, columns, data, wanted)
    return [*results, *checks.check_against_last(run.plan, data, wanted, last_set(run))]


def last_set(run: Run) -> Summary | None:
    """What data.json says of the training set of the newest run that was published; None before the first one."""
    published = sorted(
        run.folder.parent.glob(f"*/{PUBLISHED}"), key=lambda path: (path.stat().st_mtime_ns, path.parent)
    )
    earlier = [path.parent for path in published if path.parent != run.folder and (path.parent / DATA).is_file()]
    return {**json.loads((earlier[-1] / DATA).read_text()), "run": earlier[-1].name} if earlier else None


def replay_frame(run: Run) -> Summary:
    """Works out the features of all archived rows through the kernel, and writes the span that is learned from."""
    from batch import dataset

    seen, failures = seen_now(run), Failures()
    columns = with_features(run, seen=seen, failures=failures)
    terms = terms_of(run, columns)
    data = span_set(run, columns, terms, seen)
    about = _write_frame(run, data, failures)
    dataset.write(dataset.of_lake(run, seen, terms, data), run.folder / MANIFEST)
    return about


def _write_frame(run: Run, data: TrainingSet, failures: Failures) -> Summary:
    if not len(data):
        maturity = f"{run.pipeline.maturity_ms // DAY_MS} d"
        raise CheckFailed(f"{run.plan.name}: no event is older than the maturity ({maturity})")
    data.write(run.folder / FRAME)
    span = {"from_ms": int(data.at_ms[0]), "to_ms": int(data.at_ms[-1])}
    about = {"rows": len(data), "events": data.events, "frauds": data.frauds, **span, "raised": failures.summary()}
    for name, what in failures.summary().items():
        log.warning("%s, run %s: %s %s; it is not known there", run.plan.name, run.name, name, what)
    write_text(run.folder / DATA, json.dumps({**about, "profile": checks.profiles(run.plan, data)}))
    return about


def train(run: Run, candidate: str) -> Summary:
    """Trains one candidate through all layers, out of time and on the whole span.

    One that fails leaves a note of it for the verdict; trained again, the note goes.
    """
    note = run.folder / "candidates" / checked(candidate, "candidate") / NOT_TRAINED
    try:
        data, span = _frame(run)
        given = run.given(run.folder / SEARCH / candidate)
        (trained,) = race(run.plan, data, span, [candidate], given)
    except Exception as error:
        write_text(note, json.dumps(f"{type(error).__name__}: {error}"))
        raise
    note.unlink(missing_ok=True)
    return _written(run, trained)


def train_all(run: Run) -> list[Summary]:
    """Races all candidates and trains the winner on the whole span: what takes least on one machine."""
    data, span = _frame(run)
    shutil.rmtree(run.folder / "candidates", ignore_errors=True)
    try:
        return [_written(run, t) for t in race(run.plan, data, span, run.candidates, run.given(run.folder / SEARCH))]
    except Exception as error:
        return _one_by_one(run, error)


def _one_by_one(run: Run, error: Exception) -> list[Summary]:
    """Each candidate by itself: one that fails is noted, and the others race."""
    trained = []
    for candidate in run.candidates:
        try:
            trained.append(train(run, candidate))
        except Exception as own:
            error = own
    if not trained:
        raise error
    return trained


def judge_run(run: Run, alone: bool = False) -> Summary:
    """Takes the best candidate, makes its bundle and writes the verdict on it, beside the champion.

    alone: without a look at the registry, when nothing is to be published.
    """
    data, span = _frame(run)
    failed = _not_trained(run)
    folders = sorted(f for f in (run.folder / "candidates").glob("*/trained.json") if f.parent.name not in failed)
    raced = sorted((Trained.read(f.parent) for f in folders), key=lambda t: -t.average_precision)
    if not raced:
        raise RiskflowError(f"{run.plan.name}, run {run.name}: no candidate was trained. Train one first")
    raced, unlike = _as_trained(run, raced)
    champion = None if alone else champion_bundle(run.registry(), load_public_keys(run.conf.keys_folder))
    about = {"run": run.name, **_manifest_hash(run)}
    judged = judge(run.plan, run.pipeline, data, span.validation(data), raced, champion, about)
    (run.folder / BUNDLE).unlink(missing_ok=True)
    if judged.bundle is not None:
        (run.folder / BUNDLE).write_bytes(judged.bundle.to_bytes())
    verdict = replace(judged.verdict, not_trained=failed | unlike, raised=_raised(run))
    write_verdict(verdict, run.folder)
    _leave_card(run)
    return verdict.to_json()


def _not_trained(run: Run) -> dict[str, str]:
    """Candidates whose training failed, and why."""
    notes = sorted((run.folder / "candidates").glob(f"*/{NOT_TRAINED}"))
    return {note.parent.name: str(json.loads(note.read_text())) for note in notes}


def _as_trained(run: Run, raced: list[Trained]) -> tuple[list[Trained], dict[str, str]]:
    """Candidates whose ONNX files say what was trained, and of the others by how much they do not.

    Where nobody else could be published all of them race, and the gate refuses the best one.
    """
    most = next((gate.most for gate in run.pipeline.gates if isinstance(gate, OnnxParity)), math.inf)
    alike = [t for t in raced if t.furthest <= most]
    if not any(t.models for t in alike):
        return raced, {}
    why = "its ONNX file differs from what was trained by up to {:.2g}: batch/export.py says what can be exported"
    return alike, {t.candidate: why.format(t.furthest) for t in raced if t.furthest > most}


def _raised(run: Run) -> dict[str, str]:
    """Functions that raised for some rows while the training set was made."""
    path = run.folder / DATA
    return dict(json.loads(path.read_text()).get("raised", {})) if path.is_file() else {}


def publish_run(run: Run, who: str = "retrain", why: str = "", alias: str = CHAMPION) -> Summary:
    """Signs and publishes what was judged; raises GatesFailed with the refusal, which is written too.

    The registry knows what was published: a task that is tried again finds its version, and a candidate that was
    trained again after a publish is another bundle.
    """
    verdict = read_verdict(run.folder)
    path = run.folder / BUNDLE
    bundle = Bundle.from_bytes(path.read_bytes()) if path.is_file() else None
    key = load_private_key(run.conf.keys_folder)
    why = why or f"run {run.name}"
    published = publish(Judged(bundle, verdict), run.registry(), key, who=who, why=why, alias=alias)
    about = _published(published)
    note, text = run.folder / PUBLISHED, json.dumps(about)
    if not note.is_file() or note.read_text() != text:  # its time says which run published last
        write_text(note, text)
    _leave_card(run, published.version)
    return about


def _leave_card(run: Run, version: int | None = None) -> None:
    from batch.card.page import leave_card  # which looks at runs itself

    leave_card(run, version)


def frame_from_tables(run: Run, tables: Mapping[str, pl.DataFrame | None]) -> Summary:
    """Step `replay` for a history in files, where nothing was archived yet: tables by the name of their feed."""
    from batch import dataset

    key = read_hash_key(run.plan, run.conf.keys_folder)
    given = history_columns(run.plan, tables, key)
    replayed = replay(run.plan, given)
    terms = terms_of(run, replayed.columns)
    data = span_set(run, replayed.columns, terms)
    _stop_at_failed(run, check_ids(run.plan, given, data, run.pipeline.file.checks))
    about = _write_frame(run, data, replayed.failures)
    dataset.write(dataset.of_tables(run, tables, terms, data), run.folder / MANIFEST)
    return about


# ---- files -----------------------------------------------------------------------------------------------------------


def _frame(run: Run) -> tuple[TrainingSet, Span]:
    path = run.folder / FRAME
    if not path.is_file():
        raise RiskflowError(f"{run.plan.name}, run {run.name}: there is no {FRAME}. Run the step `replay` first")
    data = TrainingSet.read(path)
    return data, Span.of(data, run.pipeline.validation_ms, run.pipeline.file.folds)


def _written(run: Run, trained: Trained) -> Summary:
    trained.write(run.folder / "candidates" / checked(trained.candidate, "candidate"))
    return {
        "candidate": trained.candidate,
        "average_precision": trained.average_precision,
        "seconds": round(trained.seconds, 1),
    }


def _manifest_hash(run: Run) -> dict[str, str]:
    from batch import dataset

    path = run.folder / MANIFEST
    return {"manifest": dataset.manifest_hash(dataset.read(path))} if path.is_file() else {}


def _published(published: Published) -> Summary:
    return {
        "version": published.version, "hash": published.content_hash, "alias": published.alias,
        "made_of": published.made_of,
    }  # fmt: skip
