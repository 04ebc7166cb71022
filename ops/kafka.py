"""A real Kafka broker for one machine: KRaft, broker and controller in one process, 256 MB of heap."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import struct
import subprocess
import uuid
from pathlib import Path

from ops import ports
from ops.service import Part, Service
from riskflow.errors import NotReady
from riskflow.settings import PROJECT

JARS = PROJECT / ".riskflow" / "kafka-libs"
BEHIND = "behind-proxy"
HEAP = ["-Xms128m", "-Xmx256m"]
# One compiler and one collector: on two cores the broker's second compiler and G1's threads take more from the stream
# and from Airflow, for minutes, than their code ever gives back (docs/benchmarks.md, "The broker").
LEAN = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]

# One broker: one copy of everything, no wait for further group members, small buffers. Topics are made by
# `riskflow topics`, never by a typing mistake. The cleaner's default buffer alone would be half of the heap.
# A killed broker is let in again when its old session has ended: after 3 s instead of 9.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}{behind}
advertised.listeners=PLAINTEXT://{host}:{port}{advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,BEHIND:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.threads=1
num.network.threads=2
num.io.threads=4
background.threads=4
num.recovery.threads.per.data.dir=2
"""

LOGGING = """\
rootLogger.level=WARN
rootLogger.appenderRef.stdout.ref=STDOUT
appender.stdout.type=Console
appender.stdout.name=STDOUT
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%d{ISO8601} %p %c{2}: %m%n
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=INFO
"""


def prepare(home: Path, port: int) -> None:
    """Write the configuration and, the first time, format the data folder."""
    folder = home / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    values = {"host": ports.HOST, "port": port, "controller": ports.choose(), "data": data}
    (folder / "server.properties").write_text(PROPERTIES.format(**values, **_behind(folder)))
    (folder / "log4j2.properties").write_text(LOGGING)
    if not (data / "meta.properties").exists():
        _format(folder)


def behind_proxy(home: Path, port: int, advertised: int) -> None:
    """From its next start the broker listens at one more port, and tells who comes there to go on at `advertised`."""
    folder = home / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEHIND).write_text(f"{port} {advertised}")


def _behind(folder: Path) -> dict[str, str]:
    """The listener of those who reach the broker through a proxy, if there is one."""
    path = folder / BEHIND
    if not path.exists():
        return {"behind": "", "advertised": ""}
    found = zip(("behind", "advertised"), path.read_text().split(), strict=True)
    return {name: f",BEHIND://{ports.HOST}:{port}" for name, port in found}


def parts(home: Path, port: int) -> list[Part]:
    folder = home / "kafka"
    return [Part("kafka", [*_java(folder), *HEAP, *LEAN, "kafka.Kafka", str(folder / "server.properties")])]


def address(port: int) -> str:
    return f"{ports.HOST}:{port}"


def problem(servers: str) -> str | None:
    """Why none of the bootstrap servers answers with at least one live broker; None when one does."""
    reasons = []
    for server in servers.split(","):
        host, _, port = server.rpartition(":")
        try:
            brokers = _count_brokers(host.strip("[]"), int(port))
        except (OSError, struct.error) as error:
            reasons.append(f"{server}: {error or type(error).__name__}")
            continue
        if brokers:
            return None
        reasons.append(f"{server}: the broker has not joined its cluster yet")
    return "; ".join(reasons)


def _count_brokers(host: str, port: int, timeout_s: float = 2.0) -> int:
    """One Metadata request (version 1, no topics), by hand: quick, quiet, and true only when the broker takes work."""
    request = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)
    with socket.create_connection((host, port), timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = connection.makefile("rb").read(12)
    _, _, brokers = struct.unpack(">iii", answer)
    return int(brokers)


def _format(folder: Path) -> None:
    """Give the data folder its identity; Kafka refuses to start on a folder without one."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
    tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster]
    command = [*_java(folder), *LEAN, *tool, "-c", str(folder / "server.properties")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReady(f"Kafka's data folder cannot be formatted:\n{done.stdout}{done.stderr}")


def java() -> str:
    """The java command, JAVA_HOME first."""
    named = os.environ.get("JAVA_HOME")
    found = str(Path(named) / "bin" / "java") if named else shutil.which("java")
    if not found or not Path(found).exists():
        raise NotReady(
            "Java 17 or newer is needed for Kafka. Install it, for example: apt-get install openjdk-17-jre-headless"
        )
    return found


def _java(folder: Path) -> list[str]:
    if not any(JARS.glob("kafka_*.jar")):
        raise NotReady(f"Kafka's jars are not in {JARS}. Run: make setup")
    return [
        java(),
        "-cp",
        f"{JARS}/*",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={folder}/log4j2.properties",
    ]


SERVICE = Service("kafka", "RISKFLOW_KAFKA", 9092, 60.0, prepare, parts, address, problem)
