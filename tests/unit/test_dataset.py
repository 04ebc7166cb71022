"""A training set is made again from its manifest, bit for bit: the lake has grown since, and files were merged."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from typer.testing import CliRunner

from batch import dataset, lake, retrain
from batch.dataset import CannotRebuild
from batch.retention import drop_old_runs
from batch.run import Run
from batch.table_hash import content_hash
from batch.training_set import TrainingSet
from cli import dataset as group
from riskflow.bundle import Bundle
from riskflow.columns import Columns, n_rows, take
from riskflow.evaluate import TIME
from riskflow.settings import settings
from tests.unit.lake_cases import DAY, START, Streamed, run_in, streamed, write_rows

THEN = START + 32 * DAY  # until when rows are archived when the set is made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    return streamed(tmp_path_factory.mktemp("whole"))


def written(home: Path, rows: Columns, firsts: list[int]) -> Path:
    """These rows as files that begin at these offsets; returns the topic's folder."""
    run = run_in(home)
    topic = home / "lake" / run.names.rows
    write_rows(home / "one" / "lake", run.names, rows, run.plan.entities)
    table = lake.read_topic(home / "one" / "lake", run.names.rows)
    shutil.rmtree(home / "one")
    for first, end in zip(firsts, [*firsts[1:], len(table)], strict=True):
        file(topic, table.slice(first, end - first))
    return topic


