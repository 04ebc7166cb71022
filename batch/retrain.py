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
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from batch import checks, lake
from batch.files import write_text
from batch.fold import fold, stage_orders
from batch.gates import Gate
from batch.generations import FILES, Generations, base
from batch.given import Given, given_for
from batch.history import history_columns
from batch.judge import Judged, judge
from batch.lake import Seen, as_columns
from batch.mix_ups import check_ids, mixed_up
from batch.pipeline import Pipeline
from batch.publish import Published, champion_bundle, publish, read_verdict, write_verdict
from batch.replay import Progress, replay
from batch.review_sample import samples
from batch.train import Span, Trained
from batch.train import train as race
from batch.training_set import Terms, TrainingSet, resolve_labels, scored_columns, training_set
from batch.truth import terms_of, truth_of
from riskflow.bundle import Bundle
from riskflow.columns import Columns, concat, n_rows, take
from riskflow.connect import connect
from riskflow.errors import NotReady, RiskflowError
from riskflow.evaluate import ID, KIND, Failures
from riskflow.hashkey import read_hash_key
from riskflow.keys import load_private_key, load_public_keys
from riskflow.names import Names, checked
from riskflow.plan import Plan
from riskflow.policy import DAY_MS
from riskflow.registry import CHAMPION, Registry
from riskflow.settings import Settings

Summary = dict[str, Any]
NOT_TRAINED = "not_trained.json"  # in a candidate's folder: why its training failed
FRAME, DATA, BUNDLE, PUBLISHED = "frame.parquet", "data.json", "bundle.bin", "published.json"
SEARCH = "search"
MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


class CheckFailed(RiskflowError):
    """What has been archived is not fit to learn from; the message names each number and what is wanted."""

    final = True


@dataclass(frozen=True)
class Run:
    """One retraining of a use case. `name` becomes a folder. layer: the only one that is trained, None for all."""

    plan: Plan
    pipeline: Pipeline
    conf: Settings
    name: str
    layer: str | None = None

    @classmethod
    def of(cls, plan: Plan, conf: Settings, name: str) -> Run:
        """A run with the plan's own pipeline.yaml; any character of the name that a path could mind is replaced."""
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:120]
        return cls(plan, Pipeline.of(plan), conf, safe or "run")

    @property
    def folder(self) -> Path:
        return self.conf.home / "runs" / self.plan.name / self.name

    @property
    def candidates(self) -> list[str]:
        """Who races; where one layer is trained alone, all that it knows."""
        raced = self.pipeline.candidates(self.plan)
        if self.layer not in self.plan.models:
            return raced
        known = self.plan.usecase.models[str(self.layer)].candidates
        return [name for name in raced if name in known] or list(known)

    @property
    def names(self) -> Names:
        return Names(self.plan.name, prefix=self.conf.topic_prefix)

    def given(self, history: Path | None) -> Given:
        """What the training is given beside its rows; history: where a search keeps its own, None for in memory."""
        return given_for(self.plan, self.pipeline, self.registry, self.conf.keys_folder, history, self.layer)

    def registry(self, usecase: str | None = None) -> Registry:
        """The registry of this use case or of another; raises NotReady when Redis does not answer."""
        import redis

        client = connect(self.conf.redis_url)
        try:
            client.ping()
        except redis.RedisError:
            where = self.conf.redis_url.rpartition("@")[2]  # without a password
            raise NotReady(f"Redis at {where} does not answer. Run `riskflow up`.") from None
        return Registry(client, Names(usecase or self.plan.name, prefix=self.conf.topic_prefix))

    def check_can_publish(self) -> None:
        """Raises NotReady where Redis or the signing key is missing: better before training than after."""
        self.registry()
        load_private_key(self.conf.keys_folder)


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
    champion = None if alone else champion_bundle(run.registry(), load_public_keys(run.conf.keys_folder))
    about = {"run": run.name, **_manifest_hash(run)}
    judged = judge(run.plan, run.pipeline, data, span.validation(data), raced, champion, about)
    (run.folder / BUNDLE).unlink(missing_ok=True)
    if judged.bundle is not None:
        (run.folder / BUNDLE).write_bytes(judged.bundle.to_bytes())
    verdict = replace(judged.verdict, not_trained=failed, raised=_raised(run))
    write_verdict(verdict, run.folder)
    _leave_card(run)
    return verdict.to_json()


