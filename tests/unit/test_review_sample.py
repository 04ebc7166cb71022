"""Which events go before people: the nearest to a threshold, some at random, with odds that correct an estimate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from batch import dataset, lake, review_sample
from batch.pipeline_review import Review
from batch.retrain import replay_frame
from batch.review_sample import DECISION, RANDOM, UNCERTAIN, draw, read_odds, review_step, samples, stands_for
from batch.run import Run
from batch.training_set import TrainingSet
from riskflow.columns import Text
from riskflow.errors import NotReady, RiskflowError
from tests.unit.lake_cases import Streamed, ids, run_in, streamed

POLICIES = {1: {"review": 0.5, "decline": 0.9}, 2: None}


def scores(n: int = 5000, seed: int = 0, bundle: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    score = rng.random(n) ** 3
    action = np.where(score >= 0.9, "decline", np.where(score >= 0.5, "review", "approve"))
    return pl.DataFrame({
        "event_id": [f"e{seed}-{i}" for i in range(n)], "occurred_at": 1_000_000 + np.arange(n), "score": score,
        "action": action.tolist(), "bundle": bundle, lake.EPOCH: 1, lake.OFFSET: np.arange(n), lake.PARTITION: 0,
    })  # fmt: skip


def test_the_nearest_to_a_threshold_and_a_share_at_random() -> None:
    table = scores()
    found = draw(table, POLICIES, Review(uncertain=0.01, random=0.05))
    others = table.filter(pl.col("action") != "review")
    near = found.filter(pl.col("why") == UNCERTAIN)
    assert len(near) == round(0.01 * len(others))
    gap = np.minimum(abs(others["score"] - 0.5), abs(others["score"] - 0.9)).sort()
    assert np.minimum(abs(near["score"] - 0.5), abs(near["score"] - 0.9)).max() == gap[len(near) - 1]
    assert len(found.filter(pl.col("why") == RANDOM)) == pytest.approx(0.05 * len(others), rel=0.25)
    assert len(found.filter(pl.col("why") == DECISION)) == len(table) - len(others)
    assert set(found.filter(pl.col("why") == RANDOM)["odds"]) == {0.05}
    assert set(found.filter(pl.col("why") != RANDOM)["odds"]) == {1.0}


def test_the_same_are_drawn_again_in_any_order_and_others_by_another_seed() -> None:
    table = scores()
    wanted = Review(uncertain=0.01, random=0.02)
    first = draw(table, POLICIES, wanted)
    assert draw(table.sample(fraction=1, shuffle=True, seed=3), POLICIES, wanted).equals(first)
    other = draw(table, POLICIES, Review(uncertain=0.01, random=0.02, seed=1))
    chosen, others = (set(t.filter(pl.col("why") == RANDOM)["event_id"]) for t in (first, other))
    assert len(chosen & others) < 0.2 * len(chosen)


def test_where_no_threshold_is_known_only_chance_draws() -> None:
    found = draw(scores(bundle=2), POLICIES, Review(uncertain=0.01, random=0.02))
    assert UNCERTAIN not in set(found["why"])
    assert RANDOM in set(found["why"])


def test_the_odds_correct_what_the_sample_says_of_all() -> None:
    """Fraud in everything that was scored, from a sample that looks mostly at high scores."""
    estimates, plain = [], []
    for seed in range(20):
        table = scores(seed=seed)
        happens = np.random.default_rng(1000 + seed).random(len(table)) < table["score"].to_numpy()
        fraud = dict(zip(table["event_id"], happens, strict=True))
        found = draw(table, POLICIES, Review(uncertain=0.02, random=0.1, seed=seed))
        bad = np.array([fraud[i] for i in found["event_id"]], float)
        true = np.mean(list(fraud.values()))
        estimates.append(np.sum(bad / found["odds"].to_numpy()) / len(table) / true)
        plain.append(bad.mean() / true)
    assert np.mean(estimates) == pytest.approx(1, abs=0.03)
    assert np.mean(plain) > 1.5


def test_of_samples_that_overlap_odds_are_those_of_being_in_either(archived: Any) -> None:
    """An estimate over two samples that share half of their events: as large as all events, whatever the shares."""
    estimates, in_both = [], []
    for seed in range(12):
        table = scores(seed=seed)
        true = (table["score"] > 0.3).sum()
        folder = archived.conf.lake_folder / review_sample.FOLDER / "card_fraud"
        folder.mkdir(parents=True, exist_ok=True)
        for share, first, end in ((0.1, 0, 3000), (0.05, 2000, 5000)):
            span = table.filter(pl.col("occurred_at").is_between(1_000_000 + first, 1_000_000 + end, closed="left"))
            wanted = Review(uncertain=0.01, random=share, seed=seed)
            draw(span, POLICIES, wanted).write_parquet(folder / f"{first}-{end}.parquet")
        odds = read_odds(archived)
        hashes = Text.of_strings(table["event_id"].to_list()).hashes().tolist()
        high = dict(zip(hashes, (table["score"] > 0.3).to_list(), strict=True))
        estimates.append(sum(1 / o for key, o in odds.items() if high[key]) / true)
        in_both.append(sum(1 / odds[key] for key in hashes[2000:3000] if key in odds) / 1000)
    assert np.mean(estimates) == pytest.approx(1, abs=0.03)
    assert np.mean(in_both) == pytest.approx(1, abs=0.05)


def test_a_sample_with_another_seed_may_not_overlap(archived: Any) -> None:
    first = review_step(archived, tell_kafka=False)
    reseeded = with_review(archived, Review(uncertain=0.01, random=0.05, seed=1))
    with pytest.raises(RiskflowError, match=r"drawn with seed 0.*Set review\.seed back, or draw from 1005000 on"):
        review_step(reseeded, 1_004_000, 1_006_000, tell_kafka=False)
    write(archived, scores(seed=1).with_columns(pl.col(lake.OFFSET) + 5000, pl.col("occurred_at") + 9_000))
    assert review_step(reseeded, tell_kafka=False)["from_ms"] == first["to_ms"]


def test_only_labelled_ones_of_the_sample_are_learned_from() -> None:
    events, said = np.arange(5), np.array([1.0, 0.0, np.nan, np.nan, 1.0])
    assert stands_for(events, said, {0: 0.1, 1: 1.0, 2: 1.0}).tolist() == [10, 1, 0, 0, 0]


# ---- the step --------------------------------------------------------------------------------------------------------


class Known:
    """The registry's policies, without Redis."""

    def __init__(self, *_: Any) -> None: ...

    def policy(self, version: int) -> Any:
        return POLICIES[1]


