"""What is read and handed over: from the offsets that were given, once each, and nothing that is not wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiokafka.errors as errors
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from faust.types import TP

from riskflow.errors import NotReady
from stream.fetch_session import Answer, FetchStruct, Found
from stream.fetcher import Fetcher, Span
from tests.unit.test_fetch_session import asked, left, offsets

SESSION_NOT_FOUND = 70
ONE, TWO = TP("t", 0), TP("t", 1)


def batch(first: int, values: list[bytes]) -> bytes:
    """Record batches as they stand on a broker, the first record at this offset."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    for i, value in enumerate(values):
        builder.append(i, timestamp=1, key=None, value=value, headers=[])
    return first.to_bytes(8, "big") + bytes(builder.build())[8:]


class Broker:
    """Logs of one partition each, fetch sessions as KIP-227 says, and a place to go wrong."""

    def __init__(self, logs: dict[TP, list[bytes]]) -> None:
        self.logs = logs
        self.remembered: dict[TP, int] = {}
        self.errors: dict[TP, int] = {}
        self.answers_lost = self.sessions_lost = 0
        self.asked = 0
        self.listeners: list[Any] = []
        self.cluster = SimpleNamespace(
            leader_for_partition=lambda tp: 1 if TP(*tp) in self.logs else None, add_listener=self.listeners.append
        )

    async def bootstrap(self) -> None: ...
    async def close(self) -> None: ...
    async def set_topics(self, topics: set[str]) -> None: ...
    def force_metadata_update(self) -> None:
        for listener in self.listeners:
            listener(self.cluster)

    async def send(self, _node: int, request: Any) -> Answer:
        self.asked += 1
        await asyncio.sleep(0.005)
        fields = asked(request)
        assert request.build(FetchStruct).API_VERSION == 11
        if self.answers_lost:
            self.answers_lost -= 1
            raise errors.KafkaConnectionError("gone")
        if self.sessions_lost and fields.session_id:
            self.sessions_lost -= 1
            return Answer(SESSION_NOT_FOUND, 0, [])
        if fields.session_epoch == 0:
            self.remembered = {}
        self.remembered |= offsets(fields)
        for tp in left(fields):
            del self.remembered[tp]
        found = [f for f in (self._found(tp, at) for tp, at in self.remembered.items()) if f is not None]
        if not found:
            await asyncio.sleep(0.002)
        return Answer(0, 5, found)

    def _found(self, tp: TP, at: int) -> Found | None:
        if tp in self.errors:
            return Found(tp, self.errors[tp], [], b"")
        values = self.logs[tp][at : at + 3]
        return Found(tp, 0, [], batch(at, values)) if values else None


class Reader:
    """What was handed over."""

    def __init__(self) -> None:
        self.got: dict[TP, list[bytes]] = {}
        self.ends: dict[TP, int] = {}
        self.failed: list[BaseException] = []

    async def deliver(self, span: Span) -> None:
        assert span.begin == self.ends.get(span.tp, span.begin), "spans follow each other"
        self.ends[span.tp] = span.end
        self.got.setdefault(span.tp, []).extend(r.value for r in span.records)


def run(broker: Broker, story: Callable[[Fetcher, Reader], Awaitable[None]]) -> Reader:
    async def play() -> Reader:
        reader = Reader()
        fetcher = Fetcher(broker, reader.deliver, reader.failed.append)  # type: ignore[arg-type]
        await fetcher.start()
        await story(fetcher, reader)
        await fetcher.stop()
        return reader

    return asyncio.run(play())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not within two seconds")


def log(name: str, count: int = 10) -> list[bytes]:
    return [f"{name}{i}".encode() for i in range(count)]


def test_every_record_comes_once_from_the_offset_that_was_given() -> None:
    broker = Broker({ONE: log("a"), TWO: log("b")})

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 0, TWO: 4})
        await until(lambda: sum(map(len, reader.got.values())) >= 16)
        broker.logs[ONE].append(b"later")
        await until(lambda: reader.got[ONE][-1] == b"later")

    got = run(broker, story).got
    assert got == {ONE: [*log("a"), b"later"], TWO: log("b")[4:]}


def test_lost_answers_and_forgotten_sessions_lose_and_double_nothing() -> None:
    broker = Broker({ONE: log("a", 40)})
    broker.answers_lost, broker.sessions_lost = 1, 2

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 0})
        await until(lambda: len(reader.got.get(ONE, [])) >= 40)

    assert run(broker, story).got[ONE] == log("a", 40)
    assert broker.answers_lost == broker.sessions_lost == 0


