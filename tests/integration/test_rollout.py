"""A roster on real Kafka and Redis: a canary decides for its share, shadows speak and change nothing.

A worker is killed, one shadow breaks and another is gone, and the champion goes back in a moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kafka import KafkaConsumer, TopicPartition

from batch import lake
from batch.archive import archive
from batch.bundling import build_bundle
from batch.produce import Outgoing, send
from batch.shadow_scores import read_shadow_scores
from ops.local import Services
from riskflow.bundle import Bundle
from riskflow.canary import in_share, salt
from riskflow.columns import Columns, take
from riskflow.evaluate import ID, KIND
from riskflow.keys import load_private_key
from riskflow.moves import CANARY, CHAMPION
from riskflow.plan import Plan
from riskflow.registry import Registry
from riskflow.scoring import Scorer
from riskflow.settings import settings
from tests import support
from tests.chaos.observer import Topics, wait_until
from tests.chaos.world import Pacer, World, make_world
from tests.integration import batch_cases as cases

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
SHARE = 0.3
MOST_AMOUNT = 150  # of the fragile shadow


class Rollout:
    """A use case with four bundles beside its champion."""

    def __init__(self, plan: Plan, log: Path) -> None:
        self.plan, self.log = plan, log
        self.names = support.names_of(plan)
        self.registry = Registry(support.store(), self.names)
        self.by: dict[str, Any] = {
            "who": "test",
            "why": "test",
            "private_key": load_private_key(settings().keys_folder),
        }

    def add(self, bundle: Bundle) -> int:
        return self.registry.add(bundle, self.by["private_key"], who="test").version

    def scorer(self, version: int) -> Scorer:
        return Scorer(self.plan, Bundle.from_bytes(self.registry.raw(version)))

    def archived(self, prefix: str) -> tuple[pl.DataFrame, pl.DataFrame, Columns]:
        """Effective scores, opinions, and scored rows, of events whose ids begin so."""
        archive(self.plan, settings())
        mine = pl.col("event_id").str.starts_with(prefix)
        where = self.plan, self.names, settings().lake_folder
        rows = lake.as_columns(self.plan, lake.read_rows(*where))
        ids: Any = rows[ID]
        chosen = (np.asarray(rows[KIND]) == 0) & [name.startswith(prefix) for name in ids.strings()]
        found = (lake.read_scores(*where), read_shadow_scores(*where))
        return *(frame.filter(mine) for frame in found), take(rows, np.flatnonzero(chosen))


@pytest.fixture(scope="module")
def made(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollout]:
    with cases.prefixed("rollout."):
        plan = cases.prepared(partitions=2)
        found = Rollout(plan, tmp_path_factory.mktemp("worker") / "worker.log")
        yield found


def fragile_bundle(plan: Plan) -> Bundle:
    """Its models look the amount up in a table, and fail where it ends; its golden rows are within."""
    rows = support.made_up_rows(plan)
    amounts: Any = rows["amount"]
    numbers = Bundle.from_bytes(support.small_bundle(plan).to_bytes()).policy
    models = {name: table_model(plan.model_inputs(name), seed) for seed, name in enumerate(plan.models)}
    return build_bundle(
        plan, models=models, policy_numbers=numbers, golden_columns=take(rows, np.flatnonzero(amounts < MOST_AMOUNT))
    )


def table_model(inputs: Sequence[str], seed: int) -> Any:
    """Probabilities from a table by the amount, where that is an input."""
    from onnx import TensorProto, helper

    if "amount" not in inputs:
        return support.small_model(len(inputs), seed)
    constants = [
        helper.make_tensor("column", TensorProto.INT64, [1], [inputs.index("amount")]),
        helper.make_tensor("table", TensorProto.FLOAT, [MOST_AMOUNT, 2], [0.9, 0.1] * MOST_AMOUNT),
        helper.make_tensor("shape", TensorProto.INT64, [1], [-1]),
    ]
    nodes = [
        helper.make_node("Gather", ["X", "column"], ["picked"], axis=1),
        helper.make_node("Reshape", ["picked", "shape"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "whole"], ["probabilities"], axis=0),
    ]
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, len(inputs)])
    out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])
    graph = helper.make_graph(nodes, "fragile", [given], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def test_a_roster_is_exact_under_a_kill_and_nothing_beside_the_champion_does_harm(made: Rollout) -> None:
    plan, registry = made.plan, made.registry
    champion = registry.champion()
    assert champion is not None
    canary, shadow, gone = (made.add(support.small_bundle(plan)) for _ in range(3))
    fragile = made.add(fragile_bundle(plan))
    registry.move(CANARY, canary, share=SHARE, **made.by)
    registry.move("shadow", shadow, **made.by)
    registry.move("shadow:fragile", fragile, **made.by)
    registry.move("challenger:gone", gone, **made.by)
    registry.client.delete(made.names.bundle(gone))

    with cases.worker(made.log):  # every head pins the whole roster
        wait_until(lambda: '"event": "roster"' in made.log.read_text(), 120, "loading all")
        cases.produce(cases.renamed(make_world(60, seed=10, customers=20, terminals=20), "w-").messages)
        cases.wait_until(lambda: cases.at_rest(plan))
    world = make_world(1500, seed=11, customers=200, terminals=40)
    cases.killed_while_messages_come(plan, world, made.log, "scores_acknowledged:12")
    cases.run_until_done(plan, made.log)

    scores, opinions, rows = made.archived("e")
    assert [i for i in cases.row_ids(plan) if not i.startswith("w-")] == cases.expected_ids(world)
    assert set(scores["event_id"]) == world.ids("score")
    said = made.log.read_text()
    assert "it failed while it scored" in said
    assert "left out" in said
    _check_decisions(made, scores, rows, champion.version, canary)
    _check_opinions(made, opinions, rows, champion.version, canary, shadow)
    assert opinions.filter(pl.col("alias") == "challenger:gone").is_empty()
    assert len(opinions.filter(pl.col("alias") == "shadow:fragile")) < len(scores)


def _check_decisions(made: Rollout, scores: pl.DataFrame, rows: Columns, champion: int, canary: int) -> None:
    """Each event was decided by whom its customer says, as that bundle decides on the archived row."""
    ids: Any = rows[ID]
    mine = _mine(made, rows, canary)
    assert abs(mine.mean() - SHARE) < 0.15
    by_id = {r["event_id"]: r for r in scores.iter_rows(named=True)}
    decided = np.array([by_id[name]["bundle"] for name in ids.strings()])
    assert decided.tolist() == np.where(mine, canary, champion).tolist()
    assert np.asarray(rows["_bundle"]).tolist() == decided.tolist()
    for version in (champion, canary):
        part = np.flatnonzero(decided == version)
        again = made.scorer(version).score(take(rows, part))
        assert np.array_equal(again.score, np.asarray(rows["_score"])[part])
        assert np.array_equal(again.action, np.asarray(rows["_action"])[part])
        names = [ids.strings()[i] for i in part]
        assert again.score.tolist() == [by_id[name]["score"] for name in names]


def _mine(made: Rollout, rows: Columns, canary: int) -> Any:
    customers: Any = rows["customer_id"]
    content_hash = Bundle.from_bytes(made.registry.raw(canary)).content_hash
    return in_share(customers, SHARE, salt(made.plan.name, content_hash))


def _check_opinions(
    made: Rollout, opinions: pl.DataFrame, rows: Columns, champion: int, canary: int, shadow: int
) -> None:
    """The shadow spoke on every event, the champion where the canary decided; each as it would alone."""
    ids: Any = rows[ID]
    mine = _mine(made, rows, canary)
    for alias, version, part in (("shadow", shadow, rows), (CHAMPION, champion, take(rows, np.flatnonzero(mine)))):
        names: Any = part[ID]
        alone = dict(zip(names.strings(), made.scorer(version).score(part).score.tolist(), strict=True))
        found = opinions.filter(pl.col("alias") == alias)
        assert dict(zip(found["event_id"], found["score"], strict=True)) == alone
        assert set(found["bundle"]) == {version}
        assert len(found) == len(alone)
    decided = dict(zip(ids.strings(), np.where(mine, canary, champion).tolist(), strict=True))
    assert {(n, b) for n, b in opinions.select("event_id", "decided_bundle").iter_rows()} <= set(decided.items())


def test_every_message_of_an_event_says_the_same(made: Rollout) -> None:
    """What the killed worker had sent, its successor sends again byte for byte."""
    topics = Topics(settings().kafka, made.names)
    try:
        for topic in (made.names.scores, made.names.shadow):
            said: dict[bytes, set[bytes]] = {}
            again = 0
            for record in topics.read(topic):
                again += record.key in said
                said.setdefault(record.key, set()).add(record.value)
            assert again > 0, "the kill was to leave something half done"
            assert [key for key, values in said.items() if len(values) > 1] == []
    finally:
        topics.close()


class Tail:
    """Scores as they come."""

    def __init__(self, topic: str) -> None:
        self._consumer = KafkaConsumer(bootstrap_servers=settings().kafka)
        self._consumer.assign([TopicPartition(topic, p) for p in self._consumer.partitions_for_topic(topic) or ()])
        self._consumer.seek_to_end()
        self.any(120)

    def any(self, within_s: float) -> None:
        """Waits for one."""
        deadline = time.monotonic() + within_s
        while not self._consumer.poll(200):
            assert time.monotonic() < deadline, "no score came"

    def first(self, version: int, since_ms: int) -> float:
        """Seconds from that moment until the first score by a version, by the broker's clock."""
        deadline = time.monotonic() + 30
        while True:
            for records in self._consumer.poll(100).values():
                for record in records:
                    if record.timestamp >= since_ms and b'"bundle":%d,' % version in record.value:
                        return (record.timestamp - since_ms) / 1000
            assert time.monotonic() < deadline, f"no score by {version} came"

    def close(self) -> None:
        self._consumer.close()


