"""An installation without services for the tests of promotion: a registry, and a lake that tests write to.

Kafka is left out: what `archive` would bring is written by `raced` and `decided`, through the archive's own code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fakeredis
import msgspec
import numpy as np
import pytest
import redis

from batch import canary_pairs, promote
from batch.alerts import Alerts
from batch.history import history_columns
from batch.pipeline_promotion import RaceFile, RampFile
from batch.run import Run
from batch.simulate import Delays, Shares, World, simulate
from riskflow.columns import n_rows
from riskflow.evaluate import KIND
from riskflow.keys import load_private_key, make_keys
from riskflow.registry import Registry
from riskflow.settings import load
from tests.support import plan_of
from tests.unit.bundle_cases import rules_only
from tests.unit.lake_cases import write_rows
from tests.unit.test_archive import Record, archived

DAY = 86_400_000
START = 1_767_225_600_000
DAYS = 14
MATURITY_DAYS = 3
RACE = RaceFile(horizon="3d", fewest_frauds=10, replicates=200)
RAMP = RampFile(shares=[0.1, 1.0])
SHARES = Shares(stolen_card=0.03, compromised_terminal=0.03, card_testing=0.01)
Actions = Sequence[str]


@dataclass
class Installation:
    """Version 1 is champion. Versions that challenge guess, unless they are told to know."""

    run: Run
    registry: Registry
    archived_topics: list[Any] = field(default_factory=list)  # what each archive was asked for
    _offsets: dict[str, int] = field(default_factory=dict)

    def publish(self, alias: str | None) -> int:
        about = {**rules_only().manifest, "usecase": self.run.plan.name}
        bundle = replace(rules_only(), manifest=about)
        return self.registry.publish(bundle, self.key, who="ann", why="tried", alias=alias).version

    def move(self, alias: str, version: int, share: float | None = None, who: str = "ann") -> None:
        self.registry.move(alias, version, who=who, why="a wish", private_key=self.key, share=share)

    def retire(self, alias: str, who: str = "ann") -> None:
        self.registry.retire(alias, who=who, why="a wish", private_key=self.key)

    @property
    def key(self) -> Any:
        return load_private_key(self.run.conf.keys_folder)

    @property
    def standing(self) -> dict[str, int]:
        return {alias: move.version for alias, move in self.registry.aliases().items()}

    # the lake

    def raced(self, *versions: int, knows: int = 0, from_day: float = 0.0, to_day: float = DAYS) -> None:
        """All of these and the champion have scored the world's events of those days; `knows`: this one is right."""
        rng = np.random.default_rng(len(self._offsets))
        fraud = dict(_world().truth.select("event_id", "is_fraud").iter_rows())
        records = []
        for event, at_ms in _world().events.select("event_id", "occurred_at_ms").iter_rows():
            if from_day * DAY <= at_ms - START < to_day * DAY:
                scores = {v: float(fraud[event]) * 0.5 + rng.random() * 0.3 if v == knows else rng.random()
                          for v in (1, *versions)}  # fmt: skip
                others = [_opinion(f"challenger:v{v}", v, "approve", scores[v]) for v in versions]
                now_ms = int(time.time() * 1000)  # only what was said since the challenger's move counts
                records.append((now_ms, _said(event, at_ms, _decided(1, "approve", scores[1]), others)))
        self._write(self.run.names.shadow, records)

    def decided(
        self, version: int, canary: Actions, champion: Actions, customers: int = 100, *, spread_ms: int = 10_000
    ) -> None:
        """The canary has decided on new events, one after the other, of so many customers in turn."""
        now_ms, first = int(time.time() * 1000), self._offsets.get("live", 0)
        beaten = self.standing["champion"]
        events, said = [], []
        for i, (mine, its) in enumerate(zip(canary, champion, strict=True), first):
            event, at_ms = f"live-{i}", now_ms - 4 * 3_600_000 + (i - first) * spread_ms
            about = {"event_id": event, "occurred_at": at_ms, "customer_id": f"c{i % customers}", "terminal_id": "t",
                     "amount": 1.0, "channel": "chip"}  # fmt: skip
            events.append((now_ms, json.dumps(about).encode()))
            opinions = [_opinion("challenger", version, mine), _opinion("champion", beaten, its)]
            said.append((now_ms, _said(event, at_ms, _decided(version, mine), opinions)))
        self._write(self.run.names.feed("events"), events)
        self._write(self.run.names.shadow, said)
        self._offsets["live"] = first + len(canary)

    def _write(self, topic: str, records: list[tuple[int, bytes]]) -> None:
        first = self._offsets.get(topic, 0)
        made = [
            Record(0, first + i, at_ms, value, headers=(("epoch", b"5"),)) for i, (at_ms, value) in enumerate(records)
        ]
        archived(self.run.plan, self.run.conf.lake_folder, topic, made)
        self._offsets[topic] = first + len(records)


def installed(home: Path, monkeypatch: pytest.MonkeyPatch, ramp: RampFile = RAMP) -> Installation:
    """A champion, and a lake with the rows of a small world."""
    server = fakeredis.FakeServer()
    monkeypatch.setattr(redis.Redis, "from_url", lambda *_, **__: fakeredis.FakeRedis(server=server))
    run = Run.of(plan_of(), load(home=home), "promote__tried")
    file = msgspec.structs.replace(
        run.pipeline.file, maturity=f"{MATURITY_DAYS}d", race=RACE, ramp=ramp, alerts=Alerts()
    )  # fmt: skip
    run = replace(run, pipeline=replace(run.pipeline, file=file))
    make_keys(run.conf.keys_folder)
    made = Installation(run, run.registry())
    for module in (promote, canary_pairs):
        monkeypatch.setattr(module, "archive", lambda plan, conf, only=None: made.archived_topics.append(only))
    monkeypatch.setattr(promote, "PAUSE_S", 0.0)
    made.publish("champion")
    _write_world(run)
    return made


def _world() -> World:
    if not _worlds:
        delays = Delays(chargeback_median_ms=DAY, chargeback_most_ms=2 * DAY, genuine_ms=2 * DAY)
        _worlds.append(simulate(3, START, DAYS, 100, 50, shares=SHARES, delays=delays))
    return _worlds[0]


_worlds: list[World] = []


def _write_world(run: Run) -> None:
    """Rows that the champion has approved."""
    rows = history_columns(run.plan, {"events": _world().events, "labels": _world().labels})
    n = n_rows(rows)
    events = np.asarray(rows[KIND]) == 0
    decided: Any = {
        "_score": np.where(events, 0.1, np.nan), "_action": np.where(events, 0, -1).astype(np.int8),
        "_bundle": np.ones(n, np.int64),
    }  # fmt: skip
    write_rows(run.conf.lake_folder, run.names, {**rows, **decided}, run.plan.entities)


def _decided(bundle: int, action: str, score: float = 0.5) -> dict[str, Any]:
    return {"bundle": bundle, "score": score, "action": action}


def _opinion(alias: str, bundle: int, action: str, score: float = 0.5) -> dict[str, Any]:
    return {"alias": alias, "bundle": bundle, "score": score, "band": "low", "action": action}


def _said(event: str, at_ms: int, decided: dict[str, Any], others: list[dict[str, Any]]) -> bytes:
    return json.dumps({"event_id": event, "occurred_at": at_ms, "decided": decided, "others": others}).encode()
