"""Runs of the systems that are compared: topics of their own with the same events, a process, the course."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl
import redis
from kafka.admin import KafkaAdminClient, NewTopic

from batch import topics
from batch.topics import BROKER_TIME
from bench import course
from bench.clock import Arrivals
from bench.course import Result
from bench.peers.environment import Environment
from bench.peers.systems import RISKFLOW, Place, System
from bench.prepare import environment, names_of, publish
from bench.stream import workers
from riskflow.bundle import Bundle
from riskflow.plan import Plan
from riskflow.settings import settings

STOP_S = 20.0


class Runs:
    """What all runs share: one broker, one model, the other systems' environment."""

    def __init__(self, folder: Path, plan: Plan, bundle: Bundle, use: Environment) -> None:
        self._folder, self._plan, self._bundle, self._use = folder, plan, bundle, use
        self._model = folder / "model.onnx"
        self._model.write_bytes(next(content for name, content in bundle.files.items() if name.endswith(".onnx")))

    def run(
        self, system: System, name: str, table: pl.DataFrame, partitions: int, *, warm: int, timeout_s: float
    ) -> tuple[Result, Arrivals]:
        """One system over these events; `name` is new for each run."""
        if system.name == RISKFLOW:
            return self._riskflow(name, table, partitions, warm, timeout_s)
        place = self._place(name, partitions)
        start = partial(running, system.command(self._use, place), place.folder / "log")
        return course.run(
            place.bootstrap, (place.source, place.out), table, start,
            warm=warm, timeout_s=timeout_s, sees_open=system.sees_open,
        )  # fmt: skip

    def _riskflow(
        self, name: str, table: pl.DataFrame, partitions: int, warm: int, timeout_s: float
    ) -> tuple[Result, Arrivals]:
        environment(RISKFLOW_TOPIC_PREFIX=f"{name}.")
        topics.make(self._plan, settings(), partitions)
        publish(self._plan, self._bundle)
        names = names_of(self._plan)
        start = partial(worker_and_redis, self._plan.name)
        way = names.feed(self._plan.scored.name), names.scores
        return course.run(settings().kafka, way, table, start, warm=warm, timeout_s=timeout_s)

    def _place(self, name: str, partitions: int) -> Place:
        """A folder and topics for one run."""
        kafka, folder = settings().kafka, self._folder / name
        folder.mkdir()
        place = Place(kafka, f"{name}.events", f"{name}.scores", partitions, self._model, folder)
        admin = KafkaAdminClient(bootstrap_servers=kafka)
        admin.create_topics([NewTopic(t, partitions, 1, topic_configs=BROKER_TIME) for t in (place.source, place.out)])
        admin.close()
        return place


@contextmanager
def worker_and_redis(usecase: str) -> Iterator[list[int]]:
    """A worker; Redis holds its state, so what Redis does is part of its cost."""
    server = redis.Redis.from_url(settings().redis_url).info("server")
    with workers(usecase) as started:
        yield [*started, int(server["process_id"])]


@contextmanager
def running(command: list[str], log: Path) -> Iterator[list[int]]:
    """A system's process, ended with the block; the end of its log is told when the block fails."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        yield [process.pid]
    except BaseException:
        print(log.read_text(errors="replace")[-3000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
