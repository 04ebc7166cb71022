"""A fetch session with one broker (KIP-227): who asks names only what has changed, who answers only what there is.

Requests and answers are those of Kafka's fetch API in version 11, which brokers know from 2.3 on. They are packed and
cut here, because a client that describes every field of every partition in Python spends more on asking than we do on
scoring. Connections, their authentication and the headers of requests are aiokafka's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from operator import attrgetter
from typing import Any, ClassVar

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Schema
from faust.types import TP

API_KEY, VERSION = 1, 11
MIB = 1024 * 1024
MAX_WAIT_MS = 100  # also how long a change of what is wanted may wait for the answer to the last request
MAX_BYTES, MAX_PARTITION_BYTES = 8 * MIB, 4 * MIB
READ_COMMITTED = 1
NEW_SESSION = 0

# replica, longest wait, least bytes, most bytes, isolation, session, epoch
FIXED = struct.Struct(">iiiibii")
# partition, leader epoch, offset, start of a follower's log, most bytes
WANTED = struct.Struct(">iiqqi")
ANSWER = struct.Struct(">ihi")  # throttled for, error, session
# partition, error, high watermark, last stable offset, start of the log
FOUND = struct.Struct(">ihqqq")
ABORTED = struct.Struct(">qq")  # producer, first offset
INT, SHORT = struct.Struct(">i"), struct.Struct(">h")


@dataclass(frozen=True, slots=True)
class Found:
    """What an answer says of one partition: `data` are its record batches, the last of which may be cut off."""

    tp: TP
    error: int
    aborted: list[tuple[int, int]]  # (producer, first offset) of transactions that were
    data: bytes


class Answer(Response):
    """Errors of the whole request, or what was found; see Found."""

    API_KEY = API_KEY
    API_VERSION = VERSION
    SCHEMA = Schema()

    def __init__(self, error: int, session: int, found: list[Found]) -> None:
        self.error, self.session, self.found = error, session, found

    @classmethod
    def decode(cls, data: BytesIO | bytes) -> Answer:
        """Cuts what follows the response's header."""
        assert isinstance(data, BytesIO)
        view = data.getbuffer()
        at = data.tell()
        _, error, session = ANSWER.unpack_from(view, at)
        return cls(error, session, list(_found(view, at + ANSWER.size)))


class FetchStruct(RequestStruct):
    """A request's bytes behind its header."""

    API_KEY = API_KEY
    API_VERSION = VERSION
    RESPONSE_TYPE: ClassVar[Any] = Answer
    SCHEMA = Schema()

    def __init__(self, body: bytes) -> None:
        self._body = body

    def encode(self) -> bytes:
        return self._body


class FetchRequest(Request[FetchStruct]):
    """What aiokafka's connections send."""

    API_KEY = API_KEY

    def __init__(self, body: bytes) -> None:
        self._body = body

    def build(self, request_struct_class: type[FetchStruct]) -> FetchStruct:
        return request_struct_class(self._body)


class Session:
    """What one broker has been told so far."""

    def __init__(self) -> None:
        self._id, self._epoch = 0, NEW_SESSION
        self._told: dict[TP, int] = {}

    def request(self, wanted: Mapping[TP, int], wait_ms: int = MAX_WAIT_MS) -> FetchRequest:
        """Asks for these partitions from these offsets on."""
        told = self._told
        changed = [tp for tp, offset in wanted.items() if told.get(tp) != offset]
        forgotten = [tp for tp in told if tp not in wanted]
        self._told = dict(wanted)
        fixed = FIXED.pack(-1, wait_ms, 1, MAX_BYTES, READ_COMMITTED, self._id, self._epoch)
        asked = _by_topic(changed, lambda tp: WANTED.pack(tp.partition, -1, wanted[tp], -1, MAX_PARTITION_BYTES))
        left = _by_topic(forgotten, lambda tp: INT.pack(tp.partition))
        return FetchRequest(b"".join((fixed, asked, left, SHORT.pack(0))))

    def answered(self, answer: Answer) -> None:
        """The next request goes on from here; a broker that keeps no session is told everything each time."""
        if answer.session == 0:
            self._id, self._epoch, self._told = 0, NEW_SESSION, {}
        else:
            self._id, self._epoch = answer.session, self._epoch % 0x7FFFFFFF + 1

    def again(self, tp: TP) -> None:
        """Asks for a partition anew: what it said was of no use."""
        self._told[tp] = -1


def _by_topic(tps: Iterable[TP], pack: Any) -> bytes:
    topics = [(topic, list(mine)) for topic, mine in groupby(sorted(tps), key=attrgetter("topic"))]
    parts = [INT.pack(len(topics))]
    for topic, mine in topics:
        name = topic.encode()
        parts += [SHORT.pack(len(name)), name, INT.pack(len(mine)), *map(pack, mine)]
    return b"".join(parts)


def _found(view: memoryview, at: int) -> Iterable[Found]:
    (topics,) = INT.unpack_from(view, at)
    at += 4
    for _ in range(topics):
        (length,) = SHORT.unpack_from(view, at)
        topic = str(view[at + 2 : at + 2 + length], "utf-8")
        at += 2 + length
        (partitions,) = INT.unpack_from(view, at)
        at += 4
        for _ in range(partitions):
            partition, error, _, _, _ = FOUND.unpack_from(view, at)
            at += FOUND.size
            (n,) = INT.unpack_from(view, at)
            at += 4
            aborted = [ABORTED.unpack_from(view, at + i * ABORTED.size) for i in range(max(0, n))]
            at += max(0, n) * ABORTED.size + 4  # then the replica that the broker would prefer
            (size,) = INT.unpack_from(view, at)
            at += 4
            data = bytes(view[at : at + max(0, size)])
            at += max(0, size)
            yield Found(TP(topic, partition), error, aborted, data)
