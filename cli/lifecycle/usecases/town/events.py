"""What arrives: payments, and what becomes known about them a day or two later."""

from typing import Literal

from riskflow.declare import Entity, Feed

customer = Entity("customer_id")
terminal = Entity("terminal_id")

events = Feed(
    "events",
    id="event_id",
    at="occurred_at",
    fields={"amount": float, "channel": Literal["chip", "contactless", "online"] | None},
    money="amount",
    currency="EUR",
)

labels = Feed(
    "labels",
    id="label_id",
    at="labelled_at",
    about="event_id",
    fields={"is_fraud": bool, "event_id": str, "source": str | None, "amount": float | None},
)
