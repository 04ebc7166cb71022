"""Quix Streams: state with a changelog for each key, regrouped by terminal through Kafka."""

from __future__ import annotations

from job import Model, arguments, observe
from quixstreams import Application

given = arguments()
model = Model(given.model)
app = Application(
    broker_address=given.bootstrap, consumer_group=given.out, auto_offset_reset="earliest", loglevel="WARNING",
    state_dir=given.folder,
)  # fmt: skip
events = app.topic(given.source, value_deserializer="json")
scores = app.topic(given.out, value_serializer="json", key_serializer="str")


def customer(event, state):
    windows = state.get("windows", {})
    event["known"] = observe(windows, event["occurred_at"], event["amount"])
    state.set("windows", windows)
    return event


def terminal(event, state):
    windows = state.get("windows", {})
    row = [event["amount"], *event["known"], *observe(windows, event["occurred_at"], event["amount"])]
    state.set("windows", windows)
    return {"event_id": event["event_id"], "score": model.score(row)}


rows = app.dataframe(events).apply(customer, stateful=True).group_by("terminal_id").apply(terminal, stateful=True)
rows.to_topic(scores, key=lambda scored: scored["event_id"])
app.run()
