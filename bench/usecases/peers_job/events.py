"""Card payments of customers at terminals, with nothing known about them later."""

from riskflow.declare import Entity, Feed

customer = Entity("customer_id")
terminal = Entity("terminal_id")

events = Feed("events", id="event_id", at="occurred_at", fields={"amount": float})
