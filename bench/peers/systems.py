"""The systems that are compared, how each is started, and what each promises."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.environment import HERE, Environment

RISKFLOW = "riskflow"


@dataclass(frozen=True)
class Place:
    """Where one run of a system reads, writes and keeps its files."""

    bootstrap: str
    source: str
    out: str
    partitions: int
    model: Path
    folder: Path


@dataclass(frozen=True)
class System:
    """`state`: what is left of its state and its counts after a kill. `slow`: is given few events.

    in_order: options with which events keep their order from one entity to the next.
    """

    name: str
    title: str
    state: str
    script: str = ""
    options: tuple[str, ...] = ()
    in_order: tuple[str, ...] = ()
    java: dict[str, str] = field(default_factory=dict)
    slow: bool = False
    sees_open: bool = False  # reads what is not committed yet

    def command(self, use: Environment, place: Place) -> list[str]:
        given = {n: str(getattr(place, n)) for n in ("bootstrap", "source", "out", "partitions", "model", "folder")}
        if self.java:
            properties = [f"-D{name}={value}" for name, value in (given | self.java).items()]
            return [use.java, "-Xms1g", "-Xmx4g", *properties, "-cp", use.classpath, "riskflow.bench.Job"]
        told = [word for name, value in given.items() for word in (f"--{name}", value)]
        return [str(use.python), str(HERE / self.script), *told, *self.options]


def kafka_streams(guarantee: str, threads: int = 1) -> dict[str, str]:
    return {"guarantee": guarantee, "threads": str(threads), "org.slf4j.simpleLogger.defaultLogLevel": "warn"}


SYSTEMS = [
    System(RISKFLOW, "**Riskflow**, one worker", "exact"),
    System(
        "kafka_streams_eos", "Kafka Streams 4.1, `exactly_once_v2`", "exact", java=kafka_streams("exactly_once_v2")
    ),
    System("kafka_streams", "Kafka Streams 4.1, at least once", "may count twice", java=kafka_streams("at_least_once")),
    System("bytewax", "Bytewax 0.21", "none", "bytewax_job.py", in_order=("--in-order",)),
    System(
        "bytewax_recovery", "Bytewax 0.21 with its recovery store", "exact, 10 s old; sends scores again",
        "bytewax_job.py", ("--recovery",), ("--in-order",),
    ),
    System("quix", "Quix Streams 3.28", "may count twice", "quix_job.py"),
    System(
        "faust", "Faust 0.15 as its guide writes it", "may count twice, may lose", "faust_job.py", slow=True,
        sees_open=True,
    ),
    System("aiokafka", "a bare aiokafka loop", "none", "aiokafka_loop.py"),
    System("librdkafka", "a bare librdkafka loop, one Python thread", "none", "librdkafka_loop.py"),
]  # fmt: skip
