"""Active learning: some scored events go before people, chosen with odds that are known and kept.

    lake/_review/<use case>/<from>-<to>.parquet     event_id, occurred_at, bundle, score, action, why, odds, seed
                                                    (times in ms)

`why` says how an event came in: `decision` (it is reviewed anyway; odds 1), `uncertain` (nearest to a threshold of the
bundle that scored it; odds 1) or `random` (odds: the share). So every scored event had odds above 0, and what is
counted over the sample with weights 1 / odds estimates the same over all events (Horvitz and Thompson, 1952), which
silence about events that nobody looked at does not. Who is drawn depends on ids and seed alone: done again, it is the
same. So of two samples with one seed the larger holds whom the smaller one drew, and an event in both has the larger
odds. Samples with different seeds may not overlap: who was drawn by neither would not tell that there were two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl

from batch import lake
from batch.files import whole
from batch.lake import Seen
from riskflow.columns import F8, I8, Text
from riskflow.errors import RiskflowError
from riskflow.policy import Numbers, uniform

if TYPE_CHECKING:
    from batch.produce import Outgoing
    from batch.run import Run

FOLDER = "_review"
DECISION, UNCERTAIN, RANDOM = "decision", "uncertain", "random"
_SEED = 0x5EED
KEPT = ("event_id", "occurred_at", "bundle", "score", "action", "why", "odds", "seed")
Policies = Mapping[int, Numbers | None]  # of each bundle that scored; None: not known any more


def review_step(
    run: Run, from_ms: int | None = None, to_ms: int | None = None, tell_kafka: bool = True
) -> dict[str, Any]:
    """Draws from the archived scores of a span, keeps the sample, and sends it to the topic `review`.

    Without a span: from where the last sample ended to the newest archived score. Raises RiskflowError where it
    overlaps a sample that was drawn with another seed.
    """
    from batch.read_only import Shelf

    scores = lake.read_scores(run.plan, run.names, run.conf.lake_folder)
    folder = run.conf.lake_folder / FOLDER / run.plan.name
    from_ms = _last_end(folder) if from_ms is None else from_ms
    to_ms = (int(scores["occurred_at"].max()) + 1 if len(scores) else from_ms) if to_ms is None else to_ms  # type: ignore[arg-type]
    scores = scores.filter(pl.col("occurred_at").is_between(from_ms, to_ms, closed="left")) if len(scores) else scores
    about: dict[str, Any] = {"events": len(scores), "from_ms": from_ms, "to_ms": to_ms, "sent": 0}
    if not len(scores):
        return about
    _refuse_two_seeds(folder, from_ms, to_ms, run.pipeline.file.review.seed)
    shelf = Shelf(run.plan, run.conf)
    drawn = draw(scores, {v: shelf.policy(v) for v in scores["bundle"].unique().to_list()}, run.pipeline.file.review)
    chosen = drawn.filter(pl.col("why") != DECISION)
    if tell_kafka and len(chosen):
        from batch.produce import send  # whoever only learns from a sample needs no Kafka

        about["sent"] = send(_messages(run.names.review, chosen), run.conf.kafka).messages
    path = folder / f"{from_ms}-{to_ms}.parquet"  # after it was sent: who tries again begins where the last one ended
    with whole(path) as beside:
        drawn.write_parquet(beside)
    return {**about, **dict(drawn["why"].value_counts().iter_rows()), "kept": str(path)}


def draw(scores: pl.DataFrame, policies: Policies, wanted: Any) -> pl.DataFrame:
    """The sample of these effective scores, in order of time. wanted: the section `review`."""
    reviewed = scores["action"].to_numpy() == "review"
    others = np.flatnonzero(~reviewed)
    ids = Text.of_strings(scores["event_id"].to_list())
    drawn = uniform(ids, _SEED + wanted.seed)
    gap = distance(scores, policies)
    nearest = others[np.lexsort((drawn[others], gap[others]))][: round(wanted.uncertain * len(others))]
    why = np.full(len(scores), "", dtype=object)
    why[others[drawn[others] < wanted.random]] = RANDOM
    why[nearest[np.isfinite(gap[nearest])]] = UNCERTAIN
    why[reviewed] = DECISION
    odds = np.where(why == RANDOM, wanted.random, 1.0)
    words = pl.Series(why.tolist(), dtype=pl.String)
    table = scores.with_columns(why=words, odds=pl.Series(odds), seed=pl.lit(wanted.seed))
    return table.filter(pl.col("why") != "").select(KEPT).sort("occurred_at", "event_id")


def distance(scores: pl.DataFrame, policies: Policies) -> F8:
    """How far each score is from the nearest threshold of its bundle; infinite where there is none."""
    score, bundle = scores["score"].to_numpy(), scores["bundle"].to_numpy()
    out = np.full(len(scores), np.inf)
    for version, numbers in policies.items():
        for name in ("review", "decline"):
            threshold = (numbers or {}).get(name)
            if threshold is not None:
                mine = bundle == version
                out[mine] = np.minimum(out[mine], np.abs(score[mine] - threshold))
    return out


# ---- learning from it ------------------------------------------------------------------------------------------------


def samples(lake_folder: Path, usecase: str) -> list[str]:
    """Names of the samples that are kept, in order."""
    return sorted(path.name for path in (lake_folder / FOLDER / usecase).glob("*-*.parquet"))


def read_odds(run: Run, seen: Seen | None = None) -> dict[int, float]:
    """The odds of every sampled event, by the hash of its id; of an event in two samples, which have one seed, the
    larger ones: whom the smaller share drew the larger one drew too."""
    folder = run.conf.lake_folder
    names = samples(folder, run.plan.name) if seen is None else seen.samples
    out: dict[int, float] = {}
    for name in names:
        table = pl.read_parquet(folder / FOLDER / run.plan.name / name)
        hashes = Text.of_strings(table["event_id"].to_list()).hashes().tolist()
        for key, odds in zip(hashes, table["odds"].to_list(), strict=True):
            out[key] = max(odds, out.get(key, 0.0))
    return out


def stands_for(events: I8, said: F8, odds: Mapping[int, float]) -> F8:
    """How many events each of these (by hash) stands for: one over its odds, 0 outside of the sample or unanswered."""
    chance = np.array([odds.get(h, np.inf) for h in events.tolist()])
    return np.where(np.isnan(said), 0.0, 1 / chance)


def _messages(topic: str, chosen: pl.DataFrame) -> Iterator[Outgoing]:
    from batch.produce import Outgoing

    for row in chosen.iter_rows(named=True):
        yield Outgoing(topic, row["event_id"].encode(), msgspec.json.encode(row), None)


def _refuse_two_seeds(folder: Path, from_ms: int, to_ms: int, seed: int) -> None:
    for path, (first_ms, end_ms) in _spans(folder).items():
        if first_ms < to_ms and from_ms < end_ms:
            others = set(pl.read_parquet(path, columns=["seed"])["seed"].unique()) - {seed}
            if others:
                raise RiskflowError(
                    f"{path} was drawn with seed {others.pop()} and holds events of {from_ms} to {to_ms} as well: with "
                    f"seed {seed} nobody could tell the odds of those that are in both spans. Set review.seed back, or "
                    f"draw from {end_ms} on"
                )


def _last_end(folder: Path) -> int:
    return max((end_ms for _, end_ms in _spans(folder).values()), default=0)


def _spans(folder: Path) -> dict[Path, tuple[int, int]]:
    """From where to where each sample was drawn, in ms."""
    found = {path: path.stem.split("-") for path in sorted(folder.glob("*-*.parquet"))}
    return {path: (int(first), int(end)) for path, (first, end) in found.items()}
