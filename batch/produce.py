"""Rows to Kafka: at a steady rate, open loop, every message acknowledged before it returns.

Open loop: the moment a message is due depends on the rate alone. A sender that falls behind sends at once and says
how late it was; it never stretches the schedule, which would hide a slow broker from whoever measures.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import polars as pl

from riskflow.errors import DeclarationError, NotReady, RiskflowError

if TYPE_CHECKING:
    from kafka import KafkaProducer
    from kafka.future import Future

IN_FLIGHT = 20_000  # messages sent and not yet acknowledged; more than that and the sender waits for the broker
REPORT_S = 1.0
ANSWER_S = 3.0
SLICE_ROWS = 50_000
LINES, TABLES = (".jsonl", ".ndjson", ".json"), (".parquet", ".csv")


class Outgoing(NamedTuple):
    """One message; `due_s` counts from the start of sending, None: as soon as possible."""

    topic: str
    key: bytes | None
    value: bytes
    due_s: float | None


@dataclass
class Sent:
    """What was sent. `late_ms` is the longest time that a message left after it was due."""

    messages: int = 0
    seconds: float = 0.0
    late_ms: float = 0.0
    topics: dict[str, int] = field(default_factory=dict)

    def count(self, topic: str, late_ms: float) -> None:
        self.messages += 1
        self.topics[topic] = self.topics.get(topic, 0) + 1
        self.late_ms = max(self.late_ms, late_ms)

    def summary(self) -> dict[str, object]:
        """The same as JSON values."""
        rate = self.messages / self.seconds if self.seconds else 0.0
        numbers = {"seconds": round(self.seconds, 3), "rate": round(rate, 1), "late_ms": round(self.late_ms, 1)}
        return {"messages": self.messages, **numbers, "topics": self.topics}


# what a message is


def as_json(row: dict[str, object]) -> bytes:
    """A row as a producer writes it: `occurred_at_ms` becomes `occurred_at`, what is not known is left out."""
    fields = {_wire_name(name): value for name, value in row.items() if value is not None}
    return msgspec.json.encode(fields)


def _wire_name(column: str) -> str:
    return column.removesuffix("_ms") if column.endswith("_at_ms") else column


def label(event_id: str, is_fraud: bool, source: str, labelled_at_ms: int) -> dict[str, object]:
    """A label without entity ids; the batch task `labels` completes it from the archive."""
    name = f"{event_id}:{source}:{labelled_at_ms}"
    who = {"label_id": name, "event_id": event_id, "is_fraud": is_fraud}
    return {**who, "labelled_at_ms": labelled_at_ms, "source": source}


# from a file


def from_file(
    path: Path, topic: str, rate_per_s: float | None = None, speed: float | None = None
) -> Iterator[Outgoing]:
    """The rows of a Parquet, CSV or JSON-lines file in their order.

    Due `rate_per_s` messages a second, or as the rows' own times say, `speed` times as fast; neither: at once.
    Lines of JSON are sent as they are, byte for byte, even if they are broken. Raises DeclarationError.
    """
    _check_pace(rate_per_s, speed)
    _check_file(path)  # now, and not when the first row is asked for
    return _paced(path, topic, rate_per_s, speed)


def _paced(path: Path, topic: str, rate_per_s: float | None, speed: float | None) -> Iterator[Outgoing]:
    first_ms = None
    for number, (key, value, at_ms) in enumerate(_file_rows(path, need_time=speed is not None)):
        first_ms = at_ms if first_ms is None else first_ms
        due_s = (at_ms - first_ms) / 1000 / speed if speed else number / rate_per_s if rate_per_s else None
        yield Outgoing(topic, key, value, due_s)


def _check_pace(rate_per_s: float | None, speed: float | None) -> None:
    if rate_per_s is not None and speed is not None:
        raise DeclarationError("pace", "both a rate and a speed are given", "Give one of them")
    for name, value in (("rate", rate_per_s), ("speed", speed)):
        if value is not None and not 0 < value < float("inf"):
            raise DeclarationError(name, f"is {value}", "Give a number above 0")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DeclarationError(str(path), "there is no such file", "Check the path")
    if path.suffix not in LINES and path.suffix.lower() not in TABLES:
        fix = "Give a file that ends in .jsonl (lines of JSON), .parquet or .csv"
        raise DeclarationError(str(path), f"ends in {path.suffix!r}", fix)


def _file_rows(path: Path, need_time: bool) -> Iterator[tuple[bytes | None, bytes, int]]:
    """(key, value, time in ms or 0) of each row."""
    return _json_lines(path, need_time) if path.suffix in LINES else _table_rows(path, need_time)


def _json_lines(path: Path, need_time: bool) -> Iterator[tuple[bytes | None, bytes, int]]:
    if need_time:
        raise DeclarationError(path.name, "lines of JSON have no time column to pace by", "Use --rate")
    with path.open("rb") as lines:
        for line in lines:
            value = line.rstrip(b"\r\n")
            if value:
                yield _key_of(value), value, 0


def _key_of(value: bytes) -> bytes | None:
    """The event id, where the line can be read; any key is fine for intake."""
    try:
        return _key(msgspec.json.decode(value).get("event_id"))
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        return None


def _key(event_id: object) -> bytes | None:
    return None if event_id is None else str(event_id).encode(errors="surrogatepass")


def _table_rows(path: Path, need_time: bool) -> Iterator[tuple[bytes | None, bytes, int]]:
    from batch.importer import read_table

    table = _times_as_ms(read_table(path))
    time_column = next((name for name in table.columns if name in ("occurred_at_ms", "labelled_at_ms")), None)
    if need_time and time_column is None:
        raise DeclarationError(path.name, "no column occurred_at or labelled_at to pace by", "Use --rate")
    for part in table.iter_slices(SLICE_ROWS):
        for row in part.iter_rows(named=True):
            yield _key(row.get("event_id")), as_json(row), row[time_column] if time_column else 0


def _times_as_ms(table: pl.DataFrame) -> pl.DataFrame:
    """Columns `..._at` that hold times become `..._at_ms`; other times become text."""
    from batch.importer import at_ms

    for name in table.columns:
        if name in ("occurred_at", "labelled_at"):
            table = table.with_columns(at_ms(table[name]).alias(f"{name}_ms")).drop(name)
        elif table.schema[name].is_temporal():
            table = table.with_columns(pl.col(name).cast(pl.String))
    return table


# to Kafka


def producer(kafka: str) -> KafkaProducer:
    """A producer that waits for all replicas and writes nothing twice. Raises NotReady if no broker answers."""
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

    _need_answer(kafka)
    try:
        return KafkaProducer(
            bootstrap_servers=kafka.split(","),
            acks="all",
            enable_idempotence=True,
            allow_auto_create_topics=False,  # a typing mistake must not become a topic
            max_block_ms=5_000,
            bootstrap_timeout_ms=15_000,
            batch_size=65_536,
        )
    except KafkaError as error:
        raise _no_broker(kafka, error) from error


def _need_answer(kafka: str) -> None:
    """Ask the addresses themselves first: the client would try for long, and leave its sockets open."""
    reason: OSError | None = None
    for address in kafka.split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
            return
        except OSError as error:
            reason = error
    raise _no_broker(kafka, reason)


def _no_broker(kafka: str, reason: BaseException | None) -> NotReady:
    return NotReady(f"Kafka at {kafka} does not answer ({reason}). Start it: riskflow up")


def send(
    messages: Iterable[Outgoing], kafka: str, on_progress: Callable[[int, int], None] = lambda sent, acknowledged: None
) -> Sent:
    """Send each message when it is due and return when the last one is acknowledged.

    `on_progress(sent, acknowledged)` is called about once a second. Raises NotReady if there is no broker or topic,
    RiskflowError if one message was not acknowledged: then it is unknown which of those in flight arrived.
    """
    client = producer(kafka)
    try:
        return _send(client, messages, on_progress)
    finally:
        client.close(timeout=10)


def _send(client: KafkaProducer, messages: Iterable[Outgoing], on_progress: Callable[[int, int], None]) -> Sent:
    sent, acks = Sent(), Acks()
    messages = _with_topics(client, messages)
    head = list(itertools.islice(messages, 1))  # what the first message waits for is not the schedule's fault
    start = time.monotonic()
    next_report = start + REPORT_S
    for message in itertools.chain(head, messages):
        late_s = _wait_until(start, message.due_s)
        acks.add(_sending(client, message, acks))
        sent.count(message.topic, late_s * 1000)
        if time.monotonic() > next_report:
            on_progress(sent.messages, acks.done)
            next_report += REPORT_S
    acks.wait()
    sent.seconds = time.monotonic() - start
    on_progress(sent.messages, acks.done)
    return sent


def _sending(client: KafkaProducer, message: Outgoing, acks: Acks) -> Future:
    from kafka.errors import KafkaError

    try:
        return client.send(message.topic, message.value, message.key)
    except KafkaError as error:
        raise _refused(acks.done, error) from error


def _with_topics(client: KafkaProducer, messages: Iterable[Outgoing]) -> Iterator[Outgoing]:
    """The messages, each topic looked for before its first one."""
    seen: set[str] = set()
    for message in messages:
        if message.topic not in seen:
            _need_topic(client, message.topic)
            seen.add(message.topic)
        yield message


def _wait_until(start: float, due_s: float | None) -> float:
    """Sleep until a message is due; the seconds by which it is late already."""
    if due_s is None:
        return 0.0
    early = start + due_s - time.monotonic()
    if early > 0:
        time.sleep(early)
    return max(0.0, -early)


def _need_topic(client: KafkaProducer, topic: str) -> None:
    from kafka.errors import KafkaError

    try:
        found = client.partitions_for(topic)
    except KafkaError as error:
        raise _no_topic(topic) from error
    if not found:
        raise _no_topic(topic)


def _no_topic(topic: str) -> NotReady:
    """With the command that makes it where it should be there, else with those that take something."""
    usecase, _, feed = topic.rpartition(".")
    prefix, dot, usecase = usecase.rpartition(".")
    try:
        feeds = _feeds(usecase)
    except RiskflowError as error:
        return NotReady(f"there is no topic {topic}. A topic is named USECASE.FEED, as card_fraud.events: {error}")
    if feed in feeds:
        return NotReady(f"there is no topic {topic}. Make it: riskflow topics {usecase}")
    takes = ", ".join(f"{prefix}{dot}{usecase}.{name}" for name in feeds)
    return NotReady(f"there is no topic {topic}. {usecase} takes {takes}")


def _feeds(usecase: str) -> list[str]:
    from riskflow.settings import settings
    from riskflow.usecase import load_usecase

    return [feed.name for feed in load_usecase(usecase, settings().usecases).feeds]


class Acks:
    """What the broker has answered: how many, and the first refusal."""

    def __init__(self, most: int = IN_FLIGHT) -> None:
        self.done = 0
        self._most, self._in_flight = most, 0
        self._refusal: BaseException | None = None
        self._changed = threading.Condition()

    def add(self, future: Future) -> None:
        """Count one more message in flight; waits while there are too many. Raises what the broker refused."""
        with self._changed:
            self._in_flight += 1
        future.add_callback(self._acknowledged)
        future.add_errback(self._refused)
        self.wait(self._most)

    def wait(self, most: int = 0) -> None:
        """Until no more than `most` are in flight; the client answers each within two minutes, if only by an error."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight <= most or self._refusal is not None)
            if self._refusal is not None:
                raise _refused(self.done, self._refusal)

    def _acknowledged(self, _metadata: object) -> None:
        with self._changed:
            self.done += 1
            self._in_flight -= 1
            self._changed.notify()

    def _refused(self, error: BaseException) -> None:
        with self._changed:
            self._refusal = self._refusal or error
            self._changed.notify()


def _refused(done: int, error: BaseException) -> RiskflowError:
    return RiskflowError(
        f"Kafka did not take a message, after {done} acknowledged ones: {type(error).__name__}: {error}"
    )
