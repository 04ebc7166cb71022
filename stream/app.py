"""The composition root: settings, plan, topics, stages and agents, put together. `faust -A stream.app worker` runs it.

One event's way: Intake (stream/intake.py) -> EntityStage of each entity (stream/entity.py) -> Score (stream/score.py).
Between them: Outbox -> Producer (stream/transport.py) -> Kafka -> Lanes (stream/lanes.py), by a fetch or handed on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Any

import faust
import structlog
from faust.tables import TableManager
from prometheus_client import start_http_server
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError

from riskflow.connect import connect, connect_async
from riskflow.errors import Leave, NotReady, RiskflowError
from riskflow.hashkey import read_hash_key
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.registry_reader import AsyncRegistry
from riskflow.settings import Settings, settings
from riskflow.usecase import load_usecase
from riskflow.warmup import warm_up
from stream.cluster import TopicIds, TopicInfo, check_newest, describe
from stream.drift import Drift
from stream.entity import EntityStage, Forward
from stream.intake import Intake
from stream.lanes import Lanes
from stream.process import configure_logs, end_process, end_soon, share_the_lock, spare_the_collector
from stream.score import Partitions, Score
from stream.swap import Swap
from stream.sweep import Sweep
from stream.transport import Transport

log = structlog.get_logger(__name__)


class Worker:
    """Everything one worker process holds."""

    _watching: asyncio.Task[None]

    def __init__(self, plan: Plan, conf: Settings, slot: int, *, beside: bool = False) -> None:
        self.plan, self.conf = plan, conf
        never = Retry(NoBackoff(), 0)  # stream/head.py decides what an unanswered commit means
        self.redis = connect_async(conf.redis_url, socket_timeout=30, socket_connect_timeout=5, retry=never)
        self.names = Names(plan.name, generation(conf, plan.name, beside), conf.topic_prefix)
        self.worker = f"{socket.gethostname()}/{slot}"
        self.app = make_faust(self.names, conf, slot)
        self.topic_ids = TopicIds(conf.kafka)
        self.lanes = Lanes(self.names, plan.layout_fingerprint, self.redis, self.describe, conf.batch_rows, self.failed)
        self.sweep = Sweep(plan, self.lanes, conf.sweep_s)
        self.swap = Swap(plan, AsyncRegistry(self.redis, self.names, conf.keys_folder), conf.poll_s)
        self._make_agents()

    def topics(self) -> list[str]:
        """Every topic this worker reads or writes."""
        entities = [self.names.by(e) for e in self.plan.entities]
        feeds = [self.names.feed(f.name) for f in self.plan.usecase.feeds]
        return [*feeds, *entities, self.names.scores, self.names.shadow, self.names.rows, self.names.rejected]

    async def describe(self) -> dict[str, TopicInfo]:
        return await describe(self.topic_ids, self.topics(), f"riskflow topics {self.plan.name}")

    def failed(self, error: BaseException) -> None:
        """Anything unexpected ends the process without a commit; a supervisor starts it again from the heads."""
        known = isinstance(error, RiskflowError)
        log.error("worker ends", why=str(error) or repr(error), exc_info=None if known else error)
        end_process(3 if isinstance(error, NotReady) else 4 if isinstance(error, Leave) else 1)

    def _make_agents(self) -> None:
        reads = [self.names.feed(f.name) for f in self.plan.usecase.feeds]
        reads += [self.names.by(e) for e in self.plan.entities]
        for name in reads:
            topic = self.app.topic(name, key_serializer="raw", value_serializer="raw")
            self.app.agent(topic, name=f"stage.{name}", concurrency=1)(self._agent)
        self.app.on_before_shutdown.connect(self._stopping, weak=False)

    async def _stopping(self, *_: Any, **__: Any) -> None:
        """An orderly stop gets a while; the broker may be away and never answer."""
        end_soon(0)

    async def _agent(self, stream: Any) -> None:
        """Every agent's body: what its topic brings goes into the lane of its partition."""
        channel = stream.channel
        while True:
            try:
                event = await channel.get()
            except StopAsyncIteration:
                return  # Faust closes the channel when the worker stops
            try:
                self.lanes.put(event.message)
            except BaseException as error:
                if not isinstance(error, asyncio.CancelledError):
                    self.failed(error)
                raise

    def prepare(self) -> None:
        """Begins at start what is done while the consumer joins its group: the bundle is loaded."""
        if self.conf.metrics_port:
            start_http_server(self.conf.metrics_port)
        self._watching = asyncio.get_running_loop().create_task(self.swap.watch())
        self.lanes.watch(self.topic_ids.of)
        self.lanes.background(self.sweep.watch())

    async def connect(self) -> None:
        """Makes the stages, which need the numbers of partitions; called before the consumer is asked for positions."""
        beside = await self.redis.get(self.names.beside)
        await check_newest(self.topic_ids, self.names, self.plan.entities[0], int(beside or 0))
        topics = await self.describe()
        plan, names, producer = self.plan, self.names, self.app.producer
        producer.on_log = self.lanes.hand_on
        partitions = [topics[names.by(e)].partitions for e in plan.entities]
        for feed in plan.usecase.feeds:
            self.lanes.add(
                Intake(plan, feed, names, producer, partitions[0], read_hash_key(plan, self.conf.keys_folder))
            )
        for i, stage in enumerate(plan.stages):
            last = i == len(plan.stages) - 1
            following: Any = (
                self._score(topics) if last else Forward(names, stage, plan.stages[i + 1], partitions[i + 1])
            )
            self.lanes.add(EntityStage(plan, stage, names, producer, following))
        spare_the_collector()

    def _score(self, topics: dict[str, TopicInfo]) -> Score:
        found = [topics[topic].partitions for topic in (self.names.scores, self.names.shadow, self.names.rows)]
        return Score(self.plan, self.names, self.swap, self.worker, Partitions(*found), self._drift())

    def _drift(self) -> Drift:
        send = self.app.producer.send_records
        return Drift(self.plan.name, self.names.drift, self.worker, send, self.conf.drift_s, self.conf.drift_share)


