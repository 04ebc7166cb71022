"""Sixteen numbers: how many payments and how much money before this one, of its customer and at its terminal."""

from usecases.peers_job.events import customer, terminal

from riskflow.declare import Count, Sum, Windows

_WINDOWS = ["1h", "1d", "7d", "30d"]

of_customer = Windows(by=customer, over=_WINDOWS, events=[Count()], amount=[Sum()])
of_terminal = Windows(by=terminal, over=_WINDOWS, events=[Count()], amount=[Sum()])
