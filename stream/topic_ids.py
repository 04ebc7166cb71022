"""Kafka's metadata API in version 10, the first that tells topics' ids (brokers from 2.8 on); aiokafka ends at 5."""

from __future__ import annotations

import uuid
from io import BytesIO
from typing import Any, ClassVar

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

API_KEY, VERSION = 3, 10
NO_ID = uuid.UUID(int=0)


class Uuid(AbstractType[uuid.UUID]):
    """Sixteen bytes."""

    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


class TopicsAnswer(Response):
    """Brokers, and topics with ids and partitions."""

    API_KEY = API_KEY
    API_VERSION = VERSION
    topics: Any
    SCHEMA = Schema(
        ("throttled_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node", Int32), ("host", CompactString("utf-8")), ("port", Int32), ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster", CompactString("utf-8")),
        ("controller", Int32),
        (
            "topics",
            CompactArray(
                ("error", Int16), ("name", CompactString("utf-8")), ("id", Uuid), ("internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)), ("in_sync", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)), ("tags", TaggedFields),
                    ),
                ),
                ("may", Int32), ("tags", TaggedFields),
            ),
        ),
        ("may", Int32),
        ("tags", TaggedFields),
    )  # fmt: skip


class TopicsStruct(RequestStruct):
    """A request's fields."""

    FLEXIBLE_VERSION = True
    API_KEY = API_KEY
    API_VERSION = VERSION
    RESPONSE_TYPE: ClassVar[Any] = TopicsAnswer
    SCHEMA = Schema(
        ("topics", CompactArray(("id", Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields))),
        ("make", Boolean),
        ("tell_cluster_rights", Boolean),
        ("tell_topic_rights", Boolean),
        ("tags", TaggedFields),
    )


class TopicsRequest(Request[TopicsStruct]):
    """Asks about these topics, or about all; makes none."""

    API_KEY = API_KEY

    def __init__(self, topics: list[str] | None) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[TopicsStruct]) -> TopicsStruct:
        asked: Any = None if self._topics is None else [(NO_ID, name, {}) for name in self._topics]
        return request_struct_class(asked, False, False, False, {})
