"""Sends the town's future to Kafka at a steady rate, beside everything else, until it is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from riskflow.errors import RiskflowError

if TYPE_CHECKING:
    from batch.produce import Outgoing
    from batch.simulate.live import Message
    from riskflow.names import Names


class Sender(threading.Thread):
    """`events` are the ids that were sent; each was acknowledged when `stop` returns."""

    def __init__(self, kafka: str, names: Names, messages: Iterator[Message]) -> None:
        super().__init__(name="sender", daemon=True)
        self.events: set[str] = set()
        self.labels = 0
        self._kafka, self._names, self._messages = kafka, names, messages
        self._stop_now = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        from batch.produce import send

        try:
            send(self._outgoing(), self._kafka)
        except BaseException as error:
            self._error = error

    def stop(self) -> None:
        """Ends sending; raises what went wrong."""
        self.end()
        self.check()

    def end(self) -> None:
        """Ends sending, whatever became of it."""
        self._stop_now.set()
        if self.is_alive():
            self.join(60)

    def check(self) -> None:
        if self._error is not None:
            raise self._error
        if not self.is_alive() and not self._stop_now.is_set():
            raise RiskflowError("the invented town has no more payments: the demo took too long. Use a lower --rate")

    def rest(self) -> Iterator[Message]:
        """What was not sent."""
        return self._messages

    def _outgoing(self) -> Iterator[Outgoing]:
        from batch.produce import Outgoing
        from batch.simulate.live import EVENTS

        topics = {feed: self._names.feed(feed) for feed in ("events", "labels")}
        first_ms: float | None = None
        for message in self._messages:
            first_ms = message.due_ms if first_ms is None else first_ms
            if message.feed == EVENTS:
                self.events.add(message.key.decode())
            else:
                self.labels += 1
            yield Outgoing(topics[message.feed], message.key, message.value, (message.due_ms - first_ms) / 1000)
            if self._stop_now.is_set():
                return
