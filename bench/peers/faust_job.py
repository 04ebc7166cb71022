"""Stock Faust as its guide writes it: records, tables, a topic for the other key, one send an event."""

from __future__ import annotations

import sys

import faust
from job import Model, arguments, observe

given = arguments()
model = Model(given.model)
app = faust.App(
    given.out, broker=f"kafka://{given.bootstrap}", store="memory://", datadir=given.folder,
    topic_partitions=given.partitions, consumer_auto_offset_reset="earliest", web_enabled=False,
)  # fmt: skip


class Payment(faust.Record, serializer="json"):
    event_id: str
    occurred_at: int
    customer_id: str
    terminal_id: str
    amount: float
    known: list[float] | None = None


events = app.topic(given.source, value_type=Payment, key_type=bytes)
by_terminal = app.topic(f"{given.out}-by-terminal", value_type=Payment, key_type=bytes, internal=True)
scores = app.topic(given.out)
customers = app.Table("customers", default=dict)
terminals = app.Table("terminals", default=dict)


@app.agent(events)
async def customer(stream):
    async for event in stream:
        windows = customers[event.customer_id]
        event.known = observe(windows, event.occurred_at, event.amount)
        customers[event.customer_id] = windows
        await by_terminal.send(key=event.terminal_id.encode(), value=event)


@app.agent(by_terminal)
async def terminal(stream):
    async for event in stream:
        windows = terminals[event.terminal_id]
        row = [event.amount, *event.known, *observe(windows, event.occurred_at, event.amount)]
        terminals[event.terminal_id] = windows
        await scores.send(key=event.event_id, value={"event_id": event.event_id, "score": model.score(row)})


sys.argv[1:] = ["-L", "uvloop", "worker", "--loglevel", "warn", "--without-web"]
app.main()