def test_the_champion_goes_back_in_less_than_two_seconds(made: Rollout) -> None:
    """While events come, and the canary is crowned meanwhile."""
    registry = made.registry
    first = registry.champion()
    assert first is not None
    canary = registry.aliases()[CANARY].version
    world = cases.renamed(make_world(1200, seed=12, customers=200, terminals=40), "r-")
    pacer = Pacer(World(world.messages), settings().kafka, settings().topic_prefix, made.plan.name, 150.0)
    pacer.allowed = 0.3  # then about ten a second, for as long as it takes
    with cases.worker(made.log):
        pacer.start()
        tail = Tail(made.names.scores)
        registry.move(CHAMPION, canary, **made.by)
        assert CANARY not in registry.aliases()
        time.sleep(2)  # the canary had decided before, for its share
        took_s = []
        for _ in range(3):
            took_s.append(tail.first(first.version, registry.rollback(**made.by).at_ms))
            took_s.append(tail.first(canary, registry.move(CHAMPION, canary, **made.by).at_ms))
        pacer.allowed = 1.0
        pacer.join()
        cases.wait_until(lambda: cases.at_rest(made.plan))
    tail.close()
    print("seconds until the first score by the champion of before:", took_s)
    assert max(took_s) < 2.0
    scores, opinions, _ = made.archived("r-")
    assert set(scores["event_id"]) == {f"r-{name}" for name in make_world(1200, 12, 200, 40).ids("score")}
    assert len(opinions.filter(pl.col("alias") == "shadow")) == len(scores)


def test_another_systems_scores_stand_beside_ours(made: Rollout) -> None:
    """As docs/rollout.md says for whoever moves here from an existing scorer."""
    scores, _, _ = made.archived("r-")
    events = scores["event_id"].to_list()[:50]
    said = [
        Outgoing(made.names.external, name.encode(), json.dumps(
            {"event_id": name, "score": 0.01 * i, "action": "decline", "system": "old_engine"}).encode(), None)
        for i, name in enumerate(events)
    ]  # fmt: skip
    send([*said, Outgoing(made.names.external, b"x", b"not JSON", None)], settings().kafka)
    _, opinions, _ = made.archived("r-")
    theirs = opinions.filter(pl.col("alias") == "external:old_engine")
    assert dict(zip(theirs["event_id"], theirs["score"], strict=True)) == {
        name: 0.01 * i for i, name in enumerate(events)
    }
    ours = dict(zip(scores["event_id"], scores["score"], strict=True))
    assert theirs["decided_score"].to_list() == [ours[name] for name in theirs["event_id"]]
