"""What must hold after a run, counted: everything that was sent against everything that came out.

What should have come out follows from the feeds and the order of the first entity's logs alone, by a plain model of the
last 32 ids of each entity. Rows and records have to be those of a replay, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.archive import archive
from batch.dead import differing
from batch.generations import Generations, present_generation
from batch.parity import Parity, by_partition, parity
from batch.replay import Replayed, recorded_orders, replay
from chaos import observer
from chaos.copies import CONFLICT, DUPLICATE, NEW, NOTHING, Copies
from chaos.observer import Feeds, Logs, Places, Scores
from chaos.publisher import Publisher
from chaos.world import EVENT, INVALID, LATE_COPY, NEAR, VALID
from riskflow.bundle import Bundle
from riskflow.columns import Columns, Text, concat, n_rows, take
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.scoring import Scorer
from riskflow.settings import Settings


@dataclass
class Verdict:
    """Counts; all but those of `counts` must be zero."""

    events: int = 0
    scored: int = 0
    wrong: dict[str, int] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not any(self.wrong.values())


class Judge:
    """Reads everything and compares; the stream is at rest and its workers are gone."""

    def __init__(self, plan: Plan, conf: Settings, publisher: Publisher, store: Any) -> None:
        self.plan, self.conf, self.publisher, self.store = plan, conf, publisher, store
        bare = Names(plan.name, prefix=conf.topic_prefix)
        self.generations = Generations(plan, bare, conf.lake_folder)
        self.generation = present_generation(store, self.generations)
        self.names = bare
        self.logs = Logs(conf.kafka)
        self.places = Places(plan, bare, self.logs)
        self.out = Verdict()

    def judge(self, sent: int, redis_lost: int, left: list[Parity]) -> Verdict:
        """sent: messages; redis_lost: how often Redis forgot; left: comparisons of generations before the last."""
        feeds = observer.read_feeds(self.plan, self.names, self.logs, self.places)
        self.out.wrong["not_on_the_feeds"] = sent - len(np.unique(feeds.number[feeds.number > 0]))
        verdicts = self._verdicts(feeds, redis_lost)
        scores = observer.read_scores(self.plan, self.names, self.logs, self.places)
        self._compare_scores(feeds, verdicts, scores, redis_lost)
        self._count_opinions(scores, redis_lost)
        self._compare_rejected(feeds, verdicts)
        rows, places = self._compare_rows(verdicts, redis_lost)
        self._compare_bundles(rows, places, scores)
        self._compare_replay(rows, left)
        self._count_copies(feeds, verdicts)
        return self.out

    # what should be

    def _verdicts(self, feeds: Feeds, redis_lost: int) -> NDArray[np.uint8]:
        """Of each place: new, a duplicate of one of the last 32 of its entity, or the same id with other content."""
        copies = Copies(self.plan, self.generations, self.logs, self.places, self._events(), feeds.fate == ord("c"))
        out = copies.verdicts(self.generation)
        self.out.counts["rows_sent_again_to_the_first_log"] = copies.again
        self.out.counts["most_of_them_at_once"] = copies.longest_again
        if not redis_lost:  # else as much as Redis has forgotten
            self.out.wrong["more_than_a_batch_done_again"] = int(copies.longest_again > self.conf.batch_rows)
        valid = np.isin(feeds.fate, [v[0] for v in VALID])
        self.out.wrong["invalid_on_the_log"] = int(((out > 0) & ~valid).sum())
        absent = valid & (out == NOTHING)
        if copies.rebuilt:  # what intake had not sent on was folded by the rebuild, without a log
            self.out.counts["folded_by_a_rebuild"] = int(absent.sum())
        else:
            self.out.wrong["not_on_the_log"] = int(absent.sum())
        out[absent] = NEW
        return out

    def _events(self) -> NDArray[np.bool_]:
        """Places of the scored feed."""
        out = np.zeros(self.places.size, np.bool_)
        end = sum(end for _, end in self.logs.partitions(self.names.feed(self.plan.scored.name)).values())
        out[:end] = True
        return out

    # what came out

    def _compare_scores(self, feeds: Feeds, verdicts: Any, scores: Scores, redis_lost: int) -> None:
        wanted, there = (verdicts == NEW) & self._events(), scores.count > 0
        excused = {
            place
            for place, bundles in scores.differing.items()
            if redis_lost and (place not in scores.same_bundle or self._named_twice(bundles))
        }
        self.out.events, self.out.scored = int(wanted.sum()), int((wanted & there).sum())
        self.out.wrong |= {
            "missing": self._count("missing", wanted & ~there),
            "extra": self._count("extra", there & ~wanted),
            "scores_of_another_id": int((there & (scores.id_hash != feeds.id_hash)).sum()),
            "scores_sent_differently": len(scores.differing) - len(excused),
            "scores_of_unknown_bundles": int((there & ~np.isin(scores.bundle, list(self.publisher.active))).sum()),
        }
        self.out.counts |= {
            "scores_sent_again": int(scores.count.sum()) - int(there.sum()),
            "scores_that_differ_after_a_loss": len(excused),
        }

    def _count_opinions(self, scores: Scores, redis_lost: int) -> None:
        """What shadows said of an event is the same each time it is sent, as a score is."""
        ids, times = np.unique(
            scores.id_hash[scores.count > 0], return_counts=True
        )  # late copies are events of their own
        events, again, differing = observer.read_opinions(self.names, self.logs, set(ids[times > 1].tolist()))
        self.out.counts |= {"events_with_opinions": events, "opinions_sent_again": again}
        self.out.wrong["opinions_sent_differently"] = 0 if redis_lost else differing

    def _named_twice(self, bundles: set[int]) -> bool:
        """Redis lost a bundle, and its number was given to another one."""
        return any(len(self.publisher.active.get(version, ())) > 1 for version in bundles)

    def _compare_rejected(self, feeds: Feeds, verdicts: Any) -> None:
        found, differing = observer.read_rejected(self.plan, self.names, self.logs, self.places)
        there = np.zeros(self.places.size, np.bool_)
        there[list(found)] = True
        wanted = (feeds.fate == INVALID[0]) | (verdicts == CONFLICT)
        self.out.wrong |= {
            "rejected_missing": self._count("rejected missing", wanted & ~there),
            "rejected_extra": self._count("rejected extra", there & ~wanted),
            "rejected_differently": differing,
        }
        self.out.counts |= {"rejected": int(wanted.sum()), "rejected_again": sum(found.values()) - len(found)}

    def _compare_rows(self, verdicts: Any, redis_lost: int) -> tuple[Columns, Any]:
        """Each row once, that of the highest epoch."""
        blocks, epochs = observer.read_rows(self.names, self.logs)
        of = np.repeat(np.array(epochs, np.int64), [n_rows(b) for b in blocks])
        columns = concat(blocks)
        blocks.clear()
        places = observer.places_of(self.places, columns)
        order = np.lexsort((np.arange(len(places)), -of, places))
        first = np.ones(len(order), np.bool_)
        first[1:] = places[order][1:] != places[order][:-1]
        effective = order[first][np.cumsum(first) - 1]  # of each sorted copy
        again = ~first
        made = {*self.plan.models, "_score", "_action", "_bundle"}
        logged = _differing({n: c for n, c in columns.items() if n not in made}, order[again], effective[again])
        scored = _differing({n: columns[n] for n in made if n in columns}, order[again], effective[again])
        kept = np.sort(order[first])
        there = np.zeros(self.places.size, np.bool_)
        there[places[kept]] = True
        self.out.wrong |= {
            "rows_missing": self._count("rows missing", (verdicts == NEW) & ~there),
            "rows_extra": self._count("rows extra", there & (verdicts != NEW)),
            "rows_sent_differently": int(logged.sum()) + (0 if redis_lost else int(scored.sum())),
        }
        self.out.counts |= {"rows": len(kept), "rows_sent_again": int(again.sum())}
        return take(columns, kept), places[kept]

    def _compare_bundles(self, rows: Columns, places: Any, scores: Scores) -> None:
        """What each score says is what the bundle that it names makes of its row."""
        wrong = np.zeros(n_rows(rows), np.bool_)
        events = np.asarray(rows["_kind"]) == 0
        said, bundle = scores.score[places], scores.bundle[places]
        row_score, row_bundle = np.asarray(rows["_score"]), np.asarray(rows["_bundle"])
        wrong |= events & (row_bundle == bundle) & (row_score != said)
        for version, candidates in self.publisher.active.items():
            mine = np.flatnonzero(events & (row_bundle == version))
            if len(mine):
                part = take(rows, mine)
                right = np.zeros(len(mine), np.bool_)
                for raw in candidates:
                    right |= Scorer(self.plan, Bundle.from_bytes(raw)).score(part).score == row_score[mine]
                wrong[mine[~right]] = True
        unknown = events & ~np.isin(row_bundle, list(self.publisher.active))
        self.out.wrong["scores_not_of_their_bundle"] = int((wrong | unknown).sum())
        self.out.counts["bundles_used"] = len(np.unique(scores.bundle[scores.count > 0]))

    def _compare_replay(self, rows: Columns, left: list[Parity]) -> None:
        """Of one generation by our own comparison; of several by that of `riskflow parity`, on top of its records."""
        if self.generation > 1:
            archive(self.plan, self.conf)
            found = [*left, parity(self.plan, self.conf, records=True)]
            self.out.wrong["differing_features"] = sum(f.mismatches + f.missing + f.extra for f in found)
            self.out.wrong["order_errors"] = sum(f.order_errors for f in found)
            self.out.wrong["differing_records"] = found[-1].records_differing or 0
            self.out.counts["records"] = found[-1].records
            return
        made = {*self.plan.features, *self.plan.models, "_score", "_action", "_bundle", "_degraded"}
        bare = {name: column for name, column in rows.items() if name not in made}
        again = replay(self.plan, bare, recorded_orders(self.plan, rows))
        self.out.wrong["differing_features"] = self._differing_features(rows, again.columns)
        self._compare_records(again)

    def _differing_features(self, rows: Columns, again: Columns) -> int:
        """Rows of which any feature is not the replay's."""
        if n_rows(again) != n_rows(rows):
            return abs(n_rows(rows) - n_rows(again))
        a, b = (np.argsort(observer.places_of(self.places, c)) for c in (rows, again))
        wrong = np.zeros(n_rows(rows), np.bool_)
        for name in self.plan.features:
            wrong |= _bits(rows[name])[a] != _bits(again[name])[b]
        return int(wrong.sum())

    def _compare_records(self, again: Replayed) -> None:
        """Records in Redis that are not the replay's bytes, missing and extra ones included; the dead may be gone."""
        wrong = records = 0
        for stage in self.plan.stages:
            entity = stage.entity.field
            partitions = self.logs.partitions(self.names.by(entity))
            expected = by_partition(again.records[entity], len(partitions))
            for partition in partitions:
                found = self.store.hgetall(self.names.records(entity, partition))
                wrong += differing(stage, expected[partition], found, again.watermarks[entity].get(partition, 0))
                records += len(found)
        self.out.wrong["differing_records"] = wrong
        self.out.counts["records"] = records

    # for the report

    def _count_copies(self, feeds: Feeds, verdicts: Any) -> None:
        """Both statements about duplicates were put to the test: some had no effect, some counted as new."""
        near, late = feeds.fate == NEAR[0], feeds.fate == LATE_COPY[0]
        self.out.counts |= {
            "copies_without_effect": int(((near | late) & (verdicts == DUPLICATE)).sum()),
            "copies_beyond_the_last_32": int(((near | late) & (verdicts == NEW)).sum()),
            "other_content": int((verdicts == CONFLICT).sum()),
            "originals": int((feeds.fate == EVENT[0]).sum()),
        }

    def _count(self, what: str, places: NDArray[np.bool_]) -> int:
        """How many, with a few of them as examples."""
        found = np.flatnonzero(places)
        self.out.examples += [f"{what}: {self.places.name(self.plan, int(p))}" for p in found[:5]]
        return len(found)


def _differing(columns: Columns, rows: Any, originals: Any) -> NDArray[np.bool_]:
    """Of each pair of rows, whether any column differs."""
    out = np.zeros(len(rows), np.bool_)
    for column in columns.values():
        if isinstance(column, Text):
            a, b = column.take(rows).values(), column.take(originals).values()
            out |= np.array([x != y for x, y in zip(a, b, strict=True)], np.bool_)
        else:
            out |= _bits(column[rows]) != _bits(column[originals])
    return out


def _bits(column: Any) -> Any:
    found = np.asarray(column)
    return np.ascontiguousarray(found, np.float64).view(np.int64) if found.dtype.kind == "f" else found
