"""A lake as stream and archive leave it, without services: rows with features, scores and actions of two bundles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fakeredis
import msgspec
import numpy as np
import pytest
import redis

from batch import lake, retrain
from batch.history import history_columns
from batch.pipeline_checks import Range
from batch.replay import replay
from batch.run import Run
from batch.simulate import Delays, Shares, simulate
from cli.common import load_plan
from riskflow.bundle import Bundle, sign
from riskflow.columns import Columns, Text, n_rows, take
from riskflow.evaluate import KIND, TIME
from riskflow.keys import load_private_key, make_keys
from riskflow.names import Names
from riskflow.registry import Registry
from riskflow.scoring import Scorer
from riskflow.settings import load, settings
from riskflow.state import INTAKE_LOG, INTAKE_PARTITION, log_columns
from tests.unit.bundle_cases import KEY

DAY = 86_400_000
START = 1_767_225_600_000
DAYS = 40
SWAP_MS = START + 25 * DAY  # until then the first bundle scores, from then on the second
SHARES = Shares(stolen_card=0.03, compromised_terminal=0.03, card_testing=0.01)
DELAYS = Delays(chargeback_median_ms=2 * DAY, genuine_ms=3 * DAY)


@dataclass(frozen=True)
class Streamed:
    """A lake, the rows that are in it, and the two bundles that have scored them."""

    home: Path
    rows: Columns
    bundles: dict[int, Bundle]

    def run(self) -> Run:
        return run_in(self.home)

    def needs(self, version: int) -> dict[str, str] | None:
        return self.bundles[version].needed if version in self.bundles else None

    @property
    def events(self) -> Columns:
        return take(self.rows, np.flatnonzero(np.asarray(self.rows[KIND]) == 0))


def run_in(home: Path) -> Run:
    run = Run.of(load_plan("card_fraud"), load(home=home), "tried")
    checks = msgspec.structs.replace(run.pipeline.file.checks, rows=Range(500), label_rate=Range(0.0005, 0.3))
    file = msgspec.structs.replace(run.pipeline.file, span="21d", maturity="7d", checks=checks)
    return replace(run, pipeline=type(run.pipeline)(file))


def streamed(home: Path) -> Streamed:
    """Forty days that two bundles have scored in blocks of all sizes; the second one has other thresholds."""
    run = run_in(home)
    bundles = {1: _signed(_trained(run), 1), 2: _signed(_trained(run), 2, review=0.05, decline=0.5)}
    world = simulate(3, START, DAYS, 100, 50, shares=SHARES, delays=DELAYS)
    rows = history_columns(run.plan, {"events": world.events, "labels": world.labels})
    rows = take(rows, np.flatnonzero(np.asarray(rows[TIME]) < START + DAYS * DAY))
    rows = replay(run.plan, rows).columns
    before = np.asarray(rows[TIME]) < SWAP_MS
    rows = _scored(run, rows, {1: np.flatnonzero(before), 2: np.flatnonzero(~before)}, bundles)
    write_rows(home / "lake", run.names, rows, run.plan.entities)
    return Streamed(home, rows, bundles)


def _trained(run: Run) -> Bundle:
    path = run.folder / retrain.BUNDLE
    if not path.is_file():
        world = simulate(4, START - 60 * DAY, DAYS, 120, 60, shares=SHARES, delays=DELAYS)
        retrain.frame_from_tables(run, {"events": world.events, "labels": world.labels})
        retrain.train(run, "logistic_regression")
        retrain.judge_run(run, alone=True)
    return Bundle.from_bytes(path.read_bytes())


def _signed(bundle: Bundle, version: int, **thresholds: float) -> Bundle:
    about = {**bundle.manifest, "version": version, "policy": {**bundle.policy, **thresholds}}
    return sign(replace(bundle, manifest=about), KEY)


def _scored(run: Run, rows: Columns, parts: dict[int, Any], bundles: dict[int, Bundle]) -> Columns:
    """What `stream.score` adds to rows."""
    n, rng = n_rows(rows), np.random.default_rng(0)
    models: Any = {name: np.full(n, np.nan) for name in run.plan.models}
    score, action, version = np.full(n, np.nan), np.full(n, -1, np.int8), np.zeros(n, np.int64)
    for number, mine in parts.items():
        version[mine] = number
        scorer = Scorer(run.plan, bundles[number])
        events = mine[np.asarray(rows[KIND])[mine] == 0]
        while len(events):
            size = int(rng.choice([1, 2, 7, 64, 512]))
            block, events = events[:size], events[size:]
            found = scorer.score(take(rows, block))
            score[block], action[block] = found.score, found.action
            for name, output in found.outputs.items():
                models[name][block] = output
    return {**rows, **models, "_score": score, "_action": action, "_bundle": version}


def write_rows(folder: Path, names: Names, columns: Columns, entities: tuple[str, ...]) -> None:
    """One file of the rows topic, as `archive` writes it."""
    n = n_rows(columns)
    numbers, zeros = np.arange(n, dtype=np.int64), np.zeros(n, np.int32)
    places = {name: value for e in entities for name, value in zip(log_columns(e), (numbers, zeros), strict=True)}
    stamped: Any = {
        **columns, **places, INTAKE_LOG: numbers, INTAKE_PARTITION: zeros, lake.PARTITION: zeros,
        lake.OFFSET: numbers, lake.ROW: zeros, lake.EPOCH: numbers * 0, lake.BROKER_MS: columns[TIME],
    }  # fmt: skip
    path = folder / names.rows / "date=2026-02-01" / lake.part_name(0, 0, n - 1)
    path.parent.mkdir(parents=True)
    lake.frame_of(stamped).write_parquet(path)


def ids(columns: Columns, name: str = "_id") -> list[str | None]:
    column = columns[name]
    assert isinstance(column, Text)
    return column.strings()


def published(archived: Streamed, monkeypatch: pytest.MonkeyPatch, why: str = "first") -> Registry:
    """The lake's two bundles in a registry, the second one as champion; settings point at the lake's home."""
    monkeypatch.setenv("RISKFLOW_HOME", str(archived.home))
    settings.cache_clear()
    server = fakeredis.FakeServer()

    def connect(*_: Any, **__: Any) -> Any:
        return fakeredis.FakeRedis(server=server)

    monkeypatch.setattr(redis.Redis, "from_url", connect)
    make_keys(settings().keys_folder)
    registry = Registry(connect(), archived.run().names)
    for version in (1, 2):
        about = {**archived.bundles[version].manifest, "parent": version - 1 or None}
        unsigned = replace(archived.bundles[version], manifest=about, signature=b"", key="")
        registry.publish(unsigned, load_private_key(settings().keys_folder), who="ann", why=why)
    return registry
