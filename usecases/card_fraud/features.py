"""What is known about a payment's customer and terminal when it arrives."""

import numpy as np

from riskflow.declare import Count, Last, Max, Mean, Std, Sum, TimeSinceLast, Windows, mark
from usecases.card_fraud.events import customer, labels, terminal

customer_activity = Windows(by=customer, over=["1h", "1d", "7d", "30d"], events=[Count()], amount=[Sum(), Mean()])
customer_usual = Windows(by=customer, over=["7d"], amount=[Std(), Max()])
terminal_activity = Windows(by=terminal, over=["1d", "7d", "30d"], events=[Count()], amount=[Mean()])
terminal_reports = Windows(by=terminal, on=labels, over=["1d", "7d", "30d"], is_fraud=[Sum()])
terminal_last = Windows(by=terminal, on=labels, over=["30d"], is_fraud=[Last(), TimeSinceLast()])


@mark(by=customer)
def suspicious(amount, customer_activity_amount_mean_30d):
    return amount > 3 * customer_activity_amount_mean_30d


customer_memory = Windows(by=customer, over=["3d", "7d", "14d"], suspicious=[Count()])


def amount_to_usual(amount, customer_activity_amount_mean_30d):
    """This amount over the customer's usual one; NaN for a customer never seen."""
    return amount / customer_activity_amount_mean_30d


def is_night(at_ms):
    return (at_ms // 3_600_000) % 24 <= 6


terminal_unusual = Windows(by=terminal, over=["1d", "7d"], amount_to_usual=[Mean(), Max()])


def report_rate_7d(terminal_reports_is_fraud_sum_7d, terminal_activity_events_count_7d):
    """Frauds known over payments seen."""
    return terminal_reports_is_fraud_sum_7d / np.maximum(terminal_activity_events_count_7d, 1.0)
