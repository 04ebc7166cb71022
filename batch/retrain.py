"""Retraining as steps that hand over files, so that Airflow's tasks and batch/local_chain.py call them one by one.

    archive  ->  labels  ->  check  ->  replay  ->  train (one for each candidate)  ->  judge  ->  publish

    runs/<use case>/<run>/
        frame.parquet                what is learned from          data.json       which rows these are
        candidates/<name>/           a trained candidate
        bundle.bin                   the best one's, not signed    verdict.json    the evidence, gate by gate
        published.json, or refusal.txt

Every step takes a Run, returns a small summary that is JSON, and may be done again. No clock decides what is learned
from: the span ends where the newest archived row is as old as the maturity.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from batch.fold import fold, stage_orders
from batch.generations import FILES, Generations, base
from batch.history import history_columns
from batch.judge import Gate, Judged, judge
from batch.lake import as_columns
from batch.pipeline import Pipeline
from batch.publish import Published, champion_bundle, publish, read_verdict, write_verdict
from batch.replay import Progress, replay
from batch.train import Learner, Span, Trained
from batch.training_set import TrainingSet, resolve_labels, scored_columns, training_set
from riskflow.bundle import Bundle
from riskflow.columns import Columns, concat, n_rows, take
from riskflow.connect import connect
from riskflow.errors import NotReady, RiskflowError
from riskflow.evaluate import ID, KIND, TIME
from riskflow.hashkey import read_hash_key
from riskflow.keys import load_private_key, load_public_keys
from riskflow.names import Names, checked
from riskflow.plan import Plan
from riskflow.registry import CHAMPION, Registry
from riskflow.settings import Settings

Summary = dict[str, Any]
FRAME, DATA, BUNDLE, PUBLISHED = "frame.parquet", "data.json", "bundle.bin", "published.json"


class CheckFailed(RiskflowError):
    """What has been archived is not fit to learn from; the message names each number and what is wanted."""


@dataclass(frozen=True)
class Run:
    """One retraining of a use case. `name` becomes a folder."""

    plan: Plan
    pipeline: Pipeline
    conf: Settings
    name: str

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
        return self.pipeline.candidates(self.plan)

    @property
    def names(self) -> Names:
        return Names(self.plan.name, prefix=self.conf.topic_prefix)

    def registry(self) -> Registry:
        """The registry; raises NotReady when Redis does not answer."""
        import redis

        client = connect(self.conf.redis_url)
        try:
            client.ping()
        except redis.RedisError:
            where = self.conf.redis_url.rpartition("@")[2]  # without a password
            raise NotReady(f"Redis at {where} does not answer. Run `riskflow up`.") from None
        return Registry(client, self.names)

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
    data = _span_set(run, columns)
    gates, limits = [], run.pipeline.gates
    gates.append(Gate("rows", len(data) >= limits.fewest_rows, len(data), f"at least {limits.fewest_rows}"))
    gates.append(Gate("frauds", data.frauds >= limits.fewest_frauds, data.frauds, f"at least {limits.fewest_frauds}"))
    low, high = limits.lowest_label_rate, limits.highest_label_rate
    gates.append(Gate("label_rate", low <= data.rate <= high, round(data.rate, 6), f"{low:g} to {high:g}"))
    gates += _field_gates(run.plan, data, limits.most_missing)
    failed = [gate.sentence() for gate in gates if not gate.passed]
    if failed:
        raise CheckFailed(f"{run.plan.name}: not fit to learn from. " + "; ".join(failed))
    return {"rows": len(data), "frauds": data.frauds, "label_rate": data.rate, "archived_rows": n_rows(columns)}


def replay_frame(run: Run) -> Summary:
    """Works out the features of all archived rows through the kernel, and writes the span that is learned from."""
    return _write_frame(run, with_features(run))


def _write_frame(run: Run, columns: Columns) -> Summary:
    data = _span_set(run, columns)
    if not len(data):
        raise CheckFailed(f"{run.plan.name}: no event is older than the maturity ({run.pipeline.file.maturity})")
    data.write(run.folder / FRAME)
    about = {"rows": len(data), "frauds": data.frauds, "from_ms": int(data.at_ms[0]), "to_ms": int(data.at_ms[-1])}
    (run.folder / DATA).write_text(json.dumps(about))
    return about


def train(run: Run, candidate: str) -> Summary:
    """Trains one candidate through all layers, out of time and on the whole span."""
    data, span = _frame(run)
    learner = Learner(run.plan, data, span)
    trained = learner.race(candidate)
    learner.refit(trained)
    return _written(run, trained)


def train_all(run: Run) -> list[Summary]:
    """Races all candidates and trains the winner on the whole span: what takes least on one machine."""
    from batch.train import train as race

    data, span = _frame(run)
    shutil.rmtree(run.folder / "candidates", ignore_errors=True)
    return [_written(run, trained) for trained in race(run.plan, data, span, run.candidates)]


def judge_run(run: Run, alone: bool = False) -> Summary:
    """Takes the best candidate, makes its bundle and writes the verdict on it, beside the champion.

    alone: without a look at the registry, when nothing is to be published.
    """
    data, span = _frame(run)
    folders = sorted((run.folder / "candidates").glob("*/trained.json"))
    raced = sorted((Trained.read(f.parent) for f in folders), key=lambda t: -t.average_precision)
    if not raced:
        raise RiskflowError(f"{run.plan.name}, run {run.name}: no candidate was trained. Train one first")
    champion = None if alone else champion_bundle(run.registry(), load_public_keys(run.conf.keys_folder))
    judged = judge(run.plan, run.pipeline, data, span.validation(data), raced, champion, {"run": run.name})
    (run.folder / BUNDLE).unlink(missing_ok=True)
    if judged.bundle is not None:
        (run.folder / BUNDLE).write_bytes(judged.bundle.to_bytes())
    write_verdict(judged.verdict, run.folder)
    _leave_card(run)
    return judged.verdict.to_json()


def publish_run(run: Run, who: str = "retrain", why: str = "", alias: str = CHAMPION) -> Summary:
    """Signs and publishes what was judged; raises GatesFailed with the refusal, which is written too."""
    verdict = read_verdict(run.folder)
    path = run.folder / BUNDLE
    bundle = Bundle.from_bytes(path.read_bytes()) if path.is_file() else None
    if (run.folder / PUBLISHED).is_file():
        return dict(json.loads((run.folder / PUBLISHED).read_text()))  # a task that is tried again
    key = load_private_key(run.conf.keys_folder)
    why = why or f"run {run.name}"
    published = publish(Judged(bundle, verdict), run.registry(), key, who=who, why=why, alias=alias)
    about = _published(published)
    (run.folder / PUBLISHED).write_text(json.dumps(about))
    _leave_card(run, published.version)
    return about


def _leave_card(run: Run, version: int | None = None) -> None:
    from batch.card.page import leave_card  # which looks at runs itself

    leave_card(run, version)


def frame_from_tables(run: Run, tables: Mapping[str, pl.DataFrame | None]) -> Summary:
    """Step `replay` for a history in files, where nothing was archived yet: tables by the name of their feed."""
    key = read_hash_key(run.plan, run.conf.keys_folder)
    return _write_frame(run, replay(run.plan, history_columns(run.plan, tables, key)).columns)


# ---- what has been archived ------------------------------------------------------------------------------------------


def collected(run: Run) -> Columns:
    """Rows of all feeds as they were archived, files of a first start included; features are not looked at."""
    generations = _generations(run)
    parts = [base(run.plan, part) for g in _since_files(generations) for part in _parts(generations, g)]
    return _nonempty(run, parts)


def with_features(run: Run, tell: Progress | None = None) -> Columns:
    """The same rows with features by this plan: files in the order of time, what was streamed in its recorded order.

    Everything is folded again, so a feature that has changed or is new needs no other way.
    """
    generations = _generations(run)
    parts: list[Columns] = []
    for generation in _since_files(generations):
        history = generations.history(generation)
        if history is not None:
            parts.append(replay(run.plan, base(run.plan, history), tell=tell).columns)
        frame, scored = generations.applied(generation)
        if scored:
            rows = base(run.plan, as_columns(run.plan, frame))
            orders = stage_orders(run.plan, rows, n_rows(rows))
            folded = fold(run.plan, rows, orders, generations.records(generation), tell).columns
            parts.append(folded if scored == n_rows(rows) else take(folded, np.arange(scored)))
    return _nonempty(run, [_wanted(run.plan, part) for part in parts])


def _generations(run: Run) -> Generations:
    return Generations(run.plan, run.names, run.conf.lake_folder)


def _since_files(generations: Generations) -> list[int]:
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


def _span_set(run: Run, columns: Columns) -> TrainingSet:
    """The newest rows that had time to get their label, with what they turned out to be."""
    labels = resolve_labels(run.plan, columns, run.pipeline.file.label_sources)
    until = int(np.asarray(columns[TIME]).max()) - run.pipeline.maturity_ms + 1
    data = training_set(run.plan, columns, labels, until - run.pipeline.span_ms, until)
    return data.rows(_first_of_each(data))


def _first_of_each(data: TrainingSet) -> Any:
    """One row of each event: a first start's files may reach into what was streamed."""
    ids: Any = data.columns[ID]
    return np.sort(np.unique(ids.hashes(), return_index=True)[1]) if len(data) else np.zeros(0, np.int64)


def _field_gates(plan: Plan, data: TrainingSet, most: float) -> list[Gate]:
    """Fields that every event should have, and hardly any has."""
    gates = []
    for name, kind in plan.scored.types.items():
        column = data.columns.get(name)
        if isinstance(column, np.ndarray) and column.dtype.kind == "f" and not kind.optional and len(column):
            share = float(np.isnan(column).mean())
            gates.append(Gate(f"field {name}", share <= most, f"{share:.4f} missing", f"at most {most:g}"))
    return gates


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


def _published(published: Published) -> Summary:
    return {"version": published.version, "hash": published.content_hash, "alias": published.alias}
