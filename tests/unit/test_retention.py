"""What goes after its time, and what never goes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fakeredis
import msgspec
import pytest

from batch import lake, retention
from batch.pipeline import Pipeline, PipelineFile
from batch.pipeline_dags import Maintain
from batch.pipeline_search import SearchFile
from batch.retention import (
    EVIDENCE,
    drop_old_bundles,
    drop_old_files,
    drop_old_runs,
    needed_versions,
    pinned_versions,
)
from batch.run import Run
from riskflow.errors import NotReady
from riskflow.names import Names
from riskflow.registry import Registry
from riskflow.settings import load
from tests.support import plan_of
from tests.unit.bundle_cases import KEY, rules_only
from tests.unit.test_compact import TOPIC, write

DAY_MS = 86_400_000
NAMES = Names("tried")
NOW_MS = 1_767_225_600_000


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Six versions, each champion for ten days; the newest since ten days ago."""
    found = Registry(fakeredis.FakeRedis(), NAMES)
    for i in range(6):
        at_ms = NOW_MS - (6 - i) * 10 * DAY_MS
        monkeypatch.setattr("riskflow.registry._now_ms", lambda at_ms=at_ms: at_ms)
        found.publish(rules_only(), KEY, who="ann", why="better")
    return found


def there(registry: Registry) -> list[int]:
    return [v for v in registry.versions() if registry.client.exists(registry.names.bundle(v))]


@pytest.fixture
def own_usecases(tmp_path: Path) -> Iterator[Path]:
    """A team's own folder of use cases; the project's are imported again afterwards."""
    yield tmp_path / "usecases"
    plan_of()


def dropped(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, time_: str, **more: Any) -> list[int]:
    """more: `warm_start` of the search, and settings."""
    warm_start = more.pop("warm_start", None)
    pipeline = Pipeline(PipelineFile(maintain=Maintain(bundles=time_), search=SearchFile(warm_start=warm_start)))
    run = Run(plan_of(), pipeline, load(home=tmp_path, **more), "tried")
    monkeypatch.setattr(Run, "registry", lambda _: registry)
    monkeypatch.setattr(retention.time, "time", lambda: NOW_MS / 1000)
    versions: list[int] = drop_old_bundles(run)["dropped"]
    return versions


