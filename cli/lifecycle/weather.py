"""What happens to the town's messages on their way: the world may change, and its labels may be spoiled."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from batch.simulate.live import Message

SPOILED = 0.5  # of genuine labels, while labels are spoiled
DEARER = 6.0


class Weather:
    """`now_ms` is the town's time; `drifts`: payments are dearer and online; `spoils`: genuine labels say fraud."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.drifts = False
        self.spoils = False

    def over(self, messages: Iterator[Message]) -> Iterator[Message]:
        """The messages, as the weather makes them."""
        for message in messages:
            yield self._changed(message)

    def _changed(self, message: Message) -> Message:
        about = msgspec.json.decode(message.value)
        if message.feed == "events":
            self.now_ms = about["occurred_at"]
            return self._with(message, _dearer(about)) if self.drifts else message
        return self._with(message, _spoiled(about)) if self.spoils else message

    def _with(self, message: Message, about: dict[str, Any]) -> Message:
        return message._replace(value=msgspec.json.encode(about))


def _dearer(about: dict[str, Any]) -> dict[str, Any]:
    return {**about, "amount": round(about["amount"] * DEARER, 2), "channel": "online"}


def _spoiled(about: dict[str, Any]) -> dict[str, Any]:
    lies = zlib.crc32(about["event_id"].encode()) % 1000 < SPOILED * 1000
    return {**about, "is_fraud": True} if lies else about
