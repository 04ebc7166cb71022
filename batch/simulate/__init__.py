"""Card payments of an invented town: genuine habits, planted fraud, labels after a delay.

Everything follows from one seed. A world is three tables, the first two in order of time:

    events   event_id, occurred_at_ms, customer_id, terminal_id, amount, channel
    labels   label_id, event_id, is_fraud, labelled_at_ms, source, customer_id, terminal_id, amount
    truth    event_id, is_fraud, scenario   what was planted; never a part of an event, never an input of a model
"""

from batch.simulate.fraud import SCENARIOS, Shares
from batch.simulate.labels import Delays
from batch.simulate.live import live
from batch.simulate.world import World, simulate

__all__ = ["SCENARIOS", "Delays", "Shares", "World", "live", "simulate"]