def test_bundles_that_nobody_names_go_and_their_numbers_stay(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert dropped(registry, monkeypatch, tmp_path, "25d") == [1, 2, 3]  # the move to 5 names 4
    assert there(registry) == [4, 5, 6]
    assert list(registry.versions()) == [1, 2, 3, 4, 5, 6]
    assert registry.publish(rules_only(), KEY, who="ann", why="more").version == 7
    with pytest.raises(NotReady, match="has no bundle 2"):
        registry.raw(2)


def test_the_champion_and_where_a_rollback_would_go_stay_however_old(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert dropped(registry, monkeypatch, tmp_path, "1d") == [1, 2, 3, 4]
    assert registry.rollback(who="ann", why="back", private_key=KEY).version == 5


def test_what_an_alias_or_a_head_names_stays(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registry.move("shadow", 2, who="ann", why="beside", private_key=KEY)
    head = Names("tried", generation=3).head("terminal_id", 11)
    roster = {"champion": {"version": 1, "hash": "x"}, "shadows": [{"version": 3}], "from": 4}
    registry.client.hset(head, "roster", json.dumps(roster))
    assert pinned_versions(registry.client, NAMES) == {1, 3}
    assert dropped(registry, monkeypatch, tmp_path, "1d") == [4]


def test_another_use_cases_heads_say_nothing(registry: Registry) -> None:
    head = Names("tried_two").head("terminal_id", 0)
    registry.client.hset(head, "roster", json.dumps({"champion": {"version": 1}}))
    assert pinned_versions(registry.client, NAMES) == set()


def test_a_young_bundle_stays_though_nobody_has_moved_it(registry: Registry) -> None:
    registry.add(rules_only(), KEY, who="ann")
    assert 7 in needed_versions(registry, NOW_MS - 70 * DAY_MS)


EVENTS = """
from riskflow.declare import Entity, Feed, Transfer

customer = Entity("customer_id")
events = Feed("events", id="event_id", at="occurred_at", fields={"amount": float})
"""


def write_usecase(folder: Path, name: str, more: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "events.py").write_text(EVENTS + more)
    (folder / name / "features.py").write_text("")


def test_what_a_file_names_stays(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_usecases: Path
) -> None:
    write_usecase(own_usecases, "abroad", f"taken = Transfer({plan_of().name!r}, bundle=2)")
    write_usecase(own_usecases, "home", "taken = Transfer('another', bundle=3)")
    assert dropped(registry, monkeypatch, tmp_path, "1d", warm_start=4, usecases=own_usecases) == [1, 3]


def test_no_bundle_goes_while_a_use_case_cannot_be_read(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_usecases: Path
) -> None:
    write_usecase(own_usecases, "abroad", "taken = Transfer(")
    assert dropped(registry, monkeypatch, tmp_path, "1d", usecases=own_usecases) == []
    assert there(registry) == [1, 2, 3, 4, 5, 6]


def test_files_go_by_day_but_never_the_last_of_a_partition(tmp_path: Path) -> None:
    conf, today = load(home=tmp_path), datetime.now(UTC)
    days = [(today - timedelta(days=back)).strftime("%Y-%m-%d") for back in (40, 35, 20, 1)]
    for i, day in enumerate(days):
        for partition in (0, 1)[: 2 if i < 2 else 1]:
            path = write(tmp_path / "lake", day, partition, 10 * i, 10 * i + 9)
            scores = Path(str(path).replace(TOPIC, "card_fraud.scores"))
            scores.parent.mkdir(parents=True, exist_ok=True)
            path.rename(scores)
    ends = lake.ends(conf.lake_folder, "card_fraud.scores")

    found = drop_old_files(plan_of(), conf, Maintain(lake={"scores": "30d"}))

    assert found == {"dropped": {"scores": 3}}
    left = sorted(p.name for p in (tmp_path / "lake").rglob("*.parquet"))
    assert left == ["part-0-20-29.parquet", "part-0-30-39.parquet", "part-1-10-19.parquet"]
    assert lake.ends(conf.lake_folder, "card_fraud.scores") == ends  # so that an archive goes on where it was


def test_folders_of_old_runs_go(tmp_path: Path) -> None:
    run = Run.of(plan_of(), load(home=tmp_path), "now")
    file = msgspec.structs.replace(run.pipeline.file, maintain=Maintain(runs="30d"))
    run = replace(run, pipeline=replace(run.pipeline, file=file))
    for name, age_days in (("old", 31), ("used", 31), ("young", 1), ("now", 90)):
        folder = run.folder.parent / name
        (folder / "tasks").mkdir(parents=True)
        (folder / "tasks" / "a.json").write_text("{}")
        age(folder, age_days)
    (run.folder.parent / "used" / "verdict.json").write_text("{}")

    assert drop_old_runs(run) == {"dropped": ["old"], "thinned": []}
    assert sorted(p.name for p in run.folder.parent.iterdir()) == ["now", "used", "young"]


def test_the_evidence_of_a_run_that_has_published_stays_for_good(tmp_path: Path) -> None:
    run = Run.of(plan_of(), load(home=tmp_path), "now")
    folder = run.folder.parent / "old"
    (folder / "candidates" / "forest").mkdir(parents=True)
    for name in (*EVIDENCE, "frame.parquet", "bundle.bin", "candidates/forest/trained.json"):
        (folder / name).write_text("{}")
    age(folder, 91)

    assert drop_old_runs(run) == {"dropped": [], "thinned": ["old"]}
    assert sorted(p.name for p in folder.iterdir()) == sorted(EVIDENCE)
    age(folder, 91)
    assert drop_old_runs(run) == {"dropped": [], "thinned": []}
    assert sorted(p.name for p in folder.iterdir()) == sorted(EVIDENCE)


def age(folder: Path, days: float) -> None:
    then: Any = time.time() - days * 86_400
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))
