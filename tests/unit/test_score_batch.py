"""Batch scoring: the bits of the stream, whatever the chunks, the threads and the way to the features."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from batch.past import ACTION, BUNDLE, SCORE
from batch.score_batch import past_for, score_columns, score_table
from batch.task_runs import Skipped
from riskflow.columns import Columns, n_rows, take
from riskflow.errors import NotReady
from riskflow.evaluate import ID, TIME
from riskflow.policy import ACTIONS, APPROVE
from riskflow.scoring import Scorer
from tests.unit import bundle_cases
from tests.unit.lake_cases import DAY, DAYS, START, SWAP_MS, Streamed, ids, run_in, streamed, write_rows


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    return streamed(tmp_path_factory.mktemp("home"))


def bits(column: Any) -> bytes:
    return np.ascontiguousarray(column).tobytes()


def span_of(version: int) -> dict[str, int]:
    return {"to_ms": SWAP_MS} if version == 1 else {"from_ms": SWAP_MS}


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_every_score_and_action_is_the_stream_s_bit_for_bit(archived: Streamed, version: int, fold: bool) -> None:
    run, bundle = archived.run(), archived.bundles[version]
    found = past_for(run, bundle, archived.needs, fold=fold, **span_of(version))
    assert bool(found.folded) is fold
    mine = np.flatnonzero(np.asarray(archived.events[BUNDLE]) == version)
    live = take(archived.events, mine)
    live = take(live, np.argsort(np.asarray(live[TIME]), kind="stable"))
    scores = score_columns(Scorer(run.plan, bundle), found.columns)
    assert ids(found.columns) == ids(live)
    assert len(mine) > 1000
    assert bits(scores.score) == bits(live[SCORE]) == bits(found.columns[SCORE])
    assert bits(scores.action) == bits(live[ACTION])


@pytest.mark.parametrize(("chunk_rows", "threads"), [(1, 1), (7, 3), (64, 2), (100_000, 1)])
def test_chunks_and_threads_do_not_show(archived: Streamed, chunk_rows: int, threads: int) -> None:
    run, bundle = archived.run(), archived.bundles[1]
    columns = take(past_for(run, bundle, archived.needs).columns, np.arange(2_000))
    scorer = Scorer(run.plan, bundle)
    told: list[tuple[str, int, int]] = []
    whole = score_columns(scorer, columns, reasons=True, tell=lambda *rows: told.append(rows))
    parts = score_columns(scorer, columns, reasons=True, chunk_rows=chunk_rows, threads=threads)
    assert (bits(parts.score), bits(parts.action), bits(parts.band)) == (
        bits(whole.score), bits(whole.action), bits(whole.band)
    )  # fmt: skip
    assert parts.reasons == whole.reasons
    assert told[-1] == ("events scored", 2_000, 2_000)


def test_trees_texts_and_layers_do_not_show_chunks_either() -> None:
    scorer = Scorer(bundle_cases.plan(), bundle_cases.bundle())
    columns, _ = bundle_cases.columns(9_000, seed=5)
    whole = score_columns(scorer, columns, chunk_rows=20_000)
    assert bits(whole.score) == bits(scorer.score(columns).score)
    for chunk_rows in (1_000, 4_096):
        assert bits(score_columns(scorer, columns, chunk_rows=chunk_rows).score) == bits(whole.score)


def test_a_table_has_a_row_for_each_event(archived: Streamed, tmp_path: Path) -> None:
    run, bundle = archived.run(), archived.bundles[2]
    columns = past_for(run, bundle, archived.needs, from_ms=SWAP_MS).columns
    scores = score_columns(Scorer(run.plan, bundle), columns, reasons=True)
    score_table(bundle, columns, scores, reasons=True).write_parquet(tmp_path / "scores.parquet")
    table = pl.read_parquet(tmp_path / "scores.parquet")
    assert table.columns == ["event_id", "score", "band", "action", "bundle", "reasons"]
    assert table["event_id"].to_list() == ids(columns)
    assert table["action"].to_list() == [ACTIONS[a] for a in scores.action]
    assert set(table["bundle"]) == {2}
    assert set(table["band"]) <= set(scores.band_names)
    said = table.with_columns(said=pl.col("reasons").list.len() > 0)
    assert (scores.action != APPROVE).sum() == said["said"].sum() > 0
    assert "reasons" not in score_table(bundle, columns, scores).columns


def test_features_that_the_live_bundle_did_not_need_are_worked_out_again(archived: Streamed) -> None:
    run, bundle = archived.run(), archived.bundles[1]
    other = {**bundle.needed, "amount_to_usual": "of another time"}
    assert "knew otherwise 'amount_to_usual'" in past_for(run, bundle, lambda _: other).folded
    assert "is not in the registry" in past_for(run, bundle, lambda _: None).folded
    assert past_for(run, bundle, archived.needs).folded == ""


def test_a_changed_archive_shows_that_it_is_folded_again(archived: Streamed, tmp_path: Path) -> None:
    """What stands in the archive is taken only where it is known to be right."""
    run, bundle = run_in(tmp_path), archived.bundles[1]
    spoilt: Columns = {**archived.rows, "amount_to_usual": np.zeros(n_rows(archived.rows))}
    write_rows(tmp_path / "lake", run.names, spoilt, run.plan.entities)
    again = past_for(run, bundle, lambda _: None).columns
    right = past_for(archived.run(), bundle, archived.needs).columns
    assert bits(again["amount_to_usual"]) == bits(right["amount_to_usual"])
    assert ids(again, ID) == ids(right, ID)


def test_files_of_a_history_need_no_lake(archived: Streamed, tmp_path: Path) -> None:
    from batch.simulate import simulate

    run, bundle = run_in(tmp_path), archived.bundles[1]
    world = simulate(9, SWAP_MS, 5, 30, 10)
    found = past_for(run, bundle, archived.needs, tables={"events": world.events, "labels": world.labels})
    assert n_rows(found.columns) == len(world.events)
    assert (np.asarray(found.columns[ACTION]) == -1).all()
    with pytest.raises(NotReady, match="riskflow archive card_fraud"):
        past_for(run, bundle, archived.needs)


def test_runs_of_a_backfill_together_score_what_one_run_scores(
    archived: Streamed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each over its data interval; one without an event writes no file."""
    from batch import past_steps

    shelf: Any = SimpleNamespace(bundle=lambda asked: archived.bundles[int(asked)], needs=archived.needs)
    monkeypatch.setattr(past_steps, "Shelf", lambda plan, conf: shelf)
    run, bundle = archived.run(), archived.bundles[2]
    days = [past_steps.Wish.of({"bundle": "2"}, START + n * DAY, START + (n + 1) * DAY) for n in range(30, 34)]

    done = [past_steps.score(run, wish) for wish in [*days, days[0]]]  # the first one is done again

    found = past_for(run, bundle, archived.needs, from_ms=START + 30 * DAY, to_ms=START + 34 * DAY)
    whole = score_table(bundle, found.columns, score_columns(Scorer(run.plan, bundle), found.columns))
    files = sorted((run.conf.home / "scored" / "card_fraud" / "2").glob("*.parquet"))
    assert [str(path) for path in files] == [about["file"] for about in done[:4]]
    assert pl.concat([pl.read_parquet(path) for path in files]).equals(whole)
    assert sum(about["events"] for about in done[:4]) == len(whole)
    with pytest.raises(Skipped, match="holds no event of that time"):
        past_steps.prepare(run, past_steps.Wish.of({"bundle": "2"}, 0, DAY))
    empty = past_steps.score(run, past_steps.Wish.of({"bundle": "2"}, 0, DAY))
    assert empty["events"] == 0
    assert "no event of that time" in empty["why"]


def test_a_run_without_a_span_covers_the_last_seven_whole_days(archived: Streamed, tmp_path: Path) -> None:
    from batch.past_steps import wish_of

    newest = int(np.asarray(archived.events[TIME]).max())
    assert START + (DAYS - 1) * DAY < newest < START + DAYS * DAY
    for params in ({}, {"from": None, "to": None}):
        wish = wish_of(archived.run(), params, None, None)
        assert (wish.from_ms, wish.to_ms) == (START + (DAYS - 8) * DAY, START + (DAYS - 1) * DAY)
    interval = wish_of(archived.run(), {}, 5, 9)
    assert (interval.from_ms, interval.to_ms) == (5, 9)
    nothing = wish_of(run_in(tmp_path), {}, None, None)
    assert (nothing.from_ms, nothing.to_ms) == (None, None)