def file(topic: Path, table: pl.DataFrame) -> None:
    path = topic / "date=2026-02-01" / lake.part_name(0, table[lake.OFFSET][0], table[lake.OFFSET][-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(path)


def merged(topic: Path, extra: bool = False) -> None:
    """All files become one, as a compaction does; extra: with a column that older rows do not have."""
    table = lake.read_topic(topic.parent, topic.name)
    if extra:
        later = table[TIME] >= THEN
        table = table.with_columns(_new=pl.Series([1.5 if x else None for x in later.to_list()]))
    shutil.rmtree(topic)
    file(topic, table)


@pytest.fixture
def made(whole: Streamed, tmp_path: Path) -> tuple[Run, TrainingSet]:
    """A lake that ends at THEN, in three files, and the training set that was made of it."""
    early = np.flatnonzero(np.asarray(whole.rows[TIME]) < THEN)
    rows = take(whole.rows, early)
    written(tmp_path, rows, [0, 700, 1500])
    run = run_in(tmp_path)
    retrain.replay_frame(run)
    return run, TrainingSet.read(run.folder / retrain.FRAME)


def grow(run: Run, whole: Streamed) -> Path:
    """What was archived since; the file before stays as it is."""
    early = int((np.asarray(whole.rows[TIME]) < THEN).sum())
    topic = run.conf.lake_folder / run.names.rows
    shutil.rmtree(topic)
    return written(run.conf.home, whole.rows, [0, 700, 1500, early, early + 300])


def test_the_same_set_is_made_again_after_the_lake_has_grown_and_was_merged(
    made: tuple[Run, TrainingSet], whole: Streamed
) -> None:
    run, data = made
    manifest = dataset.read(run.folder)
    topic = grow(run, whole)
    for change in (lambda: None, lambda: merged(topic), lambda: merged(topic, extra=True)):
        change()
        again = dataset.rebuild(replace(run, name="later"), manifest)
        assert again.table().equals(data.table(), null_equal=True)
        assert content_hash(again.table()) == manifest["frame"]["sha256"]
        again.write(run.folder / "again.parquet")
        assert (run.folder / "again.parquet").read_bytes() == (run.folder / retrain.FRAME).read_bytes()
    new = retrain.replay_frame(replace(run, name="later"))
    assert new["to_ms"] > int(data.at_ms[-1]), "a new set is another one"


def test_a_published_set_is_made_again_long_after_its_run_was_cleared_away(made: tuple[Run, TrainingSet]) -> None:
    run, data = made
    (run.folder / retrain.PUBLISHED).write_text("{}")
    for path in [*run.folder.rglob("*"), run.folder]:
        os.utime(path, (0, 0))
    later = replace(run, name="later")
    assert drop_old_runs(later)["thinned"] == [run.name]
    assert not (run.folder / retrain.FRAME).exists()
    assert dataset.rebuild(later, dataset.read(run.folder)).table().equals(data.table(), null_equal=True)


def test_a_manifest_names_ranges_terms_and_fingerprints(made: tuple[Run, TrainingSet]) -> None:
    run, data = made
    manifest = dataset.read(run.folder / "manifest.json")
    assert [(r["first"], r["last"]) for r in manifest["lake"]][:2] == [(0, 699), (700, 1499)]
    assert sum(r["rows"] for r in manifest["lake"]) == manifest["lake"][-1]["last"] + 1
    assert manifest["terms"]["until_ms"] == manifest["terms"]["known_before_ms"] - run.pipeline.maturity_ms
    assert manifest["features"]["amount_to_usual"] == run.plan.nodes["amount_to_usual"].fingerprint
    assert manifest["frame"]["rows"] == len(data)


def test_a_bundle_carries_the_hash_of_its_manifest(made: tuple[Run, TrainingSet]) -> None:
    run, _ = made
    retrain.train(run, "logistic_regression")
    retrain.judge_run(run, alone=True)
    bundle = Bundle.from_bytes((run.folder / retrain.BUNDLE).read_bytes())
    assert bundle.data["manifest"] == dataset.manifest_hash(dataset.read(run.folder))


def test_what_is_missing_or_has_changed_is_named(made: tuple[Run, TrainingSet], whole: Streamed) -> None:
    run, _ = made
    manifest = dataset.read(run.folder)
    topic = run.conf.lake_folder / run.names.rows
    (second,) = topic.glob("date=*/part-0-700-1499.parquet")
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(CannotRebuild, match=r"card_fraud\.rows, partition 0, offsets 700 to 1499: not in the lake any"):
        dataset.rebuild(run, manifest)
    table = pl.read_parquet(pl_bytes(kept))
    table.with_columns(pl.col("amount") + 0.01).write_parquet(second)
    with pytest.raises(CannotRebuild, match=r"700 to 1499: the rows in .*part-0-700-1499\.parquet are not what they"):
        dataset.rebuild(run, manifest)
    second.write_bytes(kept)
    other = {**manifest["features"], "amount_to_usual": "0" * 12, "gone": "1"}
    with pytest.raises(CannotRebuild, match=r"'amount_to_usual' has changed since; 'gone' is no longer declared"):
        dataset.rebuild(run, {**manifest, "features": other})
    with pytest.raises(CannotRebuild, match="is no manifest"):
        dataset.read(run.folder / "frame.parquet")
    dataset.rebuild(run, manifest)


def pl_bytes(content: bytes) -> Any:
    import io

    return io.BytesIO(content)


def test_a_feature_that_was_added_since_is_no_hindrance(made: tuple[Run, TrainingSet]) -> None:
    """As if the manifest were older than one of the features."""
    run, data = made
    manifest, added = dataset.read(run.folder), "amount_to_usual"
    then = data.table().drop(added)
    features = {name: print_ for name, print_ in manifest["features"].items() if name != added}
    frame = {**manifest["frame"], "columns": then.columns, "sha256": content_hash(then)}
    again = dataset.rebuild(run, {**manifest, "features": features, "frame": frame})
    assert again.table().equals(then)


def test_a_set_from_files_says_that_it_needs_them(tmp_path: Path) -> None:
    from batch.simulate import simulate

    run = run_in(tmp_path)
    world = simulate(4, START, 40, 60, 30)
    retrain.frame_from_tables(run, {"events": world.events, "labels": world.labels})
    manifest = dataset.read(run.folder)
    assert manifest["tables"]["events"]["rows"] == len(world.events)
    with pytest.raises(CannotRebuild, match=r"made from files, which the lake does not keep: events \("):
        dataset.rebuild(run, {**manifest, "lake": [], "generations": []})


def test_the_command_shows_a_set_and_makes_it_again(
    made: tuple[Run, TrainingSet], whole: Streamed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = made
    grow(run, whole)
    monkeypatch.setenv("RISKFLOW_HOME", str(run.conf.home))
    settings.cache_clear()
    app = typer.Typer()
    group.register(app)
    shown = CliRunner().invoke(app, ["dataset", "show", str(run.folder)])
    assert shown.exit_code == 0, shown.output
    assert f"{len(data):,}, frauds {data.frauds}" in shown.output
    assert "strongest first: analyst, chargeback, confirmed" in shown.output
    out = tmp_path / "again.parquet"
    done = CliRunner().invoke(
        app, ["dataset", "rebuild", str(run.folder / "manifest.json"), "--out", str(out), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["rows"] == len(data)
    assert out.read_bytes() == (run.folder / retrain.FRAME).read_bytes()
    settings.cache_clear()


# ---- the hash of rows ------------------------------------------------------------------------------------------------

CELLS = st.fixed_dictionaries({
    "number": st.one_of(st.none(), st.floats()),
    "whole": st.one_of(st.none(), st.integers(-(2**62), 2**62)),
    "text": st.one_of(st.none(), st.text(max_size=4)),
    "raw": st.one_of(st.none(), st.binary(max_size=4)),
})  # fmt: skip
SCHEMA = {"number": pl.Float64, "whole": pl.Int64, "text": pl.String, "raw": pl.Binary}


@examples(max_examples=60, deadline=None)
@given(st.lists(CELLS, max_size=8), st.lists(CELLS, min_size=1, max_size=4), st.data())
def test_rows_have_one_hash_whatever_file_they_lie_in(rows: list[Any], others: list[Any], data: st.DataObject) -> None:
    """Merged with others, columns in another order, columns that only the others have."""
    table, other = pl.DataFrame(rows, schema=SCHEMA), pl.DataFrame(others, schema=SCHEMA)
    merged = pl.concat([table, other.with_columns(later=pl.lit(1.0))], how="diagonal_relaxed")
    shuffled = merged.select(data.draw(st.permutations(merged.columns)))
    assert content_hash(shuffled.slice(0, len(table))) == content_hash(table)
    assert content_hash(shuffled) != content_hash(table)


@examples(max_examples=60, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=6), st.data())
def test_a_changed_cell_changes_the_hash(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    changed = [dict(row) for row in rows]
    at, name = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.sampled_from([*SCHEMA]))
    changed[at][name] = data.draw(CELLS)[name]
    same = repr(changed) == repr(rows)
    assert (
        content_hash(pl.DataFrame(changed, schema=SCHEMA)) == content_hash(pl.DataFrame(rows, schema=SCHEMA))
    ) == same


def test_growth_alone_leaves_the_ranges_as_they_were(made: tuple[Run, TrainingSet], whole: Streamed) -> None:
    run, _ = made
    before = json.loads((run.folder / "manifest.json").read_text())
    grow(run, whole)
    seen = dataset.seen_then(before)
    read = lake.read_topic(run.conf.lake_folder, run.names.rows, upto=seen.upto(run.names.rows))
    assert len(read) == sum(r["rows"] for r in before["lake"]) < n_rows(whole.rows)