def test_what_is_held_waits_and_what_is_left_is_read_no_more() -> None:
    broker = Broker({ONE: log("a", 3), TWO: log("b", 3)})

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 0, TWO: 0})
        await until(lambda: len(reader.got) == 2)
        fetcher.hold(ONE)
        fetcher.leave([TWO])
        await asyncio.sleep(0.1)  # what was on its way has come
        before = broker.asked
        broker.logs[ONE].append(b"held")
        broker.logs[TWO].append(b"left")
        await asyncio.sleep(0.05)
        assert broker.asked == before
        assert b"left" not in reader.got[TWO]
        assert b"held" not in reader.got[ONE]
        fetcher.let_go(ONE)
        await until(lambda: b"held" in reader.got[ONE])

    assert run(broker, story).got == {ONE: [*log("a", 3), b"held"], TWO: log("b", 3)}


def test_what_comes_by_hand_wakes_no_poll_and_what_does_not_is_found_soon() -> None:
    broker = Broker({ONE: log("a", 3), TWO: log("b", 3)})

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 0, TWO: 0})
        await until(lambda: len(reader.got) == 2)
        for offset in range(3, 10):
            broker.logs[ONE].append(b"by hand")
            fetcher.skip_to(ONE, offset + 1)
            reader.ends[ONE] = offset + 1
            await asyncio.sleep(0.02)
        assert b"by hand" not in reader.got[ONE]
        broker.logs[ONE] += [b"somebody else's"]
        broker.logs[TWO] += [b"meanwhile"]
        await until(lambda: reader.got[TWO][-1] == b"meanwhile")
        await until(lambda: reader.got[ONE][-1] == b"somebody else's")

    assert run(broker, story).got[ONE] == [*log("a", 3), b"somebody else's"]


def test_where_all_comes_by_hand_it_is_still_looked_at() -> None:
    broker = Broker({ONE: log("a", 3)})

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 3})
        fetcher.skip_to(ONE, 3)
        await asyncio.sleep(0.05)
        before = broker.asked
        await asyncio.sleep(0.35)
        assert before < broker.asked <= before + 4
        broker.logs[ONE].append(b"found")
        await until(lambda: bool(reader.got))

    assert run(broker, story).got[ONE] == [b"found"]


def test_what_does_not_come_by_hand_any_more_is_read_with_each_poll() -> None:
    broker = Broker({ONE: log("a", 3)})

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 3})
        fetcher.skip_to(ONE, 3)
        fetcher.attend(ONE)
        await asyncio.sleep(0.02)
        before = broker.asked
        await asyncio.sleep(0.2)
        assert broker.asked > before + 10

    run(broker, story)


def test_after_a_seek_an_answer_to_the_old_position_is_dropped() -> None:
    broker = Broker({ONE: log("a", 6)})

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 3})
        await until(lambda: broker.asked == 1)
        fetcher.seek(ONE, 0)  # the first request is on its way
        await until(lambda: len(reader.got.get(ONE, [])) >= 6)

    assert run(broker, story).got[ONE] == log("a", 6)


def test_a_partition_in_trouble_is_tried_again_and_keeps_nobody_waiting() -> None:
    broker = Broker({ONE: log("a", 3), TWO: log("b", 30)})
    broker.errors[ONE] = errors.NotLeaderForPartitionError.errno

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 0, TWO: 0})
        await until(lambda: len(reader.got.get(TWO, [])) == 30)
        assert ONE not in reader.got
        del broker.errors[ONE]
        await until(lambda: ONE in reader.got)

    assert run(broker, story).got == {ONE: log("a", 3), TWO: log("b", 30)}


def test_a_partition_without_a_leader_is_read_when_it_has_one() -> None:
    broker = Broker({TWO: log("b", 3)})

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 0, TWO: 0})
        await until(lambda: TWO in reader.got)
        broker.logs[ONE] = log("a", 3)
        await until(lambda: ONE in reader.got)

    assert run(broker, story).got == {ONE: log("a", 3), TWO: log("b", 3)}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.OffsetOutOfRangeError, "outside what the log holds.*riskflow rebuild"),
        (errors.TopicAuthorizationFailedError, "does not let this worker read it"),
    ],
)
def test_what_no_retry_mends_ends_the_worker_and_says_so(error: type[Any], says: str) -> None:
    broker = Broker({ONE: log("a")})
    broker.errors[ONE] = error.errno

    async def story(fetcher: Fetcher, reader: Reader) -> None:
        await fetcher.read({ONE: 99})
        await until(lambda: bool(reader.failed))

    failed = run(broker, story).failed
    assert len(failed) == 1
    assert isinstance(failed[0], NotReady)
    with pytest.raises(NotReady, match=says):
        raise failed[0]