class App(faust.App):
    """Faust's app, which makes its consumer belong to the worker's lanes."""

    worker: Worker

    async def on_start(self) -> None:
        await super().on_start()
        self.worker.prepare()

    def _new_consumer(self) -> Any:
        consumer: Any = super()._new_consumer()
        lanes = self.worker.lanes
        lanes.consumer = consumer
        connected: list[bool] = []

        async def claim(assigned: Any) -> Any:
            if not connected:
                await self.worker.connect()
                connected.append(True)
            return await lanes.claim(set(assigned))

        consumer.claim, consumer.release = claim, lanes.release
        consumer.positions, consumer.failed = lanes.positions, self.worker.failed
        return consumer


class NoTables(TableManager):  # type: ignore[misc]
    """Faust's own waits a second at each start for tables to be declared; there are none."""

    async def sleep(self, n: Any, **_: Any) -> None:
        await asyncio.sleep(0)


def make_faust(names: Names, conf: Settings, slot: int) -> App:
    """The Faust app with the settings that were measured; see docs/decisions."""
    datadir = conf.home / "faust" / str(slot)
    datadir.mkdir(parents=True, exist_ok=True)
    app = App(
        names.group,
        broker=[f"kafka://{address}" for address in conf.kafka.split(",")],
        store="memory://",
        datadir=datadir,
        processing_guarantee="at_least_once",
        consumer_auto_offset_reset="earliest",  # never relied upon: positions come from the heads, and gaps are checked
        consumer_group_instance_id=f"{names.group}-{slot}",
        consumer_max_fetch_size=4 * 1024 * 1024,
        broker_session_timeout=10,
        broker_heartbeat_interval=3,
        broker_rebalance_timeout=20,
        broker_request_timeout=30,
        broker_commit_interval=2.0,
        producer_acks=-1,
        producer_linger=0,
        producer_max_batch_size=900_000,
        producer_max_request_size=4 * 1024 * 1024,
        producer_request_timeout=120.0,
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        TableManager=NoTables,
    )
    app.transport = Transport(app.conf.broker, app)
    return app


def generation(conf: Settings, usecase: str, beside: bool) -> int:
    """The generation that workers use, as `riskflow topics` or `rebuild` wrote it; 1 before that.

    beside: the one that is made beside it, as long as there is one.
    """
    names = Names(usecase, prefix=conf.topic_prefix)
    with connect(conf.redis_url, socket_timeout=10) as client:
        try:
            found = client.get(names.beside) if beside else None
            return int(found or client.get(names.current_generation) or 1)
        except ConnectionError as error:
            raise NotReady(f"Redis at {conf.redis_url} does not answer ({error}). Run `riskflow up`.") from None


def _plan(usecase: str, conf: Settings) -> Plan:
    """The plan; without one the process ends as not ready, and its supervisor does not start it again."""
    try:
        return Plan.of(load_usecase(usecase, conf.usecases))
    except RiskflowError as error:
        print(f"riskflow: {error}", file=sys.stderr)
        end_process(3)
        raise


def make_worker() -> Worker:
    """The worker that the environment asks for: RISKFLOW_USECASE (card_fraud), RISKFLOW_SLOT, RISKFLOW_BESIDE."""
    conf = settings()
    configure_logs(conf.log_level)
    share_the_lock()
    plan = _plan(os.environ.get("RISKFLOW_USECASE", "card_fraud"), conf)
    warm_up(plan)
    beside = os.environ.get("RISKFLOW_BESIDE", "") == "1"
    worker = Worker(plan, conf, int(os.environ.get("RISKFLOW_SLOT", "0")), beside=beside)
    worker.app.worker = worker
    return worker


# Faust's command imports this module and takes `app` from it.
worker = make_worker()
app = worker.app
