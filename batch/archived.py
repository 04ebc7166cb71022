"""What a use case's lake holds, as rows of all feeds: those of files of a first start, and what was streamed since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from batch import lake
from batch.fold import fold, stage_orders
from batch.generations import FILES, Generations, base
from batch.lake import Seen, as_columns
from batch.replay import Progress, replay
from batch.review_sample import samples
from batch.run import Run
from batch.training_set import Terms, TrainingSet, resolve_labels, scored_columns, training_set
from batch.truth import truth_of
from riskflow.columns import Columns, concat, n_rows, take
from riskflow.errors import RiskflowError
from riskflow.evaluate import ID, KIND, Failures
from riskflow.plan import Plan


class CheckFailed(RiskflowError):
    """What has been archived is not fit to learn from; the message names each number and what is wanted."""

    final = True


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
