"""The control: stock Faust as its user guide writes it, with two tables and an output for each event.

Nothing here is Riskflow's. Under the same kills it loses events or counts them twice; a suite that finds nothing in it
would be blind. Environment: CONTROL_TOPIC, CONTROL_KAFKA, CONTROL_DATA.
"""

from __future__ import annotations

import os
from typing import Any

import faust

topic = os.environ["CONTROL_TOPIC"]
app = faust.App(
    f"{topic}-control",
    broker=f"kafka://{os.environ['CONTROL_KAFKA']}",
    store="memory://",
    topic_partitions=4,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
    datadir=os.environ["CONTROL_DATA"],
)


class Payment(faust.Record, serializer="json"):
    event_id: str
    customer_id: str
    terminal_id: str
    amount: float


payments = app.topic(topic, value_type=Payment)
by_terminal = app.topic(f"{topic}-by-terminal", value_type=Payment, partitions=4, internal=True)
outputs = app.topic(f"{topic}-outputs", partitions=4)
customers: Any = app.Table("customers", default=int, partitions=4)
terminals: Any = app.Table("terminals", default=int, partitions=4)


@app.agent(payments)
async def at_the_customer(stream: Any) -> None:
    async for payment in stream:
        customers[payment.customer_id] += 1
        counted = f"{payment.event_id}:{customers[payment.customer_id]}"
        await by_terminal.send(key=payment.terminal_id, value=payment.derive(event_id=counted))


@app.agent(by_terminal)
async def at_the_terminal(stream: Any) -> None:
    async for payment in stream:
        terminals[payment.terminal_id] += 1
        name, _, customer_count = payment.event_id.rpartition(":")
        said = {"event_id": name, "customer_id": payment.customer_id, "terminal_id": payment.terminal_id}
        counts = {"customer_count": int(customer_count), "terminal_count": terminals[payment.terminal_id]}
        await outputs.send(key=name, value=said | counts)
