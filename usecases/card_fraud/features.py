"""What is known about a payment's customer and terminal when it arrives.

Two stories. A stolen card spends more than its owner does: amounts are held against the customer's habit, from which
such payments are left out. A compromised terminal makes ordinary-looking frauds: reports of fraud that the amount does
not explain are counted at the terminal, beside those that say all was well.
"""

import numpy as np

from riskflow.declare import Count, Max, Mean, Min, TimeSinceLast, Windows, mark
from usecases.card_fraud.events import customer, labels, terminal

FAR_ABOVE = 2.5  # times the usual amount: not a habit
EXPLAINED = 2.0  # times the usual amount: the customer's side explains the fraud
LARGE = 200.0  # so does such an amount


# ---- the customer ----------------------------------------------------------------------------------------------------

customer_activity = Windows(by=customer, over=["1h", "1d", "30d"], events=[Count()])
customer_recent = Windows(by=customer, over=["14d"], amount=[Mean()])


@mark(by=customer)
def usual_amount(amount, customer_recent_amount_mean_14d):
    """The amount, unless it is far above what was usual lately: a thief's payments do not become a habit."""
    if amount > FAR_ABOVE * customer_recent_amount_mean_14d:
        return np.nan
    return amount


customer_habit = Windows(by=customer, over=["30d"], usual_amount=[Mean()])


@mark(by=customer)
def amount_to_usual(amount, customer_habit_usual_amount_mean_30d):
    """This amount over the customer's usual one; NaN for a customer never seen."""
    if customer_habit_usual_amount_mean_30d > 0.0:
        return amount / customer_habit_usual_amount_mean_30d
    return np.nan


@mark(by=customer)
def suspicious(amount_to_usual):
    return amount_to_usual > FAR_ABOVE


customer_memory = Windows(by=customer, over=["8d"], suspicious=[Count()], amount_to_usual=[Max()])


def fraud_report(is_fraud):
    return np.where(is_fraud == 1, 1.0, np.nan)


customer_reports = Windows(by=customer, on=labels, over=["30d"], fraud_report=[Count()])


# ---- what a label says about the terminal ----------------------------------------------------------------------------


@mark(by=customer, on=labels)
def reported_to_usual(amount, customer_habit_usual_amount_mean_30d):
    """The labelled payment's amount over what is usual for the customer when the label arrives."""
    if customer_habit_usual_amount_mean_30d > 0.0:
        return amount / customer_habit_usual_amount_mean_30d
    return np.nan


def clean_report(is_fraud):
    return np.where(is_fraud == 0, 1.0, np.nan)


def unexplained_report(is_fraud, amount, reported_to_usual):
    """A fraud whose amount looks ordinary: the terminal is to blame."""
    explained = (reported_to_usual > EXPLAINED) | (amount > LARGE)
    return np.where((is_fraud == 1) & ~explained, 1.0, np.nan)


def unexplained_at(at_ms, unexplained_report):
    return at_ms * unexplained_report


# ---- the terminal ----------------------------------------------------------------------------------------------------

terminal_activity = Windows(by=terminal, over=["1h", "30d"], events=[Count()])
terminal_lately = Windows(by=terminal, over=["1h"], amount=[Mean()])
terminal_reports = Windows(
    by=terminal, on=labels, over=["8d", "14d", "30d"], clean_report=[Count()], unexplained_report=[Count()]
)
terminal_memory = Windows(
    by=terminal,
    on=labels,
    over=["30d"],
    clean_report=[TimeSinceLast()],
    unexplained_report=[TimeSinceLast()],
    unexplained_at=[Min()],
)


def large_amount(amount):
    """The upper end once more: boosted trees sort values into 255 bins, and would put all of it into one."""
    return np.where(amount > 150.0, amount, np.nan)


def high_ratio(amount_to_usual):
    return np.where(amount_to_usual > 1.5, amount_to_usual, np.nan)


def last_report_age(
    terminal_memory_clean_report_time_since_last_30d, terminal_memory_unexplained_report_time_since_last_30d
):
    return np.fmin(
        terminal_memory_clean_report_time_since_last_30d, terminal_memory_unexplained_report_time_since_last_30d
    )


def last_report_unexplained(
    terminal_memory_clean_report_time_since_last_30d, terminal_memory_unexplained_report_time_since_last_30d
):
    """Whether the newest report at the terminal is an unexplained fraud; NaN when none is known."""
    clean, bad = (
        np.where(np.isnan(age), np.inf, age)
        for age in (
            terminal_memory_clean_report_time_since_last_30d,
            terminal_memory_unexplained_report_time_since_last_30d,
        )
    )
    return np.where(np.isinf(clean) & np.isinf(bad), np.nan, bad <= clean)


def first_unexplained_age(at_ms, terminal_memory_unexplained_at_min_30d):
    """Seconds since the first unexplained fraud was reported: how far a compromise has run."""
    return (at_ms - terminal_memory_unexplained_at_min_30d) / 1000