def _not_trained(run: Run) -> dict[str, str]:
    """Candidates whose training failed, and why."""
    notes = sorted((run.folder / "candidates").glob(f"*/{NOT_TRAINED}"))
    return {note.parent.name: str(json.loads(note.read_text())) for note in notes}


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


# ---- what has been archived ------------------------------------------------------------------------------------------


def collected(run: Run) -> Columns:
    """Rows of all feeds as they were archived, files of a first start included; features are not looked at."""
    generations = _generations(run)
    parts = [base(run.plan, part) for g in since_files(generations) for part in _parts(generations, g)]
    return _nonempty(run, parts)


def with_features(
    run: Run, tell: Progress | None = None, seen: Seen | None = None, failures: Failures | None = None
) -> Columns:
    """The same rows with features by this plan: files in the order of time, what was streamed in its recorded order.

    Everything is folded again, so a feature that has changed or is new needs no other way. seen: of the lake as it was.
    failures: gets what the use case's functions raised; those rows have NaN there, as they have in the stream.
    """
    failures = Failures() if failures is None else failures
    generations = Generations(run.plan, run.names, run.conf.lake_folder, seen)
    parts: list[Columns] = []
    for generation in since_files(generations):
        history = generations.history(generation)
        if history is not None:
            begun = replay(run.plan, base(run.plan, history), tell=tell)
            failures.include(begun.failures)
            parts.append(begun.columns)
        frame, scored = generations.applied(generation)
        if scored:
            rows = base(run.plan, as_columns(run.plan, frame))
            orders = stage_orders(run.plan, rows, n_rows(rows))
            folded = fold(run.plan, rows, orders, generations.records(generation), tell)
            failures.include(folded.failures)
            mine = folded.columns
            parts.append(mine if scored == n_rows(rows) else take(mine, np.arange(scored)))
    return _nonempty(run, [_wanted(run.plan, part) for part in parts])


def _generations(run: Run) -> Generations:
    return Generations(run.plan, run.names, run.conf.lake_folder)


def since_files(generations: Generations) -> list[int]:
    """Generations from the last one on that began with files: those hold everything from before."""
    known = sorted({1, *generations.known()})
    began = [g for g in known if generations.start(g).made_from == FILES]
    return [g for g in known if not began or g >= began[-1]]


def _parts(generations: Generations, generation: int) -> list[Columns]:
    history = generations.history(generation)
    rows = generations.rows(generation)
    return [part for part in (history, rows) if part is not None and n_rows(part)]


def _nonempty(run: Run, parts: Sequence[Columns]) -> Columns:
    if not parts:
        raise CheckFailed(
            f"{run.plan.name}: the lake {run.conf.lake_folder} holds no rows. Run `riskflow archive {run.plan.name}` "
            "once events were scored, or train from files: riskflow train"
        )
    return concat(parts)


def _wanted(plan: Plan, columns: Columns) -> Columns:
    names = dict.fromkeys([KIND, *scored_columns(plan), *plan.fields])
    return {name: columns[name] for name in names}


def seen_now(run: Run) -> Seen:
    """The lake as it is now: rows that are archived from here on are not in what is read by it."""
    folder, generations = run.conf.lake_folder, _generations(run)
    read = since_files(generations)
    topics = [run.names.rows, run.names.scores, *(generations.at(g).held for g in read)]
    return Seen({t: lake.ends(folder, t) for t in topics}, tuple(read), tuple(samples(folder, run.plan.name)))


def span_set(run: Run, columns: Columns, terms: Terms, seen: Seen | None = None) -> TrainingSet:
    """The rows that the terms name, with what they turned out to be."""
    labels = resolve_labels(run.plan, columns, terms.label_sources, terms.known_before_ms)
    data = training_set(run.plan, columns, labels, terms.from_ms, terms.until_ms)
    data = data.rows(np.sort(np.unique(_events(data), return_index=True)[1]))  # files may reach into what was streamed
    known = truth_of(run, _events(data), data.at_ms, labels, terms, seen)
    return data.standing_for(known.weight)


def _events(data: TrainingSet) -> Any:
    ids: Any = data.columns[ID]
    return ids.hashes()


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