@pytest.fixture
def archived(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr("batch.read_only.Shelf", Known)
    run = with_review(run_in(tmp_path), Review(uncertain=0.01, random=0.05))
    write(run, scores())
    return run


def with_review(run: Run, review: Review) -> Run:
    file = msgspec.structs.replace(run.pipeline.file, review=review)
    return replace(run, pipeline=replace(run.pipeline, file=file))


def write(run: Any, table: pl.DataFrame) -> None:
    path = run.conf.lake_folder / run.names.scores / "date=2026-02-01" / lake.part_name(0, *table[lake.OFFSET][[0, -1]])
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(path)


def test_what_could_not_be_sent_is_drawn_again_and_sent_by_the_next_try(
    archived: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the DAG's task does it, which Airflow tries again."""
    from batch.steps import Asked, sample

    asked, sent = Asked("card_fraud", "review", "sample", "scheduled__1"), list[Any]()

    def away(*_: Any) -> None:
        raise NotReady("Kafka does not answer")

    def there(messages: Any, _: str) -> Any:
        sent.extend(messages)
        return SimpleNamespace(messages=len(sent))

    monkeypatch.setattr("batch.produce.send", away)
    with pytest.raises(NotReady):
        sample(archived, asked)
    monkeypatch.setattr("batch.produce.send", there)
    done = sample(archived, asked)
    assert (done["events"], done["sent"]) == (5000, len(sent))
    assert sent
    assert sample(archived, asked)["events"] == 0


def test_each_event_is_drawn_from_once(archived: Any) -> None:
    first = review_step(archived, tell_kafka=False)
    assert first["events"] == 5000
    assert review_step(archived, tell_kafka=False)["events"] == 0
    later = scores(seed=1).with_columns(pl.col(lake.OFFSET) + 5000, pl.col("occurred_at") + 9_000)
    write(archived, later)
    second = review_step(archived, tell_kafka=False)
    assert (second["events"], second["from_ms"]) == (5000, first["to_ms"])
    assert len(samples(archived.conf.lake_folder, "card_fraud")) == 2
    kept = pl.read_parquet(first["kept"])
    assert kept.columns == [*review_sample.KEPT]
    odds = read_odds(archived)
    assert odds[int(Text.of_strings([kept["event_id"][0]]).hashes()[0])] == kept["odds"][0]
    again = review_step(archived, first["from_ms"], first["to_ms"], tell_kafka=False)
    assert pl.read_parquet(again["kept"]).equals(kept)


def test_a_set_that_was_learned_from_a_sample_is_made_again(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.read_only.Shelf", Known)
    made: Streamed = streamed(tmp_path_factory.mktemp("home"))
    run = made.run()
    events = made.events
    n = len(events["at_ms"])
    table = pl.DataFrame({
        "event_id": ids(events), "occurred_at": events["at_ms"], "score": events["_score"], "bundle": 1,
        "action": [("approve", "review", "decline")[a] for a in np.asarray(events["_action"]).tolist()],
        lake.EPOCH: 1, lake.OFFSET: np.arange(n), lake.PARTITION: 0, "reasons": "[]",
    })  # fmt: skip
    write(run, table)
    run = with_review(run, Review(uncertain=0.05, random=0.5, learn="sampled"))
    review_step(run, tell_kafka=False)
    replay_frame(run)
    data = TrainingSet.read(run.folder / "frame.parquet")
    assert data.weight is not None
    assert set(data.weight.tolist()) == {1.0, 2.0}
    manifest = dataset.read(run.folder)
    review_step(run, 0, 1_767_225_600_001, tell_kafka=False)  # a later sample changes nothing
    assert dataset.rebuild(made.run(), manifest).table().equals(data.table())
