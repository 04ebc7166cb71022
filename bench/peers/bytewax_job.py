"""Bytewax: keyed state for each entity, in one process. With --recovery its store keeps state and positions.

It works through a batch key by key, so events of different customers change places before they meet at a terminal.
With --in-order a batch is one event, to be compared with others score by score.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main
from job import Model, arguments, observe

SNAPSHOT_S = 10  # its default: state and positions are written every so often

given = arguments("recovery", "in-order")
model = Model(given.model)


def parsed(message):
    event = orjson.loads(message.value)
    return event["customer_id"], event


def customer(state, event):
    state = {} if state is None else state
    event["known"] = observe(state, event["occurred_at"], event["amount"])
    return state, event


def terminal(state, event):
    state = {} if state is None else state
    row = [event["amount"], *event["known"], *observe(state, event["occurred_at"], event["amount"])]
    return state, (event["event_id"], row)


def scored(item):
    _, (event_id, row) = item
    value = orjson.dumps({"event_id": event_id, "score": model.score(row)})
    return KafkaSinkMessage(key=event_id.encode(), value=value)


flow = Dataflow("job")
events = op.input(
    "events", flow, KafkaSource([given.bootstrap], [given.source], batch_size=1 if given.in_order else 1000)
)
by_customer = op.map("parse", events, parsed)
known = op.stateful_map("customer", by_customer, customer)
by_terminal = op.map("rekey", known, lambda keyed: (keyed[1]["terminal_id"], keyed[1]))
rows = op.stateful_map("terminal", by_terminal, terminal)
op.output("scores", op.map("score", rows, scored), KafkaSink([given.bootstrap], given.out))

if given.recovery:
    store = Path(given.folder) / "recovery"
    store.mkdir()
    init_db_dir(store, 1)
    config = RecoveryConfig(store)
    cluster_main(flow, [], 0, recovery_config=config, epoch_interval=timedelta(seconds=SNAPSHOT_S))
else:
    cluster_main(flow, [], 0)
