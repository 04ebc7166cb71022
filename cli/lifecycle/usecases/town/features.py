"""What is usual for a customer, and what was reported at a terminal."""

from usecases.town.events import customer, labels, terminal

from riskflow.declare import Count, Max, Mean, Sum, Windows

customer_activity = Windows(by=customer, over=["1h", "1d", "7d"], events=[Count()])
customer_amounts = Windows(by=customer, over=["7d"], amount=[Mean(), Max()])
terminal_reports = Windows(by=terminal, on=labels, over=["7d", "14d"], is_fraud=[Sum()])


def amount_to_usual(amount, customer_amounts_amount_mean_7d):
    """This amount over the customer's usual one; NaN for a customer never seen."""
    return amount / customer_amounts_amount_mean_7d
